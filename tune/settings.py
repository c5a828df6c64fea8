"""Settings of a sweep beside those of training: search, early stopping and budget."""

from dataclasses import dataclass
from typing import Literal

from pipeline.settings.check import require, require_at_least

Method = Literal["grid", "random", "tpe"]
Against = Literal["none", "gmac", "samples_per_s"]


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """Choice of the points that are tried."""

    method: Method = "grid"
    """grid: every point; random: points drawn uniformly; tpe: points drawn where Optuna's
    tree-structured Parzen estimator expects the best."""
    trials: int = 0
    """Number of trials that random and tpe draw; a grid has one for each point."""
    seed: int = 0
    """Seed of the draws, and of a grid's order if trials can be stopped early."""
    against: Against = "none"
    """With tpe, a second objective beside accuracy: fewest multiply-accumulates of a network
    (gmac), or most training samples a second (samples_per_s). Their Pareto front is reported."""
    at_once: int = 0
    """Most trials at once; 0: as many as the cluster holds."""
    retries: int = 1
    """Number of times that a failed trial is retried, from its last checkpoint."""

    def __post_init__(self) -> None:
        require(
            self.trials == 0 if self.method == "grid" else self.trials >= 1,
            "search.trials",
            "at least 1 with search.method=random or tpe, else 0",
            self.trials,
        )
        require(
            self.against == "none" or self.method == "tpe",
            "search.against",
            "none without search.method=tpe",
            self.against,
        )
        require_at_least(self, "search", 0, "seed", "at_once", "retries")


@dataclass(frozen=True, kw_only=True)
class EarlySettings:
    """Choice of the trials that end early, judged after equal numbers of training samples."""

    rule: Literal["none", "asha", "median"] = "none"
    """none; asha: asynchronous successive halving (Li et al., MLSys 2020), the best trials at each
    rung continue; median: trials below the median of the others' running means end (Golovin et
    al., KDD 2017)."""
    grace_samples: int = 0
    """Fewest training samples of a trial, and asha's first rung; 0: one epoch."""
    reduction: float = 4.0
    """One in this many trials that come to a rung of asha continues; rungs lie at grace_samples
    times powers of this number."""

    def __post_init__(self) -> None:
        require_at_least(self, "early", 0, "grace_samples")
        require(self.reduction > 1, "early.reduction", "above 1", self.reduction)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Bounds on all trials together; when one is reached, trials write a checkpoint and stop."""

    samples: int = 0
    """Training samples; 0: no bound."""
    gpu_hours: float = 0.0
    """GPU-hours; 0: no bound."""
    hours: float = 0.0
    """Hours of wall time while the sweep runs; 0: no bound."""

    def __post_init__(self) -> None:
        require_at_least(self, "budget", 0, "samples", "gpu_hours", "hours")

    def reached_by(self, *, samples: int, gpu_hours: float, hours: float) -> str:
        """Name the bound that has been reached, as `budget.samples=20`; empty if none has."""
        for name, used in (("samples", samples), ("gpu_hours", gpu_hours), ("hours", hours)):
            bound = getattr(self, name)
            if bound and used >= bound:
                return f"budget.{name}={bound:g}"
        return ""
