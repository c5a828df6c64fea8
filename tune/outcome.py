"""What came of a sweep's trials: plain data, from which the leaderboard and the report are made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

# finished: all its epochs; stopped: by the scheduler or the budget; failed: by an error, also
# after it was tried again; unfinished: the sweep ended before it did.
Status = Literal["finished", "stopped", "failed", "unfinished"]


@dataclass(frozen=True, kw_only=True)
class TrialOutcome:
    """A trial: what it varied, what it cost, and what it has reached so far."""

    name: str
    point: Mapping[str, Any]
    """The replaced settings, by dotted key."""
    status: Status
    score: float
    """Best headline, a percentage; NaN if it was never evaluated."""
    best_epoch: int
    samples: int
    """Training samples that it has seen."""
    seconds: float
    """Wall time, over all its starts."""
    samples_per_s: float
    """Training samples a second, median over its epochs; NaN if it has none."""
    parameters: int
    macs: float
    """Multiply-accumulates of one forward pass of one image."""
    checkpoint: Path | None
    """Its best checkpoint."""
    error: str
    """Why it failed; empty otherwise."""
    history: Mapping[str, Sequence[tuple[int, float]]]
    """(training samples seen, value) after each epoch, by metric: the headline, train_loss and val_loss."""


@dataclass(frozen=True, kw_only=True)
class SweepOutcome:
    """All trials of a sweep, as they stand."""

    name: str
    headline: str
    """What trials are ranked by, as people read it: `PCKh@0.5`."""
    metric: str
    """The same as MLflow's metric and the key in histories: `pckh_0.5`."""
    axes: Mapping[str, Sequence[Any]]
    """The settings that vary, by dotted key, and the values that trials took."""
    trials: Sequence[TrialOutcome]
    command: Sequence[str]
    """The settings that all trials share and that are not defaults, as arguments: `--data.train`, `x-*.tar`, ..."""
    how: str = ""
    """How points were chosen and trials stopped, in a sentence; empty: nothing is said of it."""
