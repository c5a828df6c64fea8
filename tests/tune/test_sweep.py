"""Sweeps without a cluster: spaces, plans, search, and the journals of trials.

tests/cluster/test_cluster.py runs one on a cluster.
"""

import math
import re
import signal
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray.cloudpickle
from factories import checkpoint, pack_samples, samples
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule
from ray.tune.search import ConcurrencyLimiter
from ray.tune.search.optuna import OptunaSearch

from pipeline.run.journal import Journal, RunSpec
from pipeline.run.layout import STARTING_NAME, STOP_NAME, SWEEP_NAME
from pipeline.settings import Settings
from tune.budget import Accountant, Ending, spent
from tune.epochs import STOPPED_TAG, has_ended, last_of, reports, was_stopped
from tune.gather import Tried, gather
from tune.plan import Sweep, plan_sweep, write_identity
from tune.ray_search import domain, param_space, searcher
from tune.report.command import shared_arguments
from tune.rules import rule
from tune.runner import Narrator, error_of
from tune.settings import Against, Budget, EarlySettings, SearchSettings
from tune.spaces import Range, Space, given_values, space_of, trial_name
from tune.trial import POINT, Trial, number_of, point_of, run_name

GRID = SearchSettings()
DRAWN = SearchSettings(method="random", trials=5)


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and no environment that would decide anything."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def settings(tmp_path: Path, **changes: Any) -> Settings:
    """Small networks on four people to train on."""
    folder = tmp_path / "packed"
    if not folder.exists():
        pack_samples(folder / "train", [samples(2), samples(2, first=2)])
        pack_samples(folder / "val", [samples(2, first=4)], split="val")
    small = {
        "data.train": str(folder / "train" / "*.tar"),
        "data.val": str(folder / "val" / "*.tar"),
        "model.features": 8,
        "model.input_px": 64,
        "optim.batch_size": 2,
        "optim.epochs": 3,
    }
    return Settings.from_flat(small | {k.replace("__", "."): v for k, v in changes.items()})


def planned(
    tmp_path: Path,
    space: Space | None = None,
    search: SearchSettings = GRID,
    early: EarlySettings = EarlySettings(),  # noqa: B008
    budget: Budget = Budget(),  # noqa: B008
    **changes: Any,
) -> Sweep:
    space = space or Space(name="mine", axes={"model.stacks": (1, 2)})
    return plan_sweep(settings(tmp_path, **changes), space, search, early, budget)


