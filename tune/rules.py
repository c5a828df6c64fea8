"""A sweep's rule for early stopping as a Ray Tune scheduler, which survives a kill."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from tune.settings import EarlySettings

# Fewest trials whose running means give a meaningful median.
_MEDIAN_OF = 3

# Returns the reports of a trial so far, in order, over all its starts.
Reported = Callable[[Any], Sequence[dict[str, Any]]]


def rule(
    early: EarlySettings, epoch_samples: int, samples: int, reported: Reported = lambda trial: ()
) -> TrialScheduler:
    """Return the scheduler that ends trials early.

    `epoch_samples` are the training samples of an epoch, `samples` those of a whole trial. Ray Tune
    does not keep a scheduler's state when it is killed. So the scheduler calls `reported` for each
    trial that is added, and replays the reports that it returns.
    """
    grace = early.grace_samples or epoch_samples
    if early.rule == "asha":
        return Asha(
            reported,
            max_t=max(samples, grace),
            grace_period=grace,
            reduction_factor=early.reduction,
            # A trial that has run all its epochs ends by itself, with its records closed.
            stop_last_trials=False,
        )
    if early.rule == "median":
        return Median(reported, grace_period=grace, min_samples_required=_MEDIAN_OF)
    return FIFOScheduler()


class _Remembering(TrialScheduler):
    """A scheduler that judges by training samples, and each report once, also after a restart."""

    def __init__(self, reported: Reported, **options: Any) -> None:
        super().__init__(time_attr="samples", metric="score", mode="max", **options)
        self._reported, self._reached = reported, defaultdict[str, int](int)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Add a trial, and replay its reports from before."""
        super().on_trial_add(tune_controller, trial)
        for report in self._reported(trial):
            if self._is_new(trial, report):
                self._replay(tune_controller, trial, report)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if not self._is_new(trial, result):
            return TrialScheduler.CONTINUE
        return str(super().on_trial_result(tune_controller, trial, result))

    def _is_new(self, trial: Any, report: dict[str, Any]) -> bool:
        """Tell whether a report goes beyond those before, and note it."""
        if report.get("samples", 0) <= self._reached[trial.trial_id]:
            return False
        self._reached[trial.trial_id] = report["samples"]
        return True


class Asha(_Remembering, ASHAScheduler):
    """Asynchronous successive halving (Li et al., MLSys 2020) by training samples."""

    # Records the report on its rungs. The verdict is void: the trial had passed, or has ended.
    _replay = ASHAScheduler.on_trial_result


class Median(_Remembering, MedianStoppingRule):
    """The median stopping rule (Golovin et al., KDD 2017) by training samples."""

    # Records the report without judging it.
    _replay = MedianStoppingRule.on_trial_complete
