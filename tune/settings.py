"""How a sweep chooses points, stops trials early, and ends: its own settings, beside those of training."""

from dataclasses import dataclass
from typing import Literal

Method = Literal["grid", "random", "tpe"]
Against = Literal["none", "gmac", "samples_per_s"]


def _require(ok: bool, key: str, expected: str, got: object) -> None:
    if not ok:
        raise ValueError(f"{key} must be {expected}, got {got!r}")


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """Which points of the space are tried."""

    method: Method = "grid"
    """grid: every point; random: points drawn evenly; tpe: points drawn where Optuna's tree-structured Parzen estimator expects the best."""
    trials: int = 0
    """Trials that random and tpe draw; a grid has as many as points."""
    seed: int = 0
    """Seed of the drawing, and of the order in which a grid is tried where trials can be stopped early."""
    against: Against = "none"
    """With tpe, a second aim beside accuracy: the fewest multiply-accumulates of a network (gmac), or the most training samples a second (samples_per_s); their Pareto front is reported."""
    at_once: int = 0
    """Trials at once at most; 0: as many as the cluster holds."""
    retries: int = 1
    """Times that a failed trial is tried again, from its last checkpoint."""

    def __post_init__(self) -> None:
        drawn = self.method != "grid"
        _require(
            self.trials >= 1 if drawn else self.trials == 0,
            "search.trials",
            "at least 1 with search.method=random or tpe, else 0",
            self.trials,
        )
        _require(
            self.against == "none" or self.method == "tpe",
            "search.against",
            "none without search.method=tpe",
            self.against,
        )
        for name in ("seed", "at_once", "retries"):
            value = getattr(self, name)
            _require(value >= 0, f"search.{name}", "at least 0", value)


@dataclass(frozen=True, kw_only=True)
class EarlySettings:
    """Which trials end before they have had all their epochs, judged after equal numbers of training samples."""

    rule: Literal["none", "asha", "median"] = "none"
    """none; asha: asynchronous successive halving (Li et al., MLSys 2020), of those that come to a rung the best go on; median: below the median of the others' running means (Golovin et al., KDD 2017)."""
    grace_samples: int = 0
    """Training samples that every trial has at least, and asha's first rung; 0: one epoch."""
    reduction: float = 4.0
    """Of so many trials that come to a rung of asha one goes on; rungs lie at grace_samples times its powers."""

    def __post_init__(self) -> None:
        _require(self.grace_samples >= 0, "early.grace_samples", "at least 0", self.grace_samples)
        _require(self.reduction > 1, "early.reduction", "above 1", self.reduction)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What the trials of a sweep may take together; when it is used up, they keep a checkpoint and stop."""

    samples: int = 0
    """Training samples; 0: no bound."""
    gpu_hours: float = 0.0
    """Hours of a GPU; 0: no bound."""
    hours: float = 0.0
    """Hours of wall time while the sweep runs; 0: no bound."""

    def __post_init__(self) -> None:
        for name in ("samples", "gpu_hours", "hours"):
            value = getattr(self, name)
            _require(value >= 0, f"budget.{name}", "at least 0", value)

    def reached_by(self, *, samples: int, gpu_hours: float, hours: float) -> str:
        """Which bound has been reached, in words; empty if none has."""
        for name, used in (("samples", samples), ("gpu_hours", gpu_hours), ("hours", hours)):
            bound = getattr(self, name)
            if bound and used >= bound:
                return f"budget.{name}={bound:g}"
        return ""