def toml(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return str(path)


# Spaces


def test_a_grid_has_every_combination_in_the_order_of_its_axes():
    space = space_of("stacks", {"model.stacks": (1, 2), "optim.sigma_px": (1.0, 1.5)})
    assert space.grid() == (
        {"model.stacks": 1, "optim.sigma_px": 1.0},
        {"model.stacks": 1, "optim.sigma_px": 1.5},
        {"model.stacks": 2, "optim.sigma_px": 1.0},
        {"model.stacks": 2, "optim.sigma_px": 1.5},
    )


def test_a_file_gives_lists_ranges_and_points_with_or_without_quoted_keys(tmp_path):
    space = space_of(
        toml(
            tmp_path,
            "[axes]\n"
            '"model.features" = [8, 16]\n'
            "optim.learning_rate = {low = 1e-4, high = 1e-2, log = true}\n"
            "[[points]]\nmodel.stacks = 2\nmodel.modules = 1\n"
            '[[points]]\n"model.stacks" = 1\n"model.modules" = 2\n',
        ),
        {},
    )
    assert space.name == "mine"
    assert space.axes == {
        "model.features": (8, 16),
        "optim.learning_rate": Range(low=1e-4, high=1e-2, log=True),
    }
    assert space.points == (
        {"model.stacks": 2, "model.modules": 1},
        {"model.stacks": 1, "model.modules": 2},
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[axis]\n", "unknown part 'axis'; expected [axes] and [[points]]; did you mean 'axes'?"),
        ("[axes]\n", "is empty; expected [axes] or [[points]]"),
        ("[axes]\nmodel.stacks = 2\n", "model.stacks must be a list of values or a table with low"),
        ("[axes]\nmodel.stacks = []\n", "model.stacks must have at least one value"),
        ("[axes]\nmodel.stacks = [1, 1]\n", "model.stacks has 1 twice; trials of equal settings"),
        ('[axes]\n"a.b" = {low = 1}\n', "a.b lacks high"),
        ('[axes]\n"a.b" = {low = 2, high = 1}\n', "a.b: low must be below high, got 2 and 1"),
        ('[axes]\n"a.b" = {low = 0, high = 1, log = true}\n', "a.b: log needs a low above 0"),
        ('[axes]\n"a.b" = {low = 0, high = 1, by = 2}\n', "a.b has no 'by'; expected low, high"),
        ('[axes]\n"a.b" = {low = "x", high = 1}\n', "a.b.low must be a float, got 'x'"),
        (
            '[[points]]\n"a.b" = 1\n[[points]]\n"a.c" = 1\n',
            "point 2 sets ['a.c'], expected what the first sets, ['a.b']",
        ),
        ('[axes]\n"a.b" = [1]\n[[points]]\n"a.b" = 1\n', "a.b is set by [axes] and by [[points]]"),
        ("[axes\n", "Expected ']'"),
    ],
)
def test_a_mistake_in_a_file_is_named(tmp_path, text, message):
    with pytest.raises(ValueError, match=rf"mine\.toml.*{re.escape(message)}"):
        space_of(toml(tmp_path, text), {})


def test_an_unknown_space_is_an_error_with_a_suggestion():
    with pytest.raises(ValueError, match=r"--space must be one of stacks, .*'capacity'\?"):
        space_of("capacty", {})


def test_values_on_the_command_line_are_numbers_truths_or_words():
    assert given_values(("optim.loss=mse,cross-entropy", "optim.learning_rate=1e-3,0.01")) == {
        "optim.loss": ("mse", "cross-entropy"),
        "optim.learning_rate": (0.001, 0.01),
    }
    assert given_values(("optim.zero_heads=true,false", "model.stacks=1,2")) == {
        "optim.zero_heads": (True, False),
        "model.stacks": (1, 2),
    }
    with pytest.raises(ValueError, match=r"like model.features=64,128, got 'model.stacks'"):
        given_values(("model.stacks",))


def test_a_range_has_no_grid():
    space = Space(name="mine", axes={"optim.learning_rate": Range(low=1e-4, high=1e-2)})
    with pytest.raises(ValueError, match=r"optim\.learning_rate is a range, which a grid cannot"):
        space.grid()


def test_samples_of_a_space_have_both_ends_of_a_range_and_every_value():
    space = Space(
        name="mine", axes={"a.x": (1, 2, 3), "a.y": Range(low=5, high=9), "a.z": ("only",)}
    )
    assert space.samples() == (
        {"a.x": 1, "a.y": 5, "a.z": "only"},
        {"a.x": 2, "a.y": 9, "a.z": "only"},
        {"a.x": 3, "a.y": 9, "a.z": "only"},
    )


@pytest.mark.parametrize(
    ("values", "kind", "low", "high"),
    [
        (Range(low=1, high=4), int, 1, 4),
        (Range(low=8, high=32, step=8), int, 8, 32),
        (Range(low=1, high=64, log=True), int, 1, 64),
        (Range(low=0.5, high=1.5), float, 0.5, 1.5),
        (Range(low=1e-4, high=1e-2, log=True), float, 1e-4, 1e-2),
        (Range(low=0.0, high=1.0, step=0.25), float, 0.0, 1.0),
    ],
)
def test_drawn_numbers_are_of_the_ranges_kind_and_reach_both_ends(values, kind, low, high):
    drawn = [point_of({POINT: {"k": domain(values).sample()}})["k"] for _ in range(3000)]
    assert {type(value) for value in drawn} == {kind}
    assert low <= min(drawn) <= max(drawn) <= high
    if kind is int or values.step:
        assert {min(drawn), max(drawn)} == {low, high}
    if values.step:
        assert {round(value / values.step, 6) % 1 for value in drawn} == {0.0}


