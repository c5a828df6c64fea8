"""From the runs of a sweep to what came of them. What counts is in their journals, not in Ray Tune's memory."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.model.cost import network_cost
from pipeline.run.checkpoint_manager import best
from pipeline.run.journal import Journal
from pipeline.run.plan import Plan
from tune.epochs import reports, was_stopped
from tune.outcome import Status, SweepOutcome, TrialOutcome
from tune.plan import Sweep
from tune.report.command import shared_arguments
from tune.spaces import Point
from tune.trial import plan_trial, run_name


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What Ray Tune says of a trial: its point, its number where points are drawn, and what it failed with."""

    point: Point
    number: str
    error: str


def gather(sweep: Sweep, tried: Sequence[Tried]) -> SweepOutcome:
    """What came of the trials, as the journals of their runs have it."""
    begun = [one.point for one in tried]
    # Ray Tune makes a grid's trials one after another, and may have been ended before the last.
    missing = [point for point in sweep.points if sweep.is_grid and point not in begun]
    never = [Tried(point=point, number="", error="") for point in missing]
    trials = [_trial(sweep, one) for one in (*tried, *never)]
    axes = {
        key: tuple(dict.fromkeys(trial.point[key] for trial in trials)) for key in sweep.space.keys
    }
    return SweepOutcome(
        name=sweep.name,
        headline=sweep.measure.headline,
        metric=sweep.measure.metric_name,
        axes=axes,
        trials=trials,
        command=shared_arguments(sweep.base, sweep.space.keys),
        how=sweep.how,
    )


def _trial(sweep: Sweep, tried: Tried) -> TrialOutcome:
    try:
        plan = plan_trial(sweep.base, tried.point, tried.number)
    except ValueError as error:
        # Settings of which each may be drawn, but not all together.
        return _never_planned(tried, str(error))
    journal, metric = Journal(plan.folder), sweep.measure.metric_name
    epochs = reports(journal, metric)
    last: Mapping[str, Any] = epochs[-1] if epochs else {}
    cost = network_cost(plan.settings.model)
    chosen = best(plan.folder, metric)
    return TrialOutcome(
        name=plan.settings.ray.name,
        point=tried.point,
        status=_status(plan, journal, tried.error),
        score=last.get("score", math.nan),
        best_epoch=last.get("best_epoch", 0),
        samples=last.get("samples", 0) if plan.resumes is None else plan.resumes.progress.samples,
        seconds=last.get("seconds", 0.0),
        samples_per_s=last.get("samples_per_s", math.nan),
        parameters=cost.parameters,
        macs=cost.macs,
        checkpoint=None if chosen is None else chosen[0],
        error=tried.error,
        history=_history(journal, metric),
    )


def _never_planned(tried: Tried, error: str) -> TrialOutcome:
    return TrialOutcome(
        name=run_name(tried.point, tried.number),
        point=tried.point,
        status="failed",
        score=math.nan,
        best_epoch=0,
        samples=0,
        seconds=0.0,
        samples_per_s=math.nan,
        parameters=0,
        macs=math.nan,
        checkpoint=None,
        error=error,
        history={},
    )


def _status(plan: Plan, journal: Journal, error: str) -> Status:
    if error:
        return "failed"
    if plan.is_complete:
        return "finished"
    return "stopped" if was_stopped(journal) else "unfinished"


def _history(journal: Journal, metric: str) -> dict[str, list[tuple[int, float]]]:
    """(training samples seen, value) after each epoch, by metric."""
    found = journal.history(["samples", metric, "train_loss", "val_loss"])
    samples = {epoch: int(seen) for epoch, seen in found.pop("samples")}
    return {
        name: [(samples[epoch], value) for epoch, value in values if epoch in samples]
        for name, values in found.items()
    }
