"""Steps whose loss or gradient is not finite: skipped on every rank, counted, and limited."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from factories import pack_samples, samples
from torch import Tensor
from trainers import start_ranks

from pipeline.data.batch import Batch
from pipeline.data.loader import SampleLoader
from pipeline.pose.joint_sets import MPII
from pipeline.training.bad_steps import BadStepsError, sample_names
from pipeline.training.trainer import Task, Trainer

CPU = torch.device("cpu")
NAN, INF = float("nan"), float("inf")


def task_of(folder: Path, people: int = 8, **changes: Any) -> Task:
    """A tiny network with an average, two samples a step, on two shards."""
    made = samples(people)
    settings = {
        "data.shuffle_window": 1,
        "model.stacks": 1,
        "model.features": 8,
        "model.order": 3,
        "model.joints": 16,
        "model.input_px": 64,
        "optim.optimizer": "adamw",
        "optim.learning_rate": 1e-3,
        "optim.precision": "fp32",
        "optim.ema_samples": 100,
        "optim.batch_size": 2,
        "optim.epochs": 3,
    }
    return Task(
        settings=settings | changes,
        joint_set=MPII.to_json(),
        train=tuple(map(str, pack_samples(folder / "train", [made[:3], made[3:]]))),
        val=tuple(map(str, pack_samples(folder / "val", [samples(2, first=20)], split="val"))),
    )


def trainer_of(folder: Path, **changes: Any) -> Trainer:
    return Trainer(task_of(folder, **changes), 0, 1, CPU)


def spoil(batch: Batch, value: float = NAN) -> Batch:
    """A batch whose images, and so BatchNorm's statistics of them, are not finite."""
    return replace(batch, gains=torch.full_like(batch.gains, value))


def spoil_samples(monkeypatch: pytest.MonkeyPatch, *bad: int) -> None:
    """Spoil every batch that holds one of the training samples `bad`."""
    original = SampleLoader.batch

    def batch(loader: SampleLoader, positions: Any, *more: Any) -> Batch:
        made = original(loader, positions, *more)
        return spoil(made) if more and set(bad) & set(positions.tolist()) else made

    monkeypatch.setattr(SampleLoader, "batch", batch)


def state_of(trainer: Trainer) -> dict[str, Tensor]:
    """Everything that a step changes."""
    state = trainer.state
    average = state.network_of("ema").state_dict()
    optimizer = state._updater.optimizer.state_dict()["state"]
    return {
        **{
            f"network {name}": value.clone()
            for name, value in trainer.state.network.state_dict().items()
        },
        **{f"average {name}": value.clone() for name, value in average.items()},
        **{f"{weight} {k}": v.clone() for weight, of in optimizer.items() for k, v in of.items()},
    }


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> list[str]:
    assert before.keys() == after.keys()
    return [name for name, value in before.items() if not torch.equal(value, after[name])]


def first_batch(trainer: Trainer) -> Batch:
    return next(iter(trainer._batches()))


def wrong(stepped: tuple[Tensor, float, Any]) -> str:
    """What was wrong with the only step that became known."""
    *_, bad = stepped
    return "; ".join(step.wrong for step in bad)


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
def test_a_step_whose_loss_is_not_finite_changes_nothing(tmp_path, parts, clip_norm):
    changes = {"optim.accumulate": parts, "optim.clip_norm": clip_norm}
    trainer = trainer_of(tmp_path, **changes)
    good = first_batch(trainer)
    state = trainer.state
    state.parallel.train()
    mean, _, bad = state.step(good, 100)
    assert not bad
    before = state_of(trainer)
    same_mean, _, [bad] = state.step(spoil(good), 100)
    assert (bad.number, bad.step, bad.wrong) == (1, 2, "the loss is nan")
    assert changed(before, state_of(trainer)) == []
    # Its samples have been seen nevertheless; they don't enter the loss.
    assert (state.progress.steps, state.progress.samples) == (2, 4)
    assert (state.progress.bad_steps, state.progress.epoch_bad_steps) == (1, 1)
    assert float(same_mean) == float(mean)
    state.step(good, 100)
    assert any(name.startswith("average") for name in changed(before, state_of(trainer)))