# Planning


def test_a_sweep_has_the_same_name_whenever_it_is_planned_and_another_one_otherwise(tmp_path):
    name = planned(tmp_path).name
    assert re.fullmatch(r"sweep-mine-[0-9a-f]{8}", name)
    assert planned(tmp_path, budget=Budget(samples=10)).name == name
    assert planned(tmp_path, search=replace(GRID, at_once=3, retries=0)).name == name
    others = [
        planned(tmp_path, space=Space(name="mine", axes={"model.stacks": (1, 3)})),
        planned(tmp_path, early=EarlySettings(rule="asha")),
        planned(tmp_path, search=replace(GRID, seed=1)),
        planned(tmp_path, optim__epochs=4),
    ]
    assert len({sweep.name for sweep in others} | {name}) == 5


def test_a_folder_of_another_sweep_is_refused_and_the_same_one_resumes(tmp_path):
    sweep = planned(tmp_path, ray__name="named")
    sweep.folder.mkdir(parents=True)
    write_identity(sweep)
    assert not planned(tmp_path, ray__name="named", budget=Budget(hours=1)).restarts
    asha = {"ray__name": "named", "early": EarlySettings(rule="asha")}
    with pytest.raises(ValueError, match="holds another sweep, which differs in early: give"):
        planned(tmp_path, **asha)
    # Ray Tune could not go on with its search.
    with pytest.raises(
        ValueError, match=r"to resume it, or --ray\.on-change restart to start over"
    ):
        planned(tmp_path, **asha, ray__on_change="resume")
    assert planned(tmp_path, **asha, ray__on_change="restart").restarts
    slower = {"ray__name": "named", "optim__learning_rate": 1e-5}
    changed = r"settings \(optim\.learning_rate: .* there, 1e-05 here\): give .*on-change resume"
    with pytest.raises(ValueError, match=changed):
        planned(tmp_path, **slower)
    assert not planned(tmp_path, **slower, ray__on_change="resume").restarts
    (sweep.folder / SWEEP_NAME).write_text("[]")
    with pytest.raises(ValueError, match=r"sweep\.json is damaged"):
        planned(tmp_path, ray__name="named")


def test_the_folder_of_a_run_is_not_one_of_a_sweep(tmp_path):
    Journal(planned(tmp_path, ray__name="named").folder).tags({"of": "a run"})
    with pytest.raises(ValueError, match=r"holds a run: give another ray\.name to the sweep"):
        planned(tmp_path, ray__name="named")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"space": Space(name="list", points=({"model.stacks": 1},)), "search": DRAWN},
            "search.method must be grid with --space list, which lists its trials, got 'random'",
        ),
        ({"budget": Budget(gpu_hours=2)}, "budget.gpu_hours must be 0 without ray.gpus_per_worker"),
        (
            {"space": Space(name="x", axes={"ray.name": ("a", "b")})},
            "ray.name can't vary within a sweep",
        ),
        (
            {"space": Space(name="x", axes={"ray.scratch": ("a", "b")})},
            "ray.scratch can't vary within a sweep",
        ),
        (
            {"space": Space(name="x", axes={"model.stack": (1, 2)})},
            "unknown setting 'model.stack'; did you mean 'model.stacks'?",
        ),
        (
            {"space": Space(name="x", axes={"model.stacks": (1, 0)})},
            "model.stacks must be at least 1, got 0",
        ),
        (
            {"space": Space(name="x", axes={"optim.sigma_px": (1.0000001, 1.0000002)})},
            "--space x: two trials would have the name sigma_px-1",
        ),
    ],
)
def test_a_sweep_that_cannot_run_is_refused_with_the_reason(tmp_path, changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        planned(tmp_path, **changes)


def test_people_beyond_the_last_whole_batch_are_no_samples(tmp_path):
    # Four people in batches of 3.
    space = Space(name="mine", axes={"optim.batch_size": (3,), "optim.epochs": (2, 5)})
    sweep = planned(tmp_path, space)
    assert (sweep.epoch_samples, sweep.samples) == (3, 15)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SearchSettings(method="tpe"), "search.trials must be at least 1 with"),
        (lambda: SearchSettings(trials=3), "else 0, got 3"),
        (lambda: SearchSettings(against="gmac"), "search.against must be none without"),
        (lambda: EarlySettings(reduction=1.0), "early.reduction must be above 1, got 1.0"),
        (lambda: Budget(samples=-1), "budget.samples must be at least 0, got -1"),
    ],
)
def test_settings_of_the_search_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_two_objectives_and_early_stopping_exclude_each_other(tmp_path):
    both = SearchSettings(method="tpe", trials=3, against="gmac")
    space = Space(name="mine", axes={"model.stacks": (1, 2)})
    with pytest.raises(ValueError, match=r"early\.rule must be none with search.against=gmac"):
        planned(tmp_path, space, both, EarlySettings(rule="asha"))


