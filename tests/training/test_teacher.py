"""Training on a teacher's heatmaps: trained networks, or the network's own last stack."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from factories import checkpoint, pack_samples, packed, samples, settings_of
from trainers import alone, task_of

from pipeline.data.batch import network_input
from pipeline.model.loss import to_heatmaps
from pipeline.model.network import Heatmaps
from pipeline.pose.joint_sets import LSP
from pipeline.pose.person import Visibility
from pipeline.run.checkpoint import load_network
from pipeline.run.cut import cut_checkpoint
from pipeline.run.metadata import read_metadata
from pipeline.run.plan import plan_training
from pipeline.settings import LAST_STACK, OptimSettings, Settings
from pipeline.training.teacher import teacher_of

CPU = torch.device("cpu")
NOTHING = Heatmaps(stacks=torch.zeros(1, 1, 1, 1, 1), supervised=())


def images() -> torch.Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def teachers(folder: Path, **changes) -> list[Path]:
    """Write two trained networks of different shapes; return their folders."""
    found = [folder / "one" / "epoch_0001", folder / "two" / "epoch_0001"]
    for path, stacks in zip(found, (2, 1), strict=True):
        checkpoint(path, {"pckh_0.5": 1.0}, **{"model.stacks": stacks} | changes)
    return found


def test_teachers_are_averaged_in_the_unit_of_the_students_target(tmp_path):
    # They learned targets of height 5, the student learns such of height 10.
    one, two = teachers(tmp_path, **{"optim.target_peak": 5.0})
    teach = teacher_of(OptimSettings(teacher=f"{one}, {two}", target_peak=10.0), CPU)
    assert teach is not None
    with torch.inference_mode():
        maps = [load_network(path, CPU)[0](images()).stacks[-1] for path in (one, two)]
    assert torch.allclose(teach(images(), NOTHING), 2 * (maps[0] + maps[1]) / 2, atol=1e-6)


def test_probabilities_are_taught_as_they_are(tmp_path):
    one, _ = teachers(tmp_path, **{"optim.loss": "cross-entropy"})
    teach = teacher_of(OptimSettings(teacher=str(one), loss="cross-entropy", target_peak=3.0), CPU)
    assert teach is not None
    assert teach(images(), NOTHING).sum(dim=(-2, -1)) == pytest.approx(torch.ones(2, 16), abs=1e-5)


def test_the_last_stack_teaches_without_a_gradient():
    stacks = torch.rand(2, 1, 1, 4, 4, requires_grad=True)
    teach = teacher_of(OptimSettings(teacher=LAST_STACK, loss="cross-entropy"), CPU)
    assert teach is not None
    taught = teach(images(), Heatmaps(stacks=stacks, supervised=(stacks,)))
    assert not taught.requires_grad
    assert torch.equal(taught, to_heatmaps(stacks[-1].detach(), "cross-entropy"))


def test_without_a_teacher_labels_alone_are_learned():
    assert teacher_of(OptimSettings(), CPU) is None


def test_a_student_learns_joints_without_label_from_its_teacher(tmp_path):
    one, _ = teachers(tmp_path)
    hardly = {"visibility": (Visibility.VISIBLE, *(Visibility.MISSING,) * 15)}
    train = pack_samples(tmp_path / "train", [samples(4, **hardly)])
    val = pack_samples(tmp_path / "val", [samples(2, first=4)], split="val")
    before = {path: path.read_bytes() for path in one.iterdir()}
    changes = {"optim.teacher": str(one), "optim.missing_joints": "mask", "optim.epochs": 15}
    trainer = alone(task_of(train, val, **changes))
    teach = teacher_of(trainer.settings.optim, CPU)
    assert teach is not None
    seen = network_input(trainer._train.batch(np.arange(4)), CPU)
    taught = teach(seen, NOTHING)[:, 1:]

    def distance() -> float:
        with torch.inference_mode():
            found = trainer.state.network.eval()(seen).stacks[-1][:, 1:]
        return float((found - taught).square().mean())

    begun = distance()
    for _ in range(15):
        list(trainer.train_epoch(1e9))
    assert distance() < begun / 2
    assert {path: path.read_bytes() for path in one.iterdir()} == before


def test_the_other_stacks_learn_from_the_last(tmp_path):
    train = pack_samples(tmp_path / "train", [samples(4)])
    val = pack_samples(tmp_path / "val", [samples(2, first=4)], split="val")
    changes = {"model.stacks": 2, "optim.epochs": 2, "optim.zero_heads": False}
    changes |= {"optim.target_peak": 1.0}
    apart = []
    for teacher in ({}, {"optim.teacher": LAST_STACK, "optim.teacher_share": 1.0}):
        trainer = alone(task_of(train, val, **changes | teacher))
        seen = network_input(trainer._train.batch(np.arange(4)), CPU)
        for _ in range(2):
            list(trainer.train_epoch(1e9))
        with torch.inference_mode():
            first, last = trainer.state.network.train()(seen).stacks
        apart.append(float((first - last).square().mean()))
    # If it were the other way round, the last would learn from no label and stay far away.
    without, taught = apart
    assert taught < 0.95 * without, apart


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.input_px": 128}, "its model.input_px is 128, expected 64 as in the network that"),
        ({"optim.loss": "cross-entropy"}, "its optim.loss is cross-entropy, expected mse as in"),
        ({"joint_set": LSP}, "teacher and data have different joint sets: "),
    ],
)
def test_a_teacher_of_other_heatmaps_is_refused(tmp_path, changes, message):
    folder = tmp_path / "teacher" / "epoch_0001"
    checkpoint(folder, {"pckh_0.5": 1.0}, **changes)
    settings = settings_of(packed(tmp_path), **place(tmp_path, folder))
    with pytest.raises(ValueError, match=re.escape(f"optim.teacher='{folder}': {message}")[:200]):
        plan_training(settings)


def place(tmp_path: Path, teacher: object) -> dict[str, str]:
    return {"optim.teacher": str(teacher), "ray.storage": str(tmp_path / "runs")}


def test_a_teacher_that_is_nowhere_is_refused(tmp_path):
    settings = settings_of(packed(tmp_path), **place(tmp_path, "nobody"))
    with pytest.raises(ValueError, match=r"optim\.teacher='nobody': no such folder"):
        plan_training(settings)


def test_a_damaged_teacher_is_refused_before_the_training(tmp_path):
    one, _ = teachers(tmp_path)
    content = bytearray((one / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (one / "weights.safetensors").write_bytes(content)
    settings = settings_of(packed(tmp_path), **place(tmp_path, one))
    with pytest.raises(ValueError, match=r"weights\.safetensors: checksum mismatch"):
        plan_training(settings)


def test_teachers_are_named_by_their_runs(tmp_path):
    one, two = teachers(tmp_path / "runs")
    settings = settings_of(packed(tmp_path), **place(tmp_path, "one,two"))
    assert plan_training(settings).settings.optim.teacher == f"{one},{two}"


def test_a_teacher_in_a_folder_with_a_comma_is_refused(tmp_path):
    teachers(tmp_path / "runs, old")
    place = {"optim.teacher": "one", "ray.storage": str(tmp_path / "runs, old")}
    message = f"optim.teacher must be in folders without a comma.*{tmp_path}/runs, old/one"
    with pytest.raises(ValueError, match=message):
        plan_training(settings_of(packed(tmp_path), **place))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model.supervision": "inside", "model.stacks": 1, "optim.teacher": "one"},
            "optim.teacher must be empty with model.supervision=inside",
        ),
        (
            {"model.supervision": "last-stack", "optim.teacher": LAST_STACK},
            "model.supervision must be every-stack with optim.teacher=last-stack",
        ),
        ({"optim.teacher": " ,"}, "optim.teacher must be empty, last-stack, or trained networks"),
        ({"optim.teacher_share": 1.5}, "optim.teacher_share must be from 0 to 1, got 1.5"),
        ({"optim.teacher_share": 0.3}, "optim.teacher_share must be 0.5 without optim.teacher"),
        ({"optim.stack_ratio": 0.0}, "optim.stack_ratio must be above 0, got 0.0"),
        (
            {"optim.stack_ratio": 2.0, "model.supervision": "last-stack"},
            "optim.stack_ratio must be 1 with model.supervision=last-stack, with which one stack",
        ),
        (
            {"optim.stack_ratio": 2.0, "model.supervision": "inside", "model.stacks": 1},
            "optim.stack_ratio must be 1 with model.supervision=inside, with which one stack",
        ),
        (
            {"evaluation.every_stack": True, "model.supervision": "last-stack"},
            "evaluation.every_stack must be False with model.supervision=last-stack",
        ),
    ],
)
def test_settings_of_teachers_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Settings.from_flat(changes)


@pytest.mark.parametrize("changes", [{"optim.stack_ratio": 2.0}, {"optim.teacher": LAST_STACK}])
def test_sweeps_over_stacks_and_cut_networks_may_have_one(tmp_path, changes):
    whole = tmp_path / "run" / "epoch_0001"
    checkpoint(whole, {"pckh_0.5": 1.0}, **{"model.stacks": 2} | changes)
    cut = read_metadata(cut_checkpoint(whole, 1, tmp_path)).settings
    assert cut.model.stacks == 1
    assert changes.items() <= cut.flat().items()


def test_a_teacher_and_weights_of_stacks_make_another_run(tmp_path):
    plain = settings_of(packed(tmp_path))
    taught = plain.replaced({"optim.teacher": LAST_STACK})
    share = plain.replaced({"optim.stack_ratio": 2.0})
    assert len({s.fingerprint("data") for s in (plain, taught, share)}) == 3