def test_a_bad_part_of_a_batch_makes_the_whole_step_bad(tmp_path):
    trainer = trainer_of(tmp_path, **{"optim.accumulate": 2})
    good = first_batch(trainer)
    gains = good.gains.clone()
    gains[0] = NAN
    trainer.state.step(good, 100)
    before = state_of(trainer)
    assert wrong(trainer.state.step(replace(good, gains=gains), 100)) == "the loss is nan"
    assert changed(before, state_of(trainer)) == []


@pytest.mark.parametrize("value", [NAN, INF])
def test_a_gradient_alone_makes_a_step_bad(tmp_path, value):
    trainer = trainer_of(tmp_path)
    good = first_batch(trainer)
    trainer.state.step(good, 100)
    before = state_of(trainer)
    head = trainer.state.network.stacks[0].head.weight
    hook = head.register_hook(lambda gradient: gradient * value)
    assert wrong(trainer.state.step(good, 100)).startswith("the gradients' norm is ")
    assert changed(before, state_of(trainer)) == []
    hook.remove()
    assert wrong(trainer.state.step(good, 100)) == ""


def test_a_loss_may_be_infinite_where_no_gradient_is(tmp_path, monkeypatch):
    trainer = trainer_of(tmp_path)
    good = first_batch(trainer)

    def lost(heatmaps: Any, *_: Any) -> Tensor:
        return heatmaps.stacks.sum() + INF

    trainer.state.step(good, 100)
    before = state_of(trainer)
    monkeypatch.setattr("pipeline.training.step.batch_loss", lost)
    assert wrong(trainer.state.step(good, 100)) == "the loss is inf"
    assert changed(before, state_of(trainer)) == []


# On a GPU the outcome of a step is read after the next one was launched


@pytest.fixture
def read_late(monkeypatch):
    """Return a function that lets a trainer on CPU take its steps as on a GPU."""

    def changed(trainer: Trainer) -> Trainer:
        trainer.state._updater.is_late = True
        # It needs a GPU, and counts steps alone.
        assert not any(group.get("capturable") for group in optimizer_of(trainer).param_groups)
        return trainer

    return changed


def optimizer_of(trainer: Trainer) -> torch.optim.Optimizer:
    return trainer.state._updater.optimizer


@pytest.mark.parametrize(
    ("optimizer", "fused", "decay"),
    [("rmsprop", False, 0.1), ("adamw", False, 0.1), ("adamw", True, 0.0)],
)
@pytest.mark.parametrize("value", [NAN, INF])
def test_a_step_that_is_judged_late_changes_nothing_either(
    tmp_path, read_late, optimizer, fused, decay, value
):
    changes = {"optim.optimizer": optimizer, "optim.weight_decay": decay}
    trainer = read_late(trainer_of(tmp_path, **changes))
    state, good = trainer.state, first_batch(trainer)
    for group in optimizer_of(trainer).param_groups * fused:
        group["fused"] = True
    state.parallel.train()
    for _ in range(2):
        assert not state.step(good, 100)[2]
    before = state_of(trainer)
    # It becomes known with the next step, or by waiting for it.
    assert not state.step(spoil(good, value), 100)[2]
    assert changed(before, state_of(trainer)) == []
    assert state.progress.bad_steps == 0
    [bad] = state.settle()
    assert (bad.number, bad.step) == (1, 3)
    assert (state.progress.steps, state.progress.bad_steps) == (3, 1)
    state.step(spoil(good, value), 100)
    *_, [bad] = state.step(good, 100)
    assert (bad.number, bad.step) == (2, 4)
    assert any(name.startswith("average") for name in changed(before, state_of(trainer)))
    assert state.settle() == []