def test_drawn_trials_of_equal_settings_do_not_share_a_run():
    point = {"model.stacks": 2}
    assert run_name(point, number_of("ab12_00003", is_grid=False)) == "stacks-2_00003"
    assert run_name(point, number_of("ab12_00004", is_grid=False)) == "stacks-2_00004"
    assert run_name(point, number_of("ab12_00004", is_grid=True)) == "stacks-2"


def test_names_of_trials_are_names_of_folders():
    assert trial_name({"model.supervision": "a/b c", "optim.zero_heads": True}) == (
        "supervision-a-b-c_zero_heads-true"
    )
    rates = [trial_name({"optim.learning_rate": rate}) for rate in (1e30, 1e-30)]
    assert rates == ["learning_rate-1e30", "learning_rate-1e-30"]


# Searching


def test_a_grid_keeps_its_order_unless_trials_can_be_stopped(tmp_path):
    space = Space(name="mine", axes={"model.stacks": (1, 2, 3, 4, 5, 6)})

    def order(early: EarlySettings, seed: int = 0) -> list[int]:
        search = replace(GRID, seed=seed)
        points = param_space(planned(tmp_path, space, search, early))[POINT]["grid_search"]
        return [point["model.stacks"] for point in points]

    asha = EarlySettings(rule="asha")
    assert order(EarlySettings()) == [1, 2, 3, 4, 5, 6]
    assert order(asha) == order(asha) != [1, 2, 3, 4, 5, 6]
    assert sorted(order(asha)) == [1, 2, 3, 4, 5, 6]
    assert order(asha, seed=1) != order(asha)


def test_rules_for_early_stopping_judge_by_training_samples():
    asha = rule(EarlySettings(rule="asha", reduction=3), epoch_samples=100, samples=2700)
    assert isinstance(asha, ASHAScheduler)
    assert asha._time_attr == "samples"
    # Rungs at grace * reduction**k below the whole trial, the highest first.
    assert [rung for rung, _ in asha._brackets[0]._rungs] == [2700, 900, 300, 100]
    median = rule(EarlySettings(rule="median", grace_samples=500), epoch_samples=100, samples=2700)
    assert isinstance(median, MedianStoppingRule)
    assert (median._time_attr, median._grace_period) == ("samples", 500)
    assert type(rule(EarlySettings(), 100, 2700)) is FIFOScheduler


@dataclass(frozen=True)
class OfTune:
    """A trial as Ray Tune's rules know it."""

    trial_id: str


def scored(*scores: float) -> list[dict[str, float]]:
    """Reports of a trial after every hundred samples."""
    return [{"samples": 100 * n, "score": score} for n, score in enumerate(scores, start=1)]


