"""Sweeps that train one number of stacks and cut its network to the others, without a cluster."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from factories import pack_samples, samples
from trainers import SMALL, train_alone

from pipeline.data.loader import shard_loader, stream_validation
from pipeline.data.sampler import validation_batches
from pipeline.evaluation.evaluate import Evaluator, evaluate_people
from pipeline.evaluation.per_person import PEOPLE_NAME, read_results
from pipeline.run.checkpoint import load_network
from pipeline.run.checkpoint_manager import best, checkpoints
from pipeline.run.cut import cut_checkpoint
from pipeline.run.journal import Journal
from pipeline.run.start import find_local
from pipeline.settings import Settings
from pipeline.training.trainer import Task
from tune.budget import spent
from tune.cuts import record_cuts
from tune.epochs import CUT_TAG, has_finished
from tune.gather import Tried, gather
from tune.plan import Cut, Sweep, plan_sweep, write_identity
from tune.report.leaderboard import leaderboard, summary
from tune.report.page import write_report
from tune.settings import Budget, EarlySettings, SearchSettings
from tune.spaces import Space
from tune.trial import plan_trial

GRID = SearchSettings()
STACKS = Space(name="mine", axes={"model.stacks": (1, 2, 3)})
METRIC = "pckh_0.5"


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    pack_samples(folder / "train", [samples(4)])
    pack_samples(folder / "val", [samples(3, first=4)], split="val")
    return folder


def planned(
    packed: Path,
    storage: Path,
    space: Space = STACKS,
    search: SearchSettings = GRID,
    *,
    from_one: bool = True,
    **changes: Any,
) -> Sweep:
    small = SMALL | {
        "data.train": str(packed / "train" / "*.tar"),
        "data.val": str(packed / "val" / "*.tar"),
        "data.flip_share": 0.0,
        "model.order": 2,
        "optim.epochs": 4,
        "evaluation.flip_test": False,
        "ray.name": "sweep",
        "ray.storage": str(storage),
        "tracking.uri": f"sqlite:///{packed}/mlflow.db",
        "tracking.models": 0,
    }
    settings = Settings.from_flat(small | changes)
    return plan_sweep(settings, space, search, EarlySettings(), Budget(), from_one=from_one)


def trained(sweep: Sweep, epochs: int = 4) -> Path:
    """Train the sweep's only trial for `epochs` epochs, without Ray; return its run's folder."""
    [point] = sweep.points
    plan = plan_trial(sweep.base, point)
    task = Task(
        settings=plan.settings.replaced({"optim.epochs": epochs}).flat(),
        joint_set=plan.joint_set.to_json(),
        train=plan.train.paths,
        val=plan.val.paths,
        checksums=plan.checksums,
    )
    train_alone(task, plan.folder)
    return plan.folder


@pytest.fixture(scope="module")
def run_sweep(packed, tmp_path_factory) -> tuple[Sweep, Path]:
    """A sweep whose trial of three stacks was trained and cut, and the trial's folder."""
    sweep = planned(packed, tmp_path_factory.mktemp("runs"))
    folder = trained(sweep)
    record_cuts(sweep)
    return sweep, folder


def gathered(sweep: Sweep):
    return gather(sweep, [Tried(point=point, number="", error="") for point in sweep.points])


# Plans


def test_the_largest_number_of_stacks_is_trained_for_each_other_setting(packed, tmp_path):
    space = Space(name="mine", axes={"model.stacks": (1, 4, 2), "optim.sigma_px": (1.0, 2.0)})
    sweep = planned(packed, tmp_path, space)
    assert sweep.points == (
        {"model.stacks": 4, "optim.sigma_px": 1.0},
        {"model.stacks": 4, "optim.sigma_px": 2.0},
    )
    assert sweep.trials == len(sweep.plans) == 2
    assert [(cut.point["model.stacks"], cut.point["optim.sigma_px"]) for cut in sweep.cuts] == [
        *((1, 1.0), (2, 1.0)),
        *((1, 2.0), (2, 2.0)),
    ]
    assert all(cut.whole == cut.point | {"model.stacks": 4} for cut in sweep.cuts)
    assert sweep.base.evaluation.every_stack


def test_a_sweep_that_trains_each_number_is_another_one(packed, tmp_path):
    sweep = planned(packed, tmp_path)
    sweep.folder.mkdir(parents=True)
    write_identity(sweep)
    assert planned(packed, tmp_path).name == sweep.name
    with pytest.raises(ValueError, match="holds another sweep, which differs in from_one"):
        planned(packed, tmp_path, from_one=False)
    unnamed = {"ray.name": ""}
    names = [planned(packed, tmp_path, from_one=o, **unnamed).name for o in (True, False)]
    assert len(set(names)) == 2


