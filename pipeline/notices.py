"""What people should hear of a training that goes wrong slowly, worked out from its evaluations."""

from pipeline.run.metadata import Plateau

# A share of people with flat heatmaps from which on a network counts as collapsed, in percent.
_COLLAPSED_PERCENT = 95.0
# A young network may still be finding out that there is anything but background.
_COLLAPSED_EVALUATIONS = 2
# Epochs without a better accuracy after which it is said: twice the patience that drops the rate.
_STALLED_EPOCHS = 10


class Notices:
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