def test_asha_judges_trials_of_other_batches_after_equal_epochs(tmp_path):
    space = Space(name="mine", axes={"optim.epochs": (16, 17, 18)})
    sweep = planned(tmp_path, space)
    plans = [
        replace(
            plan,
            train=replace(plan.train, people=5500),
            settings=plan.settings.replaced({"optim.batch_size": batch}),
        )
        for plan, batch in zip(sweep.plans, (6, 32, 256), strict=True)
    ]
    sweep = replace(sweep, plans=tuple(plans))
    sizes = [5496, 5472, 5376]
    assert sweep.epoch_samples == min(sizes)
    asha = rule(EarlySettings(rule="asha"), sweep.epoch_samples, sweep.samples)
    trials = [OfTune(str(size)) for size in sizes]
    for trial, size in zip(trials, sizes, strict=True):
        asha.on_trial_add(None, trial)
        for epoch in range(1, 17):
            asha.on_trial_result(None, trial, {"samples": epoch * size, "score": float(epoch)})
    # Every trial came to each rung with its score after 16, 4 and 1 epochs.
    found = {milestone: set(scores.values()) for milestone, scores in asha._brackets[0]._rungs}
    assert found == {16 * 5376: {16.0}, 4 * 5376: {4.0}, 5376: {1.0}}
    assert all(len(scores) == 3 for _, scores in asha._brackets[0]._rungs)


def test_asha_restores_its_rungs_after_a_kill():
    good, behind, ahead = map(OfTune, ("good", "behind", "ahead"))
    before = {"good": scored(5, 8), "behind": scored(1)}
    early = EarlySettings(rule="asha", grace_samples=200, reduction=2)
    asha = rule(early, 100, 800, lambda trial: before.get(trial.trial_id, []))
    for trial in (behind, good, ahead):
        asha.on_trial_add(None, trial)
    # A report from before that comes again is skipped; a new one is judged beside the good one's 8.
    [again], [new] = scored(1), scored(1, 7)[1:]
    assert asha.on_trial_result(None, behind, again) == "CONTINUE"
    assert asha.on_trial_result(None, behind, new) == "STOP"
    assert asha.on_trial_result(None, ahead, scored(9, 9)[1]) == "CONTINUE"
    # A trial that has failed is added again.
    asha.on_trial_add(None, ahead)
    assert asha.on_trial_result(None, ahead, scored(9, 9)[1]) == "CONTINUE"


def test_the_median_includes_trials_from_before_a_kill():
    trials = {name: OfTune(name) for name in ("a", "b", "c", "behind")}
    before = {"a": scored(4, 4), "b": scored(5, 5), "c": scored(6, 6), "behind": scored(1)}
    early = EarlySettings(rule="median", grace_samples=100)
    median = rule(early, 100, 800, lambda trial: before[trial.trial_id])
    for trial in trials.values():
        median.on_trial_add(None, trial)
    assert median.on_trial_result(None, trials["behind"], scored(1)[0]) == "CONTINUE"
    assert median.on_trial_result(None, trials["behind"], scored(1, 4)[1]) == "STOP"


def test_the_search_has_both_objectives():
    def search_for(against: Against) -> ConcurrencyLimiter:
        return searcher(SearchSettings(method="tpe", trials=4, against=against), 3).searcher

    fastest = search_for("samples_per_s")
    assert fastest.max_concurrent == 3
    assert isinstance(fastest.searcher, OptunaSearch)
    assert fastest.metric == ["score", "samples_per_s"]
    assert fastest.mode == ["max", "max"]
    assert search_for("gmac").mode == ["max", "min"]
    assert (search_for("none").metric, search_for("none").mode) == ("score", "max")


# Journals


def journal_of(folder: Path, scores: list[float], *, end: str = "", tags: bool = False) -> Journal:
    """A run with an epoch of 4 samples for each score, at 10, 20, 30... samples/s."""
    journal = Journal(folder)
    spec = RunSpec(
        uri="", experiment="e", name="n", params={}, tags={}, artifacts=folder, parent=""
    )
    journal.run(spec)
    for epoch, score in enumerate(scores, 1):
        values = {"epoch": epoch, "samples": 4 * epoch, "samples_per_s": 10.0 * epoch}
        journal.metrics(values | {"pckh_0.5": score, "train_loss": 1.0 / epoch}, epoch)
    if tags:
        journal.tags({STOPPED_TAG: "by a test"})
    if end:
        journal.end(end)
    return journal