def test_a_sweep_of_before_has_no_such_part_and_resumes(packed, tmp_path):
    sweep = planned(packed, tmp_path, from_one=False)
    assert "from_one" not in sweep.identity()
    assert sweep.cuts == ()
    assert not sweep.base.evaluation.every_stack


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"search": SearchSettings(method="random", trials=2)},
            "search.method must be grid with --from-one, which trains the largest",
        ),
        (
            {"space": Space(name="mine", axes={"optim.sigma_px": (1.0, 2.0)})},
            "--from-one needs trials that differ in model.stacks alone; --space mine has none",
        ),
        (
            {
                "space": Space(
                    name="mine",
                    points=(
                        {"model.stacks": 2, "model.modules": 2},
                        {"model.stacks": 4, "model.modules": 1},
                    ),
                )
            },
            "--from-one needs trials that differ in model.stacks alone; --space mine has none",
        ),
        (
            {"model.supervision": "last-stack"},
            "model.supervision must be every-stack with --from-one",
        ),
    ],
)
def test_a_sweep_with_nothing_to_cut_is_refused(packed, tmp_path, changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        planned(packed, tmp_path, **changes)


# Training


def test_an_epoch_has_metrics_of_the_stacks_before_the_last_but_not_of_single_joints(run_sweep):
    _, folder = run_sweep
    found = best(folder, METRIC)
    assert found is not None
    groups = {name.partition("/")[0] for name in found[1].metrics if name.startswith("stack_")}
    assert groups == {"stack_1", "stack_2"}
    assert not [name for name in found[1].metrics if re.fullmatch(r"stack_\d/.*/.*", name)]


def evaluated(checkpoint: Path, packed: Path) -> tuple[float, float]:
    """Measure a checkpoint as `jobs.evaluate` does; return PCKh and the loss."""
    network, metadata = load_network(checkpoint, torch.device("cpu"))
    fitting = metadata.joint_set, metadata.settings.model.input_px
    loader = shard_loader("data.val", str(packed / "val" / "*.tar"), *fitting)
    evaluator = Evaluator(
        network=network, loader=loader, settings=metadata.settings, device=torch.device("cpu")
    )
    batches = stream_validation(loader, validation_batches(len(loader.samples), 2, 0, 1), 1)
    evaluation, _ = evaluate_people(evaluator.predict(batches), loader)
    headline = evaluation.scores(metadata.joint_set)["pckh"].headline
    return headline, evaluation.loss_sum / evaluation.people


def test_the_best_epoch_of_each_number_of_stacks_is_kept(run_sweep):
    sweep, folder = run_sweep
    for stacks in (1, 2):
        history = Journal(folder).history([f"stack_{stacks}/{METRIC}"])[f"stack_{stacks}/{METRIC}"]
        assert len(history) == 4
        highest = max(value for _, value in history)
        epoch = next(epoch for epoch, value in history if value == highest)
        assert (folder / f"epoch_{epoch:04d}").exists()
        cut = sweep.folder / f"stacks-{stacks}" / f"epoch_{epoch:04d}"
        assert checkpoints(cut.parent) == [cut]


# Runs of the cuts


def test_a_cut_has_a_run_with_the_epochs_and_results_of_its_stacks(run_sweep, packed):
    sweep, folder = run_sweep
    for stacks in (1, 2):
        cut = sweep.folder / f"stacks-{stacks}"
        journal, whole = Journal(cut), Journal(folder)
        assert has_finished(journal)
        for name in (METRIC, "val_loss", "flat_heatmaps_percent"):
            there = f"stack_{stacks}/{name}"
            assert journal.history([name])[name] == whole.history([there])[there]
        assert journal.history(["train_loss"])["train_loss"] == []
        found = find_local(str(cut))
        assert found is not None
        network, metadata = load_network(found, torch.device("cpu"))
        assert metadata.settings.model.stacks == len(network.stacks) == stacks
        score, loss = evaluated(found, packed)
        assert score == pytest.approx(metadata.metrics[METRIC])
        assert loss == pytest.approx(metadata.metrics["val_loss"])
        assert read_results(found / PEOPLE_NAME).keys == tuple(
            f"photo-{number:03d}_00" for number in (4, 5, 6)
        )
        assert (cut / "report.html").exists()


def test_all_numbers_of_stacks_are_in_the_leaderboard(run_sweep, tmp_path):
    sweep, _ = run_sweep
    outcome = gathered(sweep)
    rows = leaderboard(outcome).set_index("trial")
    assert set(rows.index) == {"stacks-1", "stacks-2", "stacks-3"}
    assert dict(rows["status"]) == dict.fromkeys(rows.index, "finished")
    assert dict(rows["samples"]) == dict.fromkeys(rows.index, 16)
    assert rows["cut_from"].to_dict() == {
        "stacks-1": "stacks-3",
        "stacks-2": "stacks-3",
        "stacks-3": "",
    }
    assert list(rows["parameters"].sort_index().diff().dropna() > 0) == [True, True]
    assert math.isnan(rows["seconds"]["stacks-1"])
    assert outcome.axes == {"model.stacks": (3, 1, 2)}
    # What was trained once counts once.
    assert outcome.samples == spent(sweep.folder)[0] == 16
    assert "2 of them cut from larger networks; 16 training samples" in summary(outcome)
    assert "report.html" in {path.name for path in write_report(outcome, tmp_path)}


def test_cuts_that_are_recorded_stay_as_they_are(run_sweep):
    sweep, _ = run_sweep
    before = [len(Journal(sweep.folder / f"stacks-{k}").entries()) for k in (1, 2)]
    record_cuts(sweep)
    assert [len(Journal(sweep.folder / f"stacks-{k}").entries()) for k in (1, 2)] == before


def test_a_kill_between_training_and_cuts_loses_nothing(packed, tmp_path, monkeypatch):
    sweep = planned(packed, tmp_path, Space(name="mine", axes={"model.stacks": (1, 2)}))
    folder = trained(sweep, epochs=2)
    with monkeypatch.context() as patch:
        patch.setattr("tune.cuts.conclude", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            record_cuts(sweep)
    cut = Journal(sweep.folder / "stacks-1")
    assert not has_finished(cut)
    # Resumed with more epochs, as after a larger budget.
    trained(sweep, epochs=3)
    record_cuts(sweep)
    assert has_finished(cut)
    there = Journal(folder).history([f"stack_1/{METRIC}"])[f"stack_1/{METRIC}"]
    assert cut.history([METRIC])[METRIC] == there
    assert [step for step, _ in there] == [1, 2, 3]
    [trial] = [trial for trial in gathered(sweep).trials if trial.cut_from]
    assert (trial.best_epoch, trial.score) == next(
        (step, value) for step, value in there if value == max(v for _, v in there)
    )
    tags = [e.content["tags"] for e in cut.entries() if e.kind == "tags"]
    assert {CUT_TAG: "stacks-2"} in tags
    assert trial.checkpoint is not None
    assert json.loads((trial.checkpoint / "checkpoint.json").read_text())["metrics"][METRIC] == (
        trial.score
    )


def test_a_cut_that_fails_is_a_failed_trial_until_it_is_made(packed, tmp_path, monkeypatch):
    sweep = planned(packed, tmp_path)
    trained(sweep, epochs=1)
    tried = [Tried(point=point, number="", error="") for point in sweep.points]
    for error in (OSError("no space left"), ValueError("damaged")):

        def cut(checkpoint: Path, stacks: int, place: Path, error: Exception = error) -> Path:
            if stacks == 1:
                raise error
            return cut_checkpoint(checkpoint, stacks, place)

        with monkeypatch.context() as patch:
            patch.setattr("tune.cuts.cut_checkpoint", cut)
            errors = record_cuts(sweep)
        assert errors == {"stacks-1": f"not cut from stacks-3: {error}"}
        trials = {trial.name: trial for trial in gather(sweep, tried, errors).trials}
        assert (trials["stacks-1"].status, trials["stacks-1"].error) == (
            "failed",
            errors["stacks-1"],
        )
        # The whole trial has one epoch of four.
        assert trials["stacks-2"].status == trials["stacks-3"].status == "unfinished"
    monkeypatch.setattr("tune.cuts.end_of", lambda plan, _: f"as {plan.settings.ray.name}")
    assert record_cuts(sweep) == {}
    tags = [entry.content.get("tags", {}) for entry in Journal(sweep.folder / "stacks-1").entries()]
    assert [found["ended"] for found in tags if "ended" in found] == ["as stacks-3"]
    assert {trial.status for trial in gather(sweep, tried).trials} == {"unfinished"}


def test_a_trial_that_failed_before_its_first_epoch_leaves_cuts_without_a_score(packed, tmp_path):
    sweep = planned(packed, tmp_path)
    record_cuts(sweep)
    [point] = sweep.points
    outcome = gather(sweep, [Tried(point=point, number="", error="ValueError: no")])
    assert [trial.status for trial in outcome.trials] == ["failed"] * 3
    assert sweep.cuts[0] == Cut(point={"model.stacks": 1}, whole={"model.stacks": 3})
    assert all(math.isnan(trial.score) for trial in outcome.trials)
