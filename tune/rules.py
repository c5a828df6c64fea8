"""A sweep's rule for early stopping, as Ray Tune's object, which remembers across a kill."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from ray.tune.schedulers import (
    ASHAScheduler,
    FIFOScheduler,
    MedianStoppingRule,
    TrialScheduler,
)

from tune.settings import EarlySettings

_TIME, _SCORE = "samples", "score"
# Trials whose running means make a median that says something.
_MEDIAN_OF = 3

# What a trial has reported so far, in order, over all its starts.
Told = Callable[[Any], Sequence[dict[str, Any]]]


def rule(
    early: EarlySettings, epoch_samples: int, samples: int, told: Told = lambda trial: ()
) -> TrialScheduler:
    """What ends trials early. `epoch_samples` are those of an epoch, `samples` those of a whole trial.

    Ray Tune keeps nothing of a rule when it is killed. When it adds a trial that
    it knows from before, the rule asks `told` what the trial had reported.
    """
    grace = early.grace_samples or epoch_samples
    if early.rule == "asha":
        return Asha(told, grace, max(samples, grace), early.reduction)
    return Median(told, grace) if early.rule == "median" else FIFOScheduler()


class Remembered:
    """How many samples each trial's reports have come to; one of before the kill that comes again is none."""

    def __init__(self, told: Told) -> None:
        self._told, self._reached = told, defaultdict[str, int](int)

    def new_of(self, trial: Any) -> list[dict[str, Any]]:
        """What a trial had reported that is not known yet."""
        return [report for report in self._told(trial) if self.is_new(trial, report)]

    def is_new(self, trial: Any, report: dict[str, Any]) -> bool:
        """Whether a report goes beyond those before; afterwards it is one of them."""
        if report.get(_TIME, 0) <= self._reached[trial.trial_id]:
            return False
        self._reached[trial.trial_id] = report[_TIME]
        return True


class Asha(ASHAScheduler):
    """Asynchronous successive halving (Li et al., MLSys 2020) by training samples."""

    def __init__(self, told: Told, grace: int, samples: int, reduction: float) -> None:
        super().__init__(
            time_attr=_TIME,
            metric=_SCORE,
            mode="max",
            max_t=samples,
            grace_period=grace,
            reduction_factor=reduction,
            # A trial that has all its epochs ends by itself, in good order.
            stop_last_trials=False,
        )
        self._remembered = Remembered(told)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Enter a trial, and on the rungs what it had reported. It had passed them, or has ended."""
        super().on_trial_add(tune_controller, trial)
        for report in self._remembered.new_of(trial):
            super().on_trial_result(tune_controller, trial, report)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Judge a report."""
        if not self._remembered.is_new(trial, result):
            return TrialScheduler.CONTINUE
        return str(super().on_trial_result(tune_controller, trial, result))


class Median(MedianStoppingRule):
    """The median stopping rule (Golovin et al., KDD 2017) by training samples."""

    def __init__(self, told: Told, grace: int) -> None:
        super().__init__(
            time_attr=_TIME,
            metric=_SCORE,
            mode="max",
            grace_period=grace,
            min_samples_required=_MEDIAN_OF,
        )
        self._remembered = Remembered(told)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Enter a trial, and what it had reported, without judging that."""
        super().on_trial_add(tune_controller, trial)
        for report in self._remembered.new_of(trial):
            super().on_trial_complete(tune_controller, trial, report)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Judge a report."""
        if not self._remembered.is_new(trial, result):
            return TrialScheduler.CONTINUE
        return str(super().on_trial_result(tune_controller, trial, result))