def test_each_epoch_is_reported_with_the_best_score_so_far(tmp_path):
    found = reports(journal_of(tmp_path / "run", [10.0, 30.0, 20.0]), "pckh_0.5")
    assert [one["score"] for one in found] == [10.0, 30.0, 30.0]
    assert [one["current"] for one in found] == [10.0, 30.0, 20.0]
    assert [one["best_epoch"] for one in found] == [1, 2, 2]
    assert [one["samples"] for one in found] == [4, 8, 12]
    assert [one["samples_per_s"] for one in found] == [10.0, 15.0, 20.0]


def test_time_between_a_kill_and_the_next_start_does_not_count(tmp_path, monkeypatch):
    clock = iter([0, 5, 5, 100, 107])
    monkeypatch.setattr("time.time_ns", lambda: next(clock) * 1_000_000_000)
    journal = Journal(tmp_path)
    spec = RunSpec(uri="", experiment="e", name="n", params={}, tags={}, artifacts=tmp_path)
    journal.run(spec)
    values = {"epoch": 1, "samples": 4, "samples_per_s": 1.0, "pckh_0.5": 1.0}
    journal.metrics(values, 1)
    journal.tags({"a": "b"})
    journal.run(spec)
    journal.metrics(values | {"epoch": 2, "samples": 8}, 2)
    assert [one["seconds"] for one in reports(journal, "pckh_0.5")] == [5.0, 12.0]
    assert last_of(journal) == (8, 12.0)


def test_the_last_start_of_a_run_decides_whether_it_has_ended(tmp_path):
    journal = journal_of(tmp_path / "run", [1.0], end="FINISHED", tags=True)
    assert has_ended(journal)
    assert was_stopped(journal)
    journal.run(RunSpec(uri="", experiment="e", name="n", params={}, tags={}, artifacts=tmp_path))
    assert not has_ended(journal)
    assert not was_stopped(journal)
    assert not has_ended(Journal(tmp_path / "nothing"))


# The budget


def test_the_budget_counts_all_runs_over_all_their_starts(tmp_path):
    journal_of(tmp_path / "a", [1.0, 2.0])
    journal_of(tmp_path / "b", [1.0, 2.0, 3.0])
    assert spent(tmp_path)[0] == 8 + 12
    ended: list[str] = []
    Accountant(Budget(samples=21), 0, tmp_path, ended.append).on_trial_result(1, [], None)
    assert ended == []
    Accountant(Budget(samples=20), 0, tmp_path, ended.append).on_trial_result(1, [], None)
    assert ended == ["budget.samples=20 is used up"]


def test_every_bound_of_the_budget_is_applied():
    budget = Budget(samples=100, gpu_hours=2.0, hours=1.0)
    assert budget.reached_by(samples=99, gpu_hours=1.9, hours=0.9) == ""
    assert budget.reached_by(samples=100, gpu_hours=0, hours=0) == "budget.samples=100"
    assert budget.reached_by(samples=0, gpu_hours=2.0, hours=0) == "budget.gpu_hours=2"
    assert budget.reached_by(samples=0, gpu_hours=0, hours=1.5) == "budget.hours=1"


def test_a_sweep_ends_only_when_its_runs_have_closed_their_records(tmp_path, monkeypatch):
    killed: list[int] = []
    monkeypatch.setattr("tune.budget.os.kill", lambda process, number: killed.append(number))
    monkeypatch.setattr("tune.budget._LOOK_S", 0.01)
    run = journal_of(tmp_path / "run", [1.0])
    ending = Ending(tmp_path, lambda: [tmp_path / "run"], "pckh_0.5")
    ending.use_up("budget.samples=4 is used up")
    ending.interrupt("SIGTERM")
    assert (tmp_path / STOP_NAME).read_text() == "budget.samples=4 is used up"
    ending._waiting.join(0.3)
    assert killed == []
    run.end("FINISHED")
    ending._waiting.join(10)
    assert len(killed) == 1
    ending.over()
    assert not (tmp_path / STOP_NAME).exists()


