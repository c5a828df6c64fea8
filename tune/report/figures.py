"""The figures of a sweep's report, each with a sentence that says what it shows."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from tune.figures.curves import Course, learning_curves
from tune.figures.parallel_coordinates import Setting, Track, parallel_coordinates
from tune.figures.scatter import Dot, scores_against
from tune.figures.values import trials_against
from tune.outcome import SweepOutcome, TrialOutcome
from tune.report.axis import axis_values
from tune.report.front import pareto_front
from tune.report.leaderboard import competes, differing_keys, ranked, ranks
from tune.report.values import distinct, is_number, short_keys, shortened

# Settings of which more cost more.
_COSTLY = ("model.stacks", "model.modules", "model.features", "optim.epochs")
_NAME_LETTERS = 30


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure, the name of its file, and what it shows."""

    name: str
    title: str
    sentence: str
    figure: Figure


@dataclass(frozen=True, kw_only=True)
class _Cost:
    name: str
    label: str
    of: Callable[[TrialOutcome], float]
    more_is_better: bool = False


def pictures(outcome: SweepOutcome) -> list[Picture]:
    """The figures that the trials give reason for, in the order of the report.

    What is the same for all trials with a score is not drawn against it.
    """
    trials = ranked(outcome)
    scored = [trial for trial in trials if math.isfinite(trial.score)]
    found: list[Picture] = []
    for key in differing_keys(outcome):
        found += _against_setting(outcome, key, scored)
    for cost in _costs(scored):
        found += _against_cost(outcome, cost, scored)
    found += _coordinates(outcome, trials)
    found += _curves(outcome, trials)
    return found


def _against_setting(
    outcome: SweepOutcome, key: str, scored: Sequence[TrialOutcome]
) -> Iterator[Picture]:
    if key in _COSTLY and all(is_number(trial.point.get(key)) for trial in scored):
        cost = _Cost(name=key, label=key, of=lambda trial: float(trial.point[key]))
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
        sentence=f"The best {outcome.headline} of each trial against {key}; a line joins the best "
        "of each value where there are few values. Failed trials are left out.",
        figure=trials_against(key, values, scores, outcome.headline),
    )


def _costs(scored: Sequence[TrialOutcome]) -> list[_Cost]:
    longest = max((trial.seconds for trial in scored if is_number(trial.seconds)), default=0.0)
    unit, unit_s = next(
        ((unit, size) for unit, size in (("h", 3600.0), ("min", 60.0)) if longest >= 2 * size),
        ("s", 1.0),
    )
    return [
        _Cost(name="gmac", label="GMAC, one image forward", of=lambda trial: trial.macs / 1e9),
        _Cost(
            name="parameters",
            label="parameters (millions)",
            of=lambda trial: trial.parameters / 1e6,
        ),
        _Cost(name="seconds", label=f"wall time ({unit})", of=lambda trial: trial.seconds / unit_s),
        _Cost(
            name="samples_per_s",
            label="measured training samples/s",
            of=lambda trial: trial.samples_per_s,
            more_is_better=True,
        ),
    ]


def _against_cost(
    outcome: SweepOutcome, cost: _Cost, scored: Sequence[TrialOutcome]
) -> Iterator[Picture]:
    """Nothing where all trials that have a score and a cost cost the same."""
    marks = dict(zip((trial.name for trial in ranked(outcome)), _marks(outcome), strict=True))
    drawn = [trial for trial in scored if math.isfinite(cost.of(trial))]
    if len({cost.of(trial) for trial in drawn}) < 2:
        return
    dots = [
        Dot(
            mark=marks[trial.name],
            name=shortened(trial.name, _NAME_LETTERS),
            status=trial.status,
            cost=cost.of(trial),
            score=trial.score,
        )
        for trial in drawn
    ]
    costs = [-dot.cost if cost.more_is_better else dot.cost for dot in dots]
    # A score that was reached on the way to a failure is shown, but is none to recommend.
    scores = [trial.score if competes(trial) else math.nan for trial in drawn]
    better = "a higher" if cost.more_is_better else "a lower"
    yield Picture(
        name=f"against_{cost.name}.png",
        title=f"{outcome.headline} against {cost.label}",
        sentence=f"The best {outcome.headline} of each trial against {cost.label}; the Pareto front "
        f"joins the trials, by their ranks, that no other beats at the same or {better} value.",
        figure=scores_against(dots, pareto_front(costs, scores), cost.label, outcome.headline),
    )


def _marks(outcome: SweepOutcome) -> list[str]:
    return ["" if rank is None else f"#{rank}" for rank in ranks(ranked(outcome))]


def _coordinates(outcome: SweepOutcome, trials: Sequence[TrialOutcome]) -> Iterator[Picture]:
    keys = differing_keys(outcome)
    if not keys or not any(map(competes, trials)):
        return
    columns = [axis_values([trial.point.get(key) for trial in trials]) for key in keys]
    names = short_keys(keys)
    settings = [
        Setting(name=names[key], words=words) for key, (_, words) in zip(keys, columns, strict=True)
    ]
    rows = zip(*(values for values, _ in columns), strict=True)
    tracks = [
        Track(values=row, score=trial.score if competes(trial) else math.nan)
        for row, trial in zip(rows, trials, strict=True)
    ]
    yield Picture(
        name="parallel_coordinates.png",
        title="All settings together",
        sentence="Each line is a trial, from its settings to its score: darker is better, the best "
        "is thick, and dashed gray lines are trials that failed or have no score.",
        figure=parallel_coordinates(settings, tracks, outcome.headline),
    )


def _curves(outcome: SweepOutcome, trials: Sequence[TrialOutcome]) -> Iterator[Picture]:
    if not any(math.isfinite(v) for t in trials for h in t.history.values() for _, v in h):
        return
    courses = [
        Course(
            name=f"{mark} {shortened(trial.name, _NAME_LETTERS)}".lstrip(),
            status=trial.status,
            history=trial.history,
        )
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
        sentence="Accuracy and losses after each epoch over the training samples seen; curves of "
        "trials that were stopped or failed end there with a mark. The best trials have colors.",
        figure=learning_curves(courses, metrics),
    )
