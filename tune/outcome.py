"""The outcome of a sweep's trials as plain data, for the leaderboard and the report."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipeline.run.storage import shown

# finished: ran all its epochs, or ended itself early (optim.stop_after); stopped: by the scheduler
# or the budget; failed: with an error, also when it was retried; unfinished: the sweep ended before
# the trial did.
Status = Literal["finished", "stopped", "failed", "unfinished"]


@dataclass(frozen=True, kw_only=True)
class TrialOutcome:
    """A trial: what it varied, what it cost, and what it has reached so far."""

    name: str
    point: Mapping[str, Any]
    """The replaced settings, by dotted key."""
    status: Status
    score: float = math.nan
    """Best value of the primary metric, a percentage; NaN if the trial was never evaluated."""
    best_epoch: int = 0
    """Epoch of the score, from 1; 0 without a score."""
    samples: int = 0
    """Training samples seen."""
    seconds: float = 0.0
    """Wall time, over all starts."""
    samples_per_s: float = math.nan
    """Training samples a second, median over the epochs; NaN without an epoch."""
    parameters: int = 0
    macs: float = math.nan
    """Multiply-accumulates of one forward pass of one image."""
    checkpoint: Path | None = None
    """The best checkpoint."""
    error: str = ""
    """Why the trial failed; empty otherwise."""
    cut_from: str = ""
    """The trial from whose network this one's was cut; empty if it was trained."""
    history: Mapping[str, Sequence[tuple[int, float]]] = field(default_factory=dict)
    """(training samples seen, value) after each epoch, by metric: primary, train_loss, val_loss."""

    @property
    def checkpoint_place(self) -> str:
        """Where users find the best checkpoint, which may be in a bucket; empty without one."""
        return "" if self.checkpoint is None else shown(self.checkpoint)


@dataclass(frozen=True, kw_only=True)
class SweepOutcome:
    """All trials of a sweep, as they stand."""

    name: str
    headline: str
    """Title of the primary metric, by which trials are ranked: `PCKh@0.5`."""
    metric: str
    """Its name in MLflow and in histories: `pckh_0.5`."""
    axes: Mapping[str, Sequence[Any]]
    """The settings that vary, by dotted key, and the values that trials took."""
    trials: Sequence[TrialOutcome]
    command: Sequence[str]
    """Settings shared by all trials that are not defaults, as arguments: `--data.train`, ..."""
    how: str = ""
    """How points were chosen and trials stopped, in a sentence; may be empty."""

    @property
    def samples(self) -> int:
        """Training samples that all trials have seen."""
        return sum(trial.samples for trial in self.trials if not trial.cut_from)