def test_a_signal_ends_a_sweep_at_once_whose_trials_evaluate(tmp_path, monkeypatch):
    sent: list[int] = []
    monkeypatch.setattr("tune.budget.os.kill", lambda process, number: sent.append(number))
    monkeypatch.setattr("tune.budget._LOOK_S", 0.01)
    runs = [tmp_path / name for name in ("ended", "evaluating")]
    for run, end in zip(runs, ("KILLED", ""), strict=True):
        journal_of(run, [1.0], end=end)
    checkpoint(runs[1] / "epoch_0001+00004")
    ending = Ending(tmp_path, lambda: runs, "pckh_0.5")
    ending.interrupt("SIGTERM")
    ending._waiting.join(10)
    assert sent == [signal.SIGTERM]


def test_a_signal_stops_a_sweep_with_checkpoints_only_while_a_trial_has_workers(tmp_path):
    run = tmp_path / "run"
    ending = Ending(tmp_path, lambda: [run], "pckh_0.5")
    assert not ending.is_training(), "the trial's process starts"
    journal_of(run, [])
    (run / STARTING_NAME).touch()
    assert not ending.is_training(), "it waits for room"
    (run / STARTING_NAME).unlink()
    assert ending.is_training()


class AsleepError(Exception):
    """A trial waits for something to happen."""


def trial_of(sweep: Sweep, error: Exception | None = None) -> Trial:
    """A trial of one stack whose training is over, without Ray."""
    trial = Trial.__new__(Trial)
    trial._plan = sweep.plans[0]
    trial._folder, trial._journal = sweep.folder, Journal(trial._plan.folder)
    trial._reported, trial._last, trial._macs = 0, {}, 2e9
    trial._training = Future()
    trial._training.set_exception(error) if error else trial._training.set_result(None)
    return trial


@pytest.mark.parametrize(
    ("scores", "is_stopping", "ends"),
    [
        ([1.0, 2.0, 3.0], False, "done"),
        ([1.0, 2.0, 3.0], True, "done"),
        ([2.0, 1.0], True, "done"),  # ended itself, after an epoch without improvement
        ([1.0], False, "done"),  # stopped by the rule, whose decision is not known any more
        ([1.0], True, "waits"),  # it resumes if its budget grows
    ],
)
def test_a_trial_is_done_unless_it_was_stopped_with_the_sweep(
    tmp_path, monkeypatch, scores, is_stopping, ends
):
    def sleep(_: float) -> None:
        raise AsleepError

    monkeypatch.setattr("tune.trial.time.sleep", sleep)
    sweep = planned(tmp_path, optim__stop_after=1)
    journal_of(sweep.plans[0].folder, scores, end="FINISHED")
    if is_stopping:
        (sweep.folder / STOP_NAME).write_text("budget.samples=4 is used up")
    trial = trial_of(sweep)
    found = [trial.step() for _ in scores]
    assert [one["current"] for one in found] == scores
    assert [one["gmac"] for one in found] == [2.0] * len(scores)
    assert not any("done" in one for one in found)
    if ends == "done":
        assert trial.step() == found[-1] | {"done": True}
    else:
        with pytest.raises(AsleepError):
            trial.step()


