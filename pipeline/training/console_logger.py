"""Progress lines of a run, and warnings about training that goes wrong slowly."""

from pipeline.io.console import Pace, duration, say
from pipeline.run.metadata import Plateau
from pipeline.training.metrics import FLAT_NAME
from pipeline.training.trainer import StepReport, Trainer

# A share of people with flat heatmaps from which on a network counts as collapsed, in percent.
_COLLAPSED_PERCENT = 95.0
# A young network may still be finding out that there is anything but background.
_COLLAPSED_EVALUATIONS = 2
# Epochs without a better accuracy after which it is said: twice the patience that drops the rate.
_STALLED_EPOCHS = 10


class TrainingWarnings:
    """Finds what is new in each evaluation. `headline` is what accuracy is called."""

    def __init__(self, headline: str) -> None:
        self._headline = headline
        self._flat_in_a_row = 0

    def after(self, epoch: int, flat_percent: float, plateau: Plateau) -> list[str]:
        """What is to be said after an epoch's evaluation; each thing once, and again only when it had been better."""
        is_flat = flat_percent >= _COLLAPSED_PERCENT
        self._flat_in_a_row = self._flat_in_a_row + 1 if is_flat else 0
        found = []
        if self._flat_in_a_row == _COLLAPSED_EVALUATIONS:
            found.append(
                f"note: the heatmaps of {flat_percent:.0f} % of validation people are flat: the network "
                "has settled on predicting nothing; optim.zero_heads=True, optim.target_peak=10 or "
                "optim.loss=cross-entropy help it out"
            )
        if plateau.best is not None and plateau.epochs_since == _STALLED_EPOCHS:
            found.append(self._stalled(epoch - plateau.epochs_since, plateau.best))
        return found

    def _stalled(self, best_epoch: int, best: float) -> str:
        said = (
            f"note: {self._headline} has not risen in {_STALLED_EPOCHS} epochs; its best, {best:.2f}, "
            f"was after epoch {best_epoch}"
        )
        if best_epoch > _STALLED_EPOCHS:
            return said
        return (
            f"{said}: the network does not get better than it was at first; look at samples.png, "
            "whether joints are where they should be, and at optim.learning_rate"
        )


class ConsoleLogger:
    """Says on rank 0 how training goes: epoch, loss, accuracy, speed, time left."""

    def __init__(self, trainer: Trainer, label: str) -> None:
        self._trainer = trainer
        self._label = f"{label}: " if label else ""
        self._before = trainer.progress.samples
        self._pace = Pace(0)
        self._score = ""
        self._notices = TrainingWarnings(trainer.measure.headline)
        self._told: set[str] = set()

    def stepped(self, step: StepReport) -> None:
        """Say where an epoch stands, but not at a mere signal, and which step was left out."""
        if self._trainer.rank != 0:
            return
        if step.left_out:
            say(f"{self._label}{step.left_out}")
        if step.step == step.steps or not (step.request or step.left_out):
            say(
                f"{self._label}epoch {step.epoch + 1}/{self._trainer.settings.optim.epochs}  "
                f"step {step.step}/{step.steps}  loss {step.loss:.4g}  {self._score}"
                f"{step.samples_per_s:.0f} samples/s  "
                f"input wait {step.input_wait_share:.0%}  left {self._left()}"
            )

    def passed_over(self) -> None:
        """Name the bad samples that are new; every rank speaks of its own."""
        found = self._trainer.bad_samples()
        for place, message in found.items():
            if place not in self._told:
                say(f"{self._label}rank {self._trainer.rank} passed over {message}")
        self._told = set(found)

    def evaluated(self, metrics: dict[str, float]) -> None:
        """Say how accurate the network is after an epoch."""
        trainer = self._trainer
        measure = trainer.measure
        self._score = f"{measure.headline} {metrics[measure.metric_name]:.2f}  "
        if trainer.rank == 0:
            say(
                f"{self._label}epoch {trainer.progress.epochs}/{trainer.settings.optim.epochs} evaluated  "
                f"train loss {metrics['train_loss']:.4g}  val loss {metrics['val_loss']:.4g}  "
                f"{self._score}left {self._left()}"
            )
            epoch, flat = trainer.progress.epochs, metrics[FLAT_NAME]
            for notice in self._notices.after(epoch, flat, trainer.plateau):
                say(f"{self._label}{notice}")

    def _left(self) -> str:
        trainer = self._trainer
        done = trainer.progress.samples - self._before
        return duration(self._pace.left_s(done, trainer.samples_in_all - self._before))
