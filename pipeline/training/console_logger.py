"""Progress lines of a run, and warnings about collapsed or stalled training."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.io.console import Pace, amount, duration, say
from pipeline.io.progress import Screen, has_bars
from pipeline.run.metadata import Plateau
from pipeline.training.metrics import FLAT_NAME
from pipeline.training.trainer import StepReport, Trainer

# Percentage of people with flat heatmaps from which on a network counts as collapsed.
_COLLAPSED_PERCENT = 95.0
# A young network may still predict only background.
_COLLAPSED_EVALUATIONS = 2
# Epochs without improvement before a warning: twice the patience that drops the learning rate.
_STALLED_EPOCHS = 10


# The line of a step, wherever Ray prints it: epoch, epochs, step, steps, and the rest.
_STEP = re.compile(r"\bepoch (\d+)/(\d+)  step (\d+)/(\d+)  (.*)")
# Seconds between two lines of steps, and where a bar shows them.
_LINE_EVERY_S, _SHOWN_EVERY_S = 5.0, 1.0


def step_line(step: StepReport, epochs: int, score: str, left: str) -> str:
    """Describe a step of the epoch: loss, the last `score` if any, speed, and the time left."""
    return (
        f"epoch {step.epoch + 1}/{epochs}  step {step.step}/{step.steps}  "
        f"loss {step.loss:.4g}  {score}{amount(step.samples_per_s, 0)} samples/s  "
        f"input wait {step.input_wait_share:.0%}  left {left}"
    )


def line_every_s() -> float:
    """Seconds between two lines of steps, for workers whose lines this process prints."""
    return _SHOWN_EVERY_S if has_bars() else _LINE_EVERY_S


@contextmanager
def epoch_bars() -> Iterator[None]:
    """Show lines of steps, which workers print through this process, as a bar for each epoch."""
    if not has_bars():
        yield
        return
    with Screen(lambda line: _shows(screen, line), leaves=False) as screen:
        yield


def _shows(screen: Screen, line: str) -> bool:
    """Show a line as the bar of its epoch, if it is that of a step."""
    found = _STEP.search(line)
    if found is None:
        return False
    epoch, epochs, step, steps, rest = found.groups()
    note = "evaluating" if step == steps else rest
    screen.show(f"epoch {epoch}/{epochs}", int(step), int(steps), "steps", note)
    return True


class TrainingWarnings:
    """Warnings after an evaluation, each given once, and again only after a recovery."""

    def __init__(self, headline: str) -> None:
        self._headline = headline
        self._flat_in_a_row = 0

    def after(self, epoch: int, flat_percent: float, plateau: Plateau) -> list[str]:
        """Return the new warnings after an epoch's evaluation."""
        is_flat = flat_percent >= _COLLAPSED_PERCENT
        self._flat_in_a_row = self._flat_in_a_row + 1 if is_flat else 0
        found = []
        if self._flat_in_a_row == _COLLAPSED_EVALUATIONS:
            found.append(
                f"warning: heatmaps are flat for {flat_percent:.0f}% of validation people: the "
                "network has collapsed to predicting nothing; try optim.zero_heads=True, "
                "optim.target_peak=10 or optim.loss=cross-entropy"
            )
        if plateau.best is not None and plateau.epochs_since == _STALLED_EPOCHS:
            best_epoch = epoch - plateau.epochs_since
            stalled = (
                f"warning: {self._headline} has not improved in {_STALLED_EPOCHS} epochs; its "
                f"best, {plateau.best:.2f}, was after epoch {best_epoch}"
            )
            if best_epoch <= _STALLED_EPOCHS:
                stalled += (
                    ": the network is no better than at the start; check the joints in "
                    "samples.png, and optim.learning_rate"
                )
            found.append(stalled)
        return found


class ConsoleLogger:
    """Prints on rank 0 epoch, loss, accuracy, speed and time left. `label` begins every line."""

    def __init__(self, trainer: Trainer, label: str) -> None:
        self._trainer, self._epochs = trainer, trainer.settings.optim.epochs
        self._label = f"{label}: " if label else ""
        self._before = trainer.state.progress.samples
        self._pace = Pace(0)
        self._score = ""
        self._warnings = TrainingWarnings(trainer.measure.headline)
        self._printed: set[str] = set()
        self._decoded = 0

    def stepped(self, step: StepReport) -> None:
        """Print the epoch's progress, except at a mere request, and a skipped step's reason."""
        if self._trainer.rank != 0:
            return
        for line in step.left_out:
            say(f"{self._label}{line}")
        if step.step == step.steps or not (step.request or step.left_out):
            say(self._label + step_line(step, self._epochs, self._score, self._left()))
        if step.step == step.steps:
            self._say_decoded()

    def _say_decoded(self) -> None:
        """Print how many decoded crops this rank holds, if their number has grown."""
        held = self._trainer.decoded
        if held is not None and held.count > self._decoded:
            self._decoded = held.count
            say(
                f"{self._label}decoded crops in memory: {held.count:,} of {len(held):,}, "
                f"{held.used / 1e9:.2g} GB in a worker"
            )

    def passed_over(self) -> None:
        """Print the bad samples that were skipped since the last call, on every rank."""
        found = self._trainer.bad_samples()
        for place, message in found.items():
            if place not in self._printed:
                say(f"{self._label}rank {self._trainer.rank} skipped {message}")
        self._printed = set(found)

    def evaluated(self, metrics: dict[str, float]) -> None:
        """Print an epoch's losses and accuracy, and new warnings."""
        measure, state = self._trainer.measure, self._trainer.state
        epoch = state.progress.epochs
        self._score = f"{measure.headline} {metrics[measure.metric_name]:.2f}  "
        if self._trainer.rank == 0:
            say(
                f"{self._label}epoch {epoch}/{self._epochs} evaluated  "
                f"train loss {metrics['train_loss']:.4g}  val loss {metrics['val_loss']:.4g}  "
                f"{self._score}left {self._left()}"
            )
            for warning in self._warnings.after(epoch, metrics[FLAT_NAME], state.plateau):
                say(f"{self._label}{warning}")
            optim, since = self._trainer.settings.optim, state.plateau.epochs_since
            if optim.has_stalled(since):
                ended = optim.describe_end(measure.headline, epoch, since)
                say(f"{self._label}training ends {ended}")

    def _left(self) -> str:
        samples = self._trainer.state.progress.samples - self._before
        return duration(self._pace.left_s(samples, self._trainer.samples_in_all - self._before))