@pytest.mark.parametrize("optimizer", ["rmsprop", "adamw"])
def test_steps_that_are_judged_late_train_alike(tmp_path, read_late, optimizer):
    changes = {"optim.optimizer": optimizer}
    soon = trainer_of(tmp_path / "soon", **changes)
    late = read_late(trainer_of(tmp_path / "late", **changes))
    losses = [[report.loss for report in each.train_epoch(0.0)][-1] for each in (soon, late)]
    assert losses[0] == losses[1]
    expected, found = state_of(soon), state_of(late)
    for name in changed(expected, found):
        # Its average is computed in another order of operations.
        assert name.startswith("average")
        assert torch.allclose(expected[name], found[name], rtol=1e-6, atol=1e-9)


def test_a_bad_step_that_is_judged_late_is_reported_by_its_own_number(
    tmp_path, monkeypatch, read_late
):
    spoil_samples(monkeypatch, 5)
    trainer = read_late(trainer_of(tmp_path))
    reports = list(trainer.train_epoch(1e9))
    [(step, (message,))] = [(report.step, report.left_out) for report in reports if report.left_out]
    assert (step, message[:23]) == (4, "epoch 1, step 3 of 4, l")
    assert message.endswith("photo-004_00, photo-005_00")
    assert reports[-1].bad_steps == 1
    assert np.isfinite(reports[-1].loss)


def test_a_checkpoint_waits_for_the_outcome_of_its_last_step(tmp_path, monkeypatch, read_late):
    spoil_samples(monkeypatch, 5)
    trainer = read_late(trainer_of(tmp_path, **{"ray.checkpoint_steps": 3}))
    for report in trainer.train_epoch(1e9):
        if report.request:
            assert (report.step, trainer.state.progress.bad_steps) == (3, 1)
            snapshot = trainer.state.snapshot({})
            assert snapshot is not None
            assert snapshot.metadata.progress.epoch_bad_steps == 1
            return
    raise AssertionError("no checkpoint was due")


# fp16, whose scale is found by overflowing


def test_in_fp16_an_overflow_is_no_bad_step_until_the_scale_is_below_one(tmp_path):
    trainer = trainer_of(tmp_path, **{"optim.precision": "fp16"})
    state, good = trainer.state, first_batch(trainer)
    scaler = state._updater.scaler
    scaler.load_state_dict(scaler.state_dict() | {"scale": 2.0})
    trainer.state.network.stacks[0].head.weight.register_hook(lambda gradient: gradient * INF)
    before = state_of(trainer)
    found = []
    for _ in range(3):
        found.append((wrong(state.step(good, 100)), scaler.get_scale(), state.progress.bad_steps))
    assert found[0] == ("", 1.0, 0)
    assert [scale for _, scale, _ in found] == [1.0, 0.5, 0.25]
    assert [bad for *_, bad in found] == [0, 1, 2]
    assert changed(before, state_of(trainer)) == []


def test_in_fp16_a_loss_that_is_not_finite_makes_a_bad_step_at_any_scale(tmp_path):
    trainer = trainer_of(tmp_path, **{"optim.precision": "fp16"})
    good = first_batch(trainer)
    assert wrong(trainer.state.step(spoil(good), 100)) == "the loss is nan"
    assert trainer.state._updater.scaler.get_scale() == 2.0**15


# Messages, and the limit


def test_samples_are_named_by_shard_and_key(tmp_path):
    shards = trainer_of(tmp_path)._shards
    assert sample_names(np.array([7, 2, 3, 2]), shards) == (
        "train-000000.tar: photo-002_00; train-000001.tar: photo-003_00, photo-007_00"
    )


def test_a_bad_step_is_reported_with_its_samples_and_counted(tmp_path, monkeypatch):
    spoil_samples(monkeypatch, 5)
    trainer = trainer_of(tmp_path)
    reports = list(trainer.train_epoch(1e9))
    [bad] = [report for report in reports if report.left_out]
    # Unshuffled within shards, of which the first, samples 0-2, comes first.
    assert bad.left_out == (
        "epoch 1, step 3 of 4, learning rate 0.001: the loss is nan; step skipped, 1 of 10 "
        "allowed; its samples: train-000001.tar: photo-004_00, photo-005_00",
    )
    assert [report.bad_steps for report in reports] == [1] * len(reports)
    assert np.isfinite(reports[-1].loss)
    assert (trainer.state.progress.bad_steps, trainer.state.progress.epoch_bad_steps) == (1, 0)
    assert [report.bad_steps for report in trainer.train_epoch(1e9)][-1] == 1
    assert trainer.state.progress.bad_steps == 2


