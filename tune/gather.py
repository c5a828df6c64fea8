"""The outcome of a sweep, gathered from the journals of its runs rather than Ray Tune's memory."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.model.cost import network_cost
from pipeline.run.checkpoint_manager import best
from pipeline.run.journal import Journal
from pipeline.run.plan import Plan
from tune.epochs import reports, was_stopped
from tune.outcome import Status, SweepOutcome, TrialOutcome
from tune.plan import Cut, Sweep
from tune.report.command import shared_arguments
from tune.spaces import Point
from tune.trial import plan_trial, run_name


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A trial as Ray Tune knows it: its point, its number among drawn points, and its error."""

    point: Point
    number: str
    error: str

    @property
    def name(self) -> str:
        return run_name(self.point, self.number)


def gather(
    sweep: Sweep, tried: Sequence[Tried], cut_errors: Mapping[str, str] = {}
) -> SweepOutcome:
    """Read the outcome of the trials from the journals of their runs.

    `cut_errors` has the errors of cuts that failed, by name.
    """
    begun = [one.point for one in tried]
    # Ray Tune creates a grid's trials one by one, and may have ended before the last.
    missing = [point for point in sweep.points if sweep.is_grid and point not in begun]
    never = [Tried(point=point, number="", error="") for point in missing]
    trials = [_trial(sweep, one) for one in (*tried, *never)]
    trials += [_cut_trial(sweep, cut, trials, cut_errors) for cut in sweep.cuts]
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


def _cut_trial(
    sweep: Sweep, cut: Cut, trials: Sequence[TrialOutcome], errors: Mapping[str, str]
) -> TrialOutcome:
    """Read the outcome of a cut trial, which ended as its whole one unless the cut failed."""
    whole = next(trial for trial in trials if trial.point == cut.whole)
    own = errors.get(run_name(cut.point, ""), "")
    found = _trial(sweep, Tried(point=cut.point, number="", error=own or whole.error))
    reached = reports(Journal(sweep.folder / found.name), sweep.measure.metric_name)[-1:]
    return replace(
        found,
        cut_from=whole.name,
        status="failed" if own else whole.status,
        samples=reached[0]["samples"] if reached else 0,
        # Unknown: it was not trained alone.
        seconds=math.nan,
    )


def _trial(sweep: Sweep, tried: Tried) -> TrialOutcome:
    try:
        plan = plan_trial(sweep.base, tried.point, tried.number)
    except ValueError as error:
        # Each value may be drawn, but not all of them together.
        return TrialOutcome(name=tried.name, point=tried.point, status="failed", error=str(error))
    journal, metric = Journal(plan.folder), sweep.measure.metric_name
    last = reports(journal, metric)[-1:]
    reached = {
        key: report[key]
        for report in last
        for key in ("score", "best_epoch", "samples", "seconds", "samples_per_s")
    }
    if plan.resumes is not None:
        reached["samples"] = plan.resumes.progress.samples
    cost = network_cost(plan.settings.model)
    chosen = best(plan.folder, metric)
    return TrialOutcome(
        name=plan.settings.ray.name,
        point=tried.point,
        status=_status(plan, journal, tried.error),
        parameters=cost.parameters,
        macs=cost.macs,
        checkpoint=None if chosen is None else chosen[0],
        error=tried.error,
        history=_history(journal, metric),
        **reached,
    )


def _status(plan: Plan, journal: Journal, error: str) -> Status:
    if error:
        return "failed"
    if plan.is_complete:
        return "finished"
    return "stopped" if was_stopped(journal) else "unfinished"


def _history(journal: Journal, metric: str) -> dict[str, list[tuple[int, float]]]:
    """Return (training samples seen, value) after each epoch, by metric."""
    found = journal.history(["samples", metric, "train_loss", "val_loss"])
    samples = {epoch: int(seen) for epoch, seen in found.pop("samples")}
    return {
        name: [(samples[epoch], value) for epoch, value in values if epoch in samples]
        for name, values in found.items()
    }
