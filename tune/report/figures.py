"""The figures of a sweep's report, each with a sentence that explains it."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from matplotlib.figure import Figure

from tune.figures.curves import learning_curves
from tune.figures.parallel_coordinates import parallel_coordinates
from tune.figures.scatter import Dot, scores_against, trials_against
from tune.outcome import SweepOutcome, TrialOutcome
from tune.report.leaderboard import competes, differing_keys, pareto_front, ranked, ranks
from tune.report.values import axis_values, distinct, is_number, short_keys, shortened

# Settings that make a trial dearer as they grow.
_COSTLY = ("model.stacks", "model.modules", "model.features", "optim.epochs")
_NAME_LETTERS = 30


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure with the name of its file, a title and an explanation."""

    name: str
    title: str
    sentence: str
    figure: Figure


@dataclass(frozen=True)
class _Cost:
    name: str
    label: str
    value_of: Callable[[TrialOutcome], float]
    more_is_better: bool = False


def pictures(outcome: SweepOutcome) -> list[Picture]:
    """Draw the figures of a report, in its order, for settings and costs that differ."""
    trials = ranked(outcome)
    scored = [trial for trial in trials if math.isfinite(trial.score)]
    return [
        *(p for key in differing_keys(outcome) for p in _against_setting(outcome, key, scored)),
        *(p for cost in _costs(scored) for p in _against_cost(outcome, cost, scored)),
        *_coordinates(outcome, trials),
        *_curves(outcome, trials),
    ]


def _against_setting(
    outcome: SweepOutcome, key: str, scored: Sequence[TrialOutcome]
) -> Iterator[Picture]:
    if key in _COSTLY and all(is_number(trial.point.get(key)) for trial in scored):
        cost = _Cost(key, key, lambda trial: float(trial.point[key]))
        yield from _against_cost(outcome, cost, scored)
        return
    competing = [trial for trial in scored if competes(trial)]
    values, words = axis_values([trial.point.get(key) for trial in competing])
    if len(distinct(values)) < 2:
        return
    if words:
        order = sorted(range(len(values)), key=lambda place: words.index(str(values[place])))
        competing, values = [competing[place] for place in order], [values[p] for p in order]
    scores = [trial.score for trial in competing]
    yield Picture(
        name=f"against_{key}.png",
        title=f"{outcome.headline} against {key}",
        sentence=f"The best {outcome.headline} of each trial against {key}. If there are few "
        "values, a line joins the best of each. Failed trials are left out.",
        figure=trials_against(key, values, scores, outcome.headline),
    )


def _costs(scored: Sequence[TrialOutcome]) -> list[_Cost]:
    longest = max((trial.seconds for trial in scored if is_number(trial.seconds)), default=0.0)
    unit, unit_s = next(
        ((unit, size) for unit, size in (("h", 3600.0), ("min", 60.0)) if longest >= 2 * size),
        ("s", 1.0),
    )
    return [
        _Cost("gmac", "GMAC, one image forward", lambda trial: trial.macs / 1e9),
        _Cost("parameters", "parameters (millions)", lambda trial: trial.parameters / 1e6),
        _Cost("seconds", f"wall time ({unit})", lambda trial: trial.seconds / unit_s),
        _Cost("samples_per_s", "measured training samples/s", lambda t: t.samples_per_s, True),
    ]


def _against_cost(
    outcome: SweepOutcome, cost: _Cost, scored: Sequence[TrialOutcome]
) -> Iterator[Picture]:
    marks = dict(zip((trial.name for trial in ranked(outcome)), _marks(outcome), strict=True))
    drawn = [trial for trial in scored if math.isfinite(cost.value_of(trial))]
    if len({cost.value_of(trial) for trial in drawn}) < 2:
        return
    dots = [
        Dot(
            mark=marks[trial.name],
            name=shortened(trial.name, _NAME_LETTERS),
            status=trial.status,
            cost=cost.value_of(trial),
            score=trial.score,
        )
        for trial in drawn
    ]
    costs = [-dot.cost if cost.more_is_better else dot.cost for dot in dots]
    # The score of a failed trial is shown, but is not to be recommended.
    scores = [trial.score if competes(trial) else math.nan for trial in drawn]
    better = "a higher" if cost.more_is_better else "a lower"
    yield Picture(
        name=f"against_{cost.name}.png",
        title=f"{outcome.headline} against {cost.label}",
        sentence=f"The best {outcome.headline} of each trial against {cost.label}. The Pareto "
        "front joins the trials, marked with their ranks, that no other beats at the same or "
        f"{better} value.",
        figure=scores_against(dots, pareto_front(costs, scores), cost.label, outcome.headline),
    )


def _marks(outcome: SweepOutcome) -> list[str]:
    return ["" if rank is None else f"#{rank}" for rank in ranks(ranked(outcome))]


def _coordinates(outcome: SweepOutcome, trials: Sequence[TrialOutcome]) -> Iterator[Picture]:
    keys = differing_keys(outcome)
    if not keys or not any(map(competes, trials)):
        return
    settings = {
        name: axis_values([trial.point.get(key) for trial in trials])
        for key, name in short_keys(keys).items()
    }
    scores = [trial.score if competes(trial) else math.nan for trial in trials]
    yield Picture(
        name="parallel_coordinates.png",
        title="All settings together",
        sentence="Each line is a trial, from its settings to its score. Darker is better, the "
        "best is thick. Dashed gray lines are trials that failed or have no score.",
        figure=parallel_coordinates(settings, scores, outcome.headline),
    )


def _curves(outcome: SweepOutcome, trials: Sequence[TrialOutcome]) -> Iterator[Picture]:
    if not any(math.isfinite(v) for t in trials for h in t.history.values() for _, v in h):
        return
    named = [
        replace(trial, name=f"{mark} {shortened(trial.name, _NAME_LETTERS)}".lstrip())
        for trial, mark in zip(trials, _marks(outcome), strict=True)
    ]
    metrics = {
        outcome.metric: f"{outcome.headline} (%)",
        "train_loss": "training loss",
        "val_loss": "validation loss",
    }
    yield Picture(
        name="learning_curves.png",
        title="Learning curves",
        sentence="Accuracy and losses after each epoch over the training samples seen. Curves of "
        "trials that were stopped or failed end with a mark. The best trials have colors.",
        figure=learning_curves(named, metrics),
    )