def test_a_trial_that_ended_itself_is_told_from_one_that_was_stopped(tmp_path, capsys):
    sweep = planned(tmp_path, optim__stop_after=1)
    narrator, config = Narrator(sweep), {POINT: {"model.stacks": 2}}
    for scores in ([2.0, 1.0], [2.0]):
        [*_, last] = reports(journal_of(tmp_path / str(len(scores)), scores), "pckh_0.5")
        trial = SimpleNamespace(trial_id="a_00001", config=config, last_result=last)
        narrator.on_trial_complete(1, [], trial)
    ended, stopped = capsys.readouterr().out.splitlines()[-2:]
    assert "trial 1/2 stacks-2: PCKh@0.5 2.00 (epoch 1), ended early, after epoch 2 of 3: " in ended
    assert "(epoch 1), stopped after 4 samples" in stopped


def test_a_trial_raises_the_error_of_its_training(tmp_path):
    trial = trial_of(planned(tmp_path), ValueError("no such shard"))
    with pytest.raises(ValueError, match="no such shard"):
        trial.step()


def test_the_error_of_a_trial_is_read_before_ray_tune_has_stored_it(tmp_path):
    path = tmp_path / "error.pkl"
    path.write_bytes(ray.cloudpickle.dumps(ValueError("no")))
    files = {"pickled_error_file": str(path), "error_file": "error.txt"}
    trial = SimpleNamespace(**files, get_pickled_error=lambda: None)
    assert error_of(trial) == "ValueError: no"
    path.unlink()
    assert error_of(trial) == "see error.txt"
    trial.get_pickled_error = lambda: RuntimeError("stored")
    assert error_of(trial) == "RuntimeError: stored"


# Outcome


def test_an_outcome_is_read_from_the_journals(tmp_path):
    sweep = planned(tmp_path, Space(name="mine", axes={"model.stacks": (1, 2, 3)}))
    journal_of(sweep.folder / "stacks-1", [10.0, 30.0], end="FINISHED", tags=True)
    journal_of(sweep.folder / "stacks-2", [5.0], end="FAILED")
    outcome = gather(
        sweep,
        [
            Tried(point={"model.stacks": 1}, number="", error=""),
            Tried(point={"model.stacks": 2}, number="", error="ValueError: no"),
        ],
    )
    first, second, third = outcome.trials
    assert (first.status, first.score, first.best_epoch) == ("stopped", 30.0, 2)
    assert first.history["pckh_0.5"] == [(4, 10.0), (8, 30.0)]
    assert first.history["train_loss"] == [(4, 1.0), (8, 0.5)]
    assert (second.status, second.error) == ("failed", "ValueError: no")
    assert third.name == "stacks-3", "a trial that was never started is missing"
    assert third.status == "unfinished"
    assert math.isnan(third.score)
    assert outcome.axes == {"model.stacks": (1, 2, 3)}
    assert (outcome.headline, outcome.metric) == ("PCKh@0.5", "pckh_0.5")


def test_a_point_that_cannot_be_planned_fails_alone(tmp_path):
    # Every value can be drawn, but four people make no batch of eight.
    space = Space(name="mine", axes={"optim.batch_size": (1, 2)})
    sweep = planned(tmp_path, space, DRAWN)
    good, bad = gather(
        sweep,
        [
            Tried(point={"optim.batch_size": 2}, number="00000", error=""),
            Tried(point={"optim.batch_size": 8}, number="00001", error="ValueError: late"),
        ],
    ).trials
    assert (good.status, bad.status) == ("unfinished", "failed")
    assert bad.name == "batch_size-8_00001"
    assert "optim.batch_size" in bad.error
    assert math.isnan(bad.score)


def test_the_shared_settings_are_those_that_differ_from_the_defaults_and_do_not_vary(tmp_path):
    base = settings(tmp_path, optim__zero_heads=False, model__stacks=3, ray__name="x")
    words = shared_arguments(base, ["model.stacks"])
    pairs = dict(zip(words[::2], words[1::2], strict=True))
    assert set(pairs) == {
        *("--data.train", "--data.val", "--model.features", "--model.input-px"),
        *("--optim.batch-size", "--optim.epochs", "--optim.zero-heads"),
    }
    assert pairs["--optim.zero-heads"] == "false"
    assert pairs["--optim.epochs"] == "3"