@pytest.mark.parametrize(("allowed", "steps"), [(0, 1), (2, 3)])
def test_one_bad_step_more_than_allowed_stops_the_run(tmp_path, monkeypatch, allowed, steps):
    spoil_samples(monkeypatch, *range(8))
    trainer = trainer_of(tmp_path, **{"optim.max_bad_steps": allowed})
    reports = []
    with pytest.raises(BadStepsError) as error:
        reports.extend(trainer.train_epoch(1e9))
    message = str(error.value)
    assert message.startswith(
        f"epoch 1, step {steps} of 4, learning rate 0.001: the loss is nan; this is bad step "
        f"{steps}, optim.max_bad_steps allows {allowed}; "
    )
    assert "; its samples: train-00000" in message


def test_an_epoch_without_one_good_step_stops_the_run(tmp_path, monkeypatch):
    spoil_samples(monkeypatch, *range(8))
    trainer = trainer_of(tmp_path)
    with pytest.raises(
        BadStepsError, match=r"^all 4 steps of epoch 1 were bad: epoch 1, step 4 of"
    ):
        list(trainer.train_epoch(1e9))


def test_samples_of_a_stream_are_named_by_number(tmp_path, monkeypatch):
    original = SampleLoader.batch
    monkeypatch.setattr(SampleLoader, "batch", lambda *given: spoil(original(*given)))
    streamed = {"data.reading": "streaming", "data.epoch_samples": 8}
    trainer = trainer_of(tmp_path, **streamed | {"optim.max_bad_steps": 0})
    with pytest.raises(BadStepsError, match=r"its samples: numbers 0, 1 of the stream$"):
        list(trainer.train_epoch(1e9))


# Two ranks, of which one has a bad sample


def train_rank(rank: int, folder: Path, task: Task) -> None:
    """Take two steps, the second bad on rank 1 alone, then an epoch with a bad sample."""
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2
    )
    trainer = Trainer(task, rank, 2, CPU)
    state, good = trainer.state, first_batch(trainer)
    state.parallel.train()
    state.step(good, 100)
    before = state_of(trainer)
    message = wrong(state.step(spoil(good) if rank == 1 else good, 100))
    result = {"wrong": message, "changed": changed(before, state_of(trainer))}
    spoil_samples(pytest.MonkeyPatch(), 6)
    fresh = Trainer(task, rank, 2, CPU)
    result["message"] = [line for report in fresh.train_epoch(1e9) for line in report.left_out]
    try:
        list(fresh.train_epoch(1e9))
    except BadStepsError as error:
        result["error"] = str(error)
    result["weights"] = dict(fresh.state.network.named_parameters())
    torch.save(result, folder / f"rank-{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_skip_a_step_together_whichever_has_the_bad_sample(tmp_path):
    task = task_of(tmp_path, **{"optim.batch_size": 4, "optim.max_bad_steps": 1})
    start_ranks(train_rank, (tmp_path, task), 2)
    first, second = (torch.load(tmp_path / f"rank-{rank}.pt") for rank in (0, 1))
    for rank in (first, second):
        assert rank["wrong"] == "the loss of rank 1 is nan"
        assert rank["changed"] == []
    # Every rank knows all samples of the step, four in all.
    assert first["message"] == second["message"]
    [message] = first["message"]
    assert "photo-006_00" in message
    assert message.count("photo-") == 4
    assert "its samples: rank 0: train-00000" in message
    assert " | rank 1: train-00000" in message
    assert first["error"] == second["error"]
    assert "epoch 2, step " in first["error"]
    assert "this is bad step 2, optim.max_bad_steps allows 1" in first["error"]
    assert changed(first["weights"], second["weights"]) == []
