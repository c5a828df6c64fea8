"""A trainer on real shards: alone, restored, and as two ranks together."""

import json
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import torch.distributed as dist
from factories import pack_samples, sample, samples
from trainers import CPU, alone, save, start_ranks, task_of

from pipeline.data import pictures
from pipeline.data.sampler import epoch_order
from pipeline.evaluation.evaluate import Evaluation
from pipeline.evaluation.oks import precision_of
from pipeline.evaluation.per_person import read_results
from pipeline.pose.joint_sets import MPII
from pipeline.pose.person import Visibility
from pipeline.run.metadata import Progress, read_metadata
from pipeline.settings.packing import CropSettings
from pipeline.training.console_logger import ConsoleLogger
from pipeline.training.trainer import Task, Trainer


@pytest.fixture
def shards(tmp_path) -> tuple[list[Path], list[Path]]:
    """Seven people to train on in two shards, five to validate on."""
    people = samples(7)
    return (
        pack_samples(tmp_path / "train", [people[:4], people[4:]]),
        pack_samples(tmp_path / "val", [samples(5, first=20)], split="val"),
    )


def train(trainer: Trainer, epochs: int) -> list[float]:
    """Train, and return each epoch's mean loss."""
    losses = []
    for _ in range(epochs):
        *_, last = trainer.train_epoch(every_s=1e9)
        losses.append(last.loss)
    return losses


def test_an_epoch_takes_as_many_whole_batches_as_there_are(shards):
    trainer = alone(task_of(*shards, **{"optim.batch_size": 3}))
    assert trainer.steps_per_epoch == 2
    assert trainer.samples_in_all == 2 * 3 * 3
    reports = list(trainer.train_epoch(every_s=0.0))
    assert [(report.epoch, report.step, report.steps) for report in reports] == [
        (0, 1, 2),
        (0, 2, 2),
    ]
    assert trainer.state.progress == Progress(epochs=1, steps=2, samples=6)
    [report] = trainer.train_epoch(every_s=1e9)
    assert (report.epoch, report.step) == (1, 2)
    assert trainer.state.progress == Progress(epochs=2, steps=4, samples=12)


def test_decoded_crops_in_memory_leave_training_as_it_is(shards, capsys):
    plain, held = alone(task_of(*shards)), alone(task_of(*shards, **{"data.cache_decoded_gb": 1.0}))
    assert plain.decoded is None
    # Three batches of two in each epoch, of seven samples.
    assert train(plain, 1) == train(held, 1)
    assert held.decoded.count == 6
    assert train(plain, 2) == train(held, 2)
    assert 6 <= held.decoded.count <= len(held.decoded) == 7
    logger = ConsoleLogger(held, "")
    for report in held.train_epoch(every_s=1e9):
        logger.stepped(report)
        logger.stepped(report)
    assert capsys.readouterr().out.count(f"memory: {held.decoded.count} of 7, ") == 1


def test_a_checkpoint_says_how_the_crops_of_its_evaluation_are_stored(shards, tmp_path):
    stored = CropSettings(person_px=96, margin=1.5)
    for name, crop in (("known", asdict(stored)), ("unknown", None)):
        (tmp_path / name).mkdir()
        save(alone(replace(task_of(*shards), crop=crop)), tmp_path / name, {})
    assert read_metadata(tmp_path / "known").crop == stored
    assert read_metadata(tmp_path / "unknown").crop is None


def test_a_checkpoint_of_other_joints_is_refused(shards, tmp_path):
    task = task_of(*shards)
    save(alone(task), tmp_path, {})
    unpaired = replace(MPII, flip_pairs=()).to_json()
    message = (
        f"{tmp_path}: checkpoint and data have different joint sets: two called mpii that differ "
        "in flip_pairs; expected the same"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        alone(replace(task, joint_set=unpaired)).state.restore(tmp_path)


def test_a_report_has_loss_speed_and_learning_rate(shards):
    trainer = alone(task_of(*shards))
    reports = list(trainer.train_epoch(every_s=0.0))
    assert all(report.loss > 0 and report.samples_per_s > 0 for report in reports)
    assert all(0 <= report.input_wait_share <= 1 for report in reports)
    assert [report.learning_rate for report in reports] == [1e-2] * 3


def test_the_learning_rate_falls_over_all_epochs(shards):
    trainer = alone(task_of(*shards, **{"optim.schedule": "cosine", "optim.epochs": 2}))
    rates = [report.learning_rate for _ in range(2) for report in trainer.train_epoch(0.0)]
    # Six steps in all: 0, 30, 60, ... degrees.
    cosines = np.cos(np.deg2rad([0, 30, 60, 90, 120, 150]))
    assert rates == pytest.approx((1e-2 * 0.5 * (1 + cosines)).tolist())


@pytest.mark.parametrize("workers", [2, 4])
def test_the_learning_rate_does_not_depend_on_the_number_of_workers(tmp_path, monkeypatch, workers):
    people = samples(12)
    paths = pack_samples(tmp_path / "train", [people[:6], people[6:]])
    task = task_of(
        paths,
        paths,
        **{
            # A rank of four has one sample, whose BatchNorm needs more than one pixel.
            "model.order": 3,
            "optim.batch_size": 4,
            "optim.schedule": "cosine",
            "optim.warmup_samples": 10,
            "optim.rate_scaling": "linear",
        },
    )

    def course(trainer: Trainer) -> list[tuple[int, float]]:
        return [
            (trainer.state.progress.samples, report.learning_rate)
            for _ in range(3)
            for report in trainer.train_epoch(0.0)
        ]

    expected = course(alone(task))
    # One rank runs alone here, so nothing is summed.
    monkeypatch.setattr("pipeline.training.trainer.all_reduce_sum", lambda value, _: float(value))
    monkeypatch.setattr("pipeline.training.step.start_sum", lambda value, _: lambda: value)
    assert course(Trainer(task, 0, workers, CPU)) == expected
    in_parts = replace(task, settings=task.settings | {"optim.accumulate": 4 // workers})
    assert course(Trainer(in_parts, 0, workers, CPU)) == expected
    # Two thirds of 1e-2: at 4 and 8 of 10 samples, then down a cosine of 26 from 8 + 4 on.
    rate = 1e-2 * 4 / 6
    assert [rate for _, rate in expected[:3]] == pytest.approx([0.4 * rate, 0.8 * rate, rate])
    assert expected[-1][1] == pytest.approx(rate * 0.5 * (1 + np.cos(np.pi * 22 / 26)))


def test_an_interrupted_plateau_drops_the_rate_at_the_same_epoch(shards, tmp_path):
    task = task_of(*shards, **{"optim.schedule": "plateau", "optim.patience": 2})

    def rates(trainer: Trainer, accuracies: list[float]) -> list[float]:
        found = []
        for accuracy in accuracies:
            *_, last = trainer.train_epoch(1e9)
            found.append(last.learning_rate)
            trainer.state.judge(accuracy)
        return found

    first = alone(task)
    assert rates(first, [50.0, 40.0]) == [1e-2, 1e-2]
    save(first, tmp_path, {})
    second = alone(task)
    second.state.restore(tmp_path)
    assert rates(second, [49.0, 60.0, 60.0]) == pytest.approx([1e-2, 2e-3, 2e-3])


def test_a_tiny_network_overfits_eight_people(tmp_path):
    random = np.random.default_rng(3)
    people = [
        sample(
            number,
            joints=tuple(
                (float(x), float(y)) for x, y in (100, 80) + random.uniform(-35, 35, (16, 2))
            ),
        )
        for number in range(8)
    ]
    paths = pack_samples(tmp_path / "train", [people])
    changes = {"model.features": 32, "optim.batch_size": 8, "optim.epochs": 80}
    trainer = alone(task_of(paths, paths, **changes | {"evaluation.flip_test": False}))
    losses = train(trainer, 80)
    assert losses[-1] < losses[0] / 10
    # And what it has learned is where the joints are.
    assert trainer.evaluate_people()[0].scores(trainer.joint_set)["pckh"].headline > 90


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("optimizer", "changes"),
    [
        ("rmsprop", {}),
        ("adamw", {}),
        ("adamw", {"optim.ema_samples": 10, "optim.weight_decay": 0.1, "optim.warmup_samples": 9}),
        # A part has one sample, whose BatchNorm needs more than one pixel.
        (
            "adamw",
            {
                "model.order": 3,
                "optim.accumulate": 2,
                "optim.clip_norm": 1.0,
                "optim.precision": "fp16",
            },
        ),
    ],
)
def test_training_that_was_interrupted_ends_bit_identical(
    shards, tmp_path, threads, optimizer, changes
):
    task = task_of(
        *shards,
        **{
            "data.rotation_deg": 30.0,
            "data.scale_jitter": 0.25,
            "data.flip_share": 0.5,
            "data.color_jitter": 0.4,
            "data.threads": threads,
            "optim.optimizer": optimizer,
            "optim.schedule": "cosine",
            "optim.learning_rate": 1e-3,
        }
        | changes,
    )
    straight = alone(task)
    losses = train(straight, 3)
    first = alone(task)
    train(first, 1)
    first.evaluate_people()
    save(first, tmp_path, {"val_loss": 1.0})
    second = alone(task)
    second.state.restore(tmp_path)
    assert second.state.progress == Progress(epochs=1, steps=3, samples=6)
    assert train(second, 2) == losses[1:]
    assert second.state.progress == straight.state.progress
    assert left_by(second, tmp_path / "second") == left_by(straight, tmp_path / "straight")


def left_by(trainer: Trainer, folder: Path) -> dict[str, bytes]:
    """The bytes of all weights that a trainer saves: raw and, where there is one, their average."""
    folder.mkdir()
    save(trainer, folder, {})
    found = {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}
    assert len(found) == 1 + (trainer.settings.optim.ema_samples > 0)
    return found


def test_an_average_that_is_turned_on_late_starts_from_the_weights(shards, tmp_path):
    task = task_of(*shards)
    first = alone(task)
    train(first, 1)
    save(first, tmp_path, {})
    second = alone(replace(task, settings=task.settings | {"optim.ema_samples": 100}))
    second.state.restore(tmp_path)
    assert second.evaluate_people()[0].loss_sum == second.evaluate_people("raw")[0].loss_sum
    train(second, 1)
    assert second.evaluate_people()[0].loss_sum != second.evaluate_people("raw")[0].loss_sum


@contextmanager
def watched(trainer: Trainer) -> Iterator[list[int]]:
    """Collect the positions of the samples that are loaded to train on."""
    seen: list[int] = []
    original = trainer._train.batch

    def spied(positions, *arguments):
        seen.extend(positions.tolist())
        return original(positions, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer._train, "batch", spied)
        yield seen


def seen_by(trainer: Trainer, steps: int) -> list[int]:
    """Train `steps` steps and return the positions of their samples."""
    with watched(trainer) as seen:
        reports = trainer.train_epoch(every_s=0.0)
        for _ in range(steps):
            next(reports)
        reports.close()
    # Prefetching has loaded more than the steps used.
    return seen[: steps * trainer.settings.optim.batch_size]


def test_an_epoch_that_was_interrupted_sees_every_sample_once(tmp_path):
    people = samples(11)
    paths = pack_samples(tmp_path / "train", [people[:3], people[3:4], people[4:]])
    task = task_of(paths, paths, **{"optim.learning_rate": 1e-3, "data.flip_share": 0.5})
    straight = alone(task)
    whole = seen_by(straight, 5)
    # Ten of eleven: one sample is the remainder of batches of two.
    assert len(set(whole)) == len(whole) == 10
    first = alone(task)
    before = seen_by(first, 2)
    assert first.state.progress == Progress(epochs=0, epoch_steps=2, steps=2, samples=4)
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    save(first, folder, {})
    second = alone(task)
    second.state.restore(folder)
    after = seen_by(second, 3)
    assert before + after == whole
    assert (
        second.state.progress == straight.state.progress == Progress(epochs=1, steps=5, samples=10)
    )
    for name, value in straight.state.network.state_dict().items():
        assert torch.equal(value, second.state.network.state_dict()[name]), name


def test_an_interrupted_epoch_is_not_mixed_with_one_of_another_order(shards, tmp_path):
    task = task_of(*shards)
    first = alone(task)
    seen_by(first, 1)
    save(first, tmp_path, {})
    other = alone(replace(task, settings=task.settings | {"data.seed": 1}))
    with pytest.raises(ValueError, match=r"of another order: data\.seed is 0 there, expected 1$"):
        other.state.restore(tmp_path)


def damage(path: Path, key: str) -> None:
    """Change one byte of a stored picture."""
    with tarfile.open(path) as tar:
        at = tar.getmember(f"{key}.jpg").offset_data + 300
    data = bytearray(path.read_bytes())
    data[at] ^= 255
    path.write_bytes(data)


def test_bad_samples_are_skipped_and_counted_once_each(tmp_path):
    [path] = pack_samples(tmp_path / "train", [samples(6)], members=True)
    [val] = pack_samples(tmp_path / "val", [samples(5, first=20)], split="val", members=True)
    damage(path, "photo-003_00")
    damage(val, "photo-022_00")
    trainer = alone(task_of([path], [val], **{"data.bad_samples": 1}))
    train(trainer, 2)
    assert trainer.evaluate_people()[0].people == trainer.evaluate_people()[0].people == 4
    assert trainer.count_bad_samples() == 2
    [first, second] = trainer.bad_samples().values()
    assert first.startswith("train-000000.tar: photo-003_00.jpg: checksum ")
    assert second.startswith("val-000000.tar: photo-022_00.jpg: checksum ")
    with pytest.raises(ValueError, match=r"^train-000000\.tar: photo-003_00\.jpg: checksum "):
        train(alone(task_of([path], [val])), 1)


def test_the_bound_on_pixels_of_stored_pictures_is_a_setting(shards):
    trainer = alone(task_of(*shards, **{"data.max_pixels": 1_000}))
    with pytest.raises(ValueError, match=r"photo-.* pixels, expected at most 1,000 in all"):
        train(trainer, 1)


def test_a_checkpoint_describes_its_training(shards, tmp_path):
    task = task_of(*shards)
    trainer = alone(task)
    train(trainer, 1)
    save(trainer, tmp_path, {"val_loss": 0.5})
    metadata = read_metadata(tmp_path)
    assert (metadata.joint_set, metadata.metrics) == (MPII, {"val_loss": 0.5})
    assert metadata.settings == trainer.settings
    wider = alone(replace(task, settings=task.settings | {"model.features": 12}))
    with pytest.raises(ValueError, match=r"model\.features is 8 there, expected 12$"):
        wider.state.restore(tmp_path)


def test_every_validation_person_is_counted_once(shards):
    trainer = alone(task_of(*shards))
    result = trainer.evaluate_people()[0]
    assert result.people == 5
    assert result.counts["pckh"].annotated.tolist() == [5] * 16


def test_results_per_person_add_up_to_the_evaluation(tmp_path):
    states = (Visibility.MISSING,) * 3 + (Visibility.VISIBLE,) * 13
    people = [sample(20), sample(21, visibility=states), sample(22, head_size=None)]
    [train] = pack_samples(tmp_path / "train", [samples(7)])
    [val] = pack_samples(tmp_path / "val", [people], split="val")
    trainer = alone(task_of([train], [val]))
    list(trainer.train_epoch(every_s=1e9))
    evaluation, cases = trainer.evaluate_people()
    assert len(cases) == evaluation.people == 3
    for measure in MPII.measures:
        counts, counted = cases.counts(measure), evaluation.counts[measure.key]
        assert np.array_equal(counts.correct, counted.correct)
        assert np.array_equal(counts.annotated, counted.annotated)
    # Joint 0 counts for neither of the last two: missing, and without a head size.
    assert cases.counts(MPII.measure("pckh")).annotated.tolist() == [1] * 3 + [2] * 13
    assert np.isnan(cases.errors["pckh"][2]).all()
    assert not np.isnan(cases.errors["pck_torso"][2]).any()


def test_pictures_show_the_configured_number_of_people(shards, monkeypatch):
    drawn = []
    monkeypatch.setattr(pictures, "png", lambda figure: drawn.append(figure) or b"")
    alone(task_of(*shards, **{"evaluation.overlays": 3})).overlays("after an epoch")
    [figure] = drawn
    titles = [axis.get_title() for axis in figure.axes if axis.images]
    # Evenly spaced over the five.
    assert titles == ["photo-020_00", "photo-022_00", "photo-024_00"]


# Two ranks


def train_rank(rank: int, folder: Path, task: Task) -> None:
    """Train an epoch and evaluate as one of two ranks; write the results to `folder`."""
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2
    )
    trainer = Trainer(task, rank, 2, CPU)
    before = trainer.evaluate_people()[0]
    (folder / f"before-{rank}.json").write_text(json.dumps(before.to_json()))
    with watched(trainer) as seen:
        *_, last = trainer.train_epoch(every_s=1e9)
    own = {name: buffer.clone() for name, buffer in trainer.state.network.named_buffers()}
    after = trainer.evaluate_people("raw")[0]
    (folder / f"after-{rank}.json").write_text(json.dumps(after.to_json()))
    _, cases = trainer.evaluate_people()
    (folder / f"people-{rank}.npz").write_bytes(cases.to_bytes())
    with mock.patch("pipeline.training.trainer.precision_of", wraps=precision_of) as computed:
        precision = trainer.average_precision(cases)
    torch.save(
        {
            "average": trainer.state.network_of("ema").state_dict(),
            "state": trainer.state.network.state_dict(),
            "own statistics": own,
            "loss": last.loss,
            "precision": (precision and asdict(precision), computed.call_count),
            "seen": seen,
            "progress": vars(trainer.state.progress),
            "gradients": [
                gradient(rank, 2, task, parts, recompute)
                for parts in (1, 2)
                for recompute in (False, True)
            ],
            "uneven gradient": gradient(rank, 2, uneven(task), 1),
        },
        folder / f"rank-{rank}.pt",
    )
    dist.destroy_process_group()


def gradient(
    rank: int, workers: int, task: Task, parts: int, recompute: bool = False
) -> torch.Tensor:
    """All gradients on an epoch's first batch in parts, with BatchNorm in eval mode."""
    settings = task.settings | {"optim.accumulate": parts, "optim.checkpointing": recompute}
    trainer = Trainer(replace(task, settings=settings), rank, workers, CPU)
    trainer.state.parallel.eval()
    trainer.state.step(next(trainer._batches()), samples_in_all=100)
    return torch.cat([weight.grad.ravel() for weight in trainer.state.network.parameters()])


def uneven(task: Task) -> Task:
    """Three samples a step, of which one rank of two has one, the other two."""
    return replace(task, settings=task.settings | {"optim.batch_size": 3, "ray.workers": "1:2"})


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory) -> tuple[Path, Task]:
    """The results of two ranks after an epoch of nine people in five shards, validated on seven."""
    folder = tmp_path_factory.mktemp("ranks")
    people = samples(9)
    shards = [people[:3], people[3:4], people[4:6], people[6:7], people[7:]]
    task = task_of(
        pack_samples(folder / "train", shards, members=True),
        pack_samples(folder / "val", [samples(7, first=20, area=2500.0)], split="val"),
        **{"optim.batch_size": 4, "optim.learning_rate": 1e-3, "optim.ema_samples": 100},
    )
    task = replace(task, joint_set=replace(MPII, sigmas=(0.2,) * 16).to_json())
    start_ranks(train_rank, (folder, task), 2)
    return folder, task


def evaluation(folder: Path, name: str) -> Evaluation:
    return Evaluation.read(folder / f"{name}.json", MPII)


def ranks_of(folder: Path) -> list[dict]:
    return [torch.load(folder / f"rank-{rank}.pt") for rank in (0, 1)]


def assert_same(one: Evaluation, other: Evaluation) -> None:
    assert one.people == other.people
    for key, counts in one.counts.items():
        assert np.array_equal(counts.correct, other.counts[key].correct)
        assert np.array_equal(counts.annotated, other.counts[key].annotated)


def test_average_precision_is_computed_on_one_rank_and_known_on_both(two_ranks):
    (first, times), (second, none) = (rank["precision"] for rank in ranks_of(two_ranks[0]))
    assert (times, none) == (1, 0)
    assert first == pytest.approx(second, nan_ok=True)
    # People of 2,500 square pixels are of medium size.
    assert 0 <= first["ap_m"] == first["ap"] <= 100


def test_two_ranks_evaluate_exactly_as_one_does(two_ranks):
    folder, task = two_ranks
    result = alone(task).evaluate_people()[0]
    # Seven people: four batches, two for each rank, the last of one person.
    assert result.people == 7
    assert result.counts["pck_torso"].annotated.tolist() == [7] * 16
    for rank in (0, 1):
        theirs = evaluation(folder, f"before-{rank}")
        assert_same(theirs, result)
        assert theirs.loss_sum == pytest.approx(result.loss_sum)
        # Heads that start at zero give flat heatmaps.
        assert theirs.flat == result.flat == 7


def test_two_ranks_that_trained_evaluate_as_their_checkpoint_does(two_ranks):
    folder, task = two_ranks
    trainer = alone(task)
    trainer.state.network.load_state_dict(ranks_of(folder)[0]["state"])
    result = trainer.evaluate_people("raw")[0]
    for rank in (0, 1):
        assert_same(evaluation(folder, f"after-{rank}"), result)


def test_two_ranks_have_the_results_per_person_of_one(two_ranks):
    folder, task = two_ranks
    trainer = alone(task)
    trainer.state.network_of("ema").load_state_dict(ranks_of(folder)[0]["average"])
    _, cases = trainer.evaluate_people()
    # In the order of their keys, each once.
    assert cases.keys == tuple(f"photo-{number:03d}_00" for number in range(20, 27))
    for rank in (0, 1):
        theirs = read_results(folder / f"people-{rank}.npz")
        assert theirs.keys == cases.keys
        assert np.array_equal(theirs.positions, cases.positions)
        assert np.array_equal(theirs.truths, cases.truths)
        assert theirs.joints == pytest.approx(cases.joints, abs=1e-3)
        assert np.array_equal(np.isnan(theirs.errors["pckh"]), np.isnan(cases.errors["pckh"]))


def test_two_ranks_hold_the_same_weights_and_statistics(two_ranks):
    folder, task = two_ranks
    first, second = ranks_of(folder)
    for kind in ("state", "average"):
        assert first[kind].keys() == second[kind].keys()
        for name, value in first[kind].items():
            assert torch.equal(value, second[kind][name]), (kind, name)
    assert not torch.equal(first["state"]["stem_conv.weight"], first["average"]["stem_conv.weight"])
    fresh = alone(task).state.network.state_dict()
    assert not torch.equal(first["state"]["stem_conv.weight"], fresh["stem_conv.weight"])


def test_statistics_are_the_mean_over_the_ranks(two_ranks):
    folder, _ = two_ranks
    first, second = ranks_of(folder)
    name = "stem_norm.running_mean"
    own = [rank["own statistics"][name] for rank in (first, second)]
    # Each has seen other people.
    assert not torch.equal(*own)
    assert torch.allclose(first["state"][name], (own[0] + own[1]) / 2)


def test_ranks_and_parts_add_up_to_the_gradient_of_the_whole_batch(two_ranks):
    folder, task = two_ranks
    expected = gradient(0, 1, task, 1)
    close = {"rtol": 0, "atol": 1e-5 * float(expected.abs().max())}
    first, second = (rank["gradients"] for rank in ranks_of(folder))
    for ours, theirs in zip(first, second, strict=True):
        assert torch.equal(ours, theirs)
        assert torch.allclose(ours, expected, **close)


def test_ranks_with_unequal_shares_add_up_to_the_gradient_of_the_whole_batch(two_ranks):
    folder, task = two_ranks
    expected = gradient(0, 1, uneven(task), 1)
    first, second = (rank["uneven gradient"] for rank in ranks_of(folder))
    assert torch.equal(first, second)
    assert torch.allclose(first, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_two_ranks_see_every_sample_of_unequal_shards_once_up_to_the_remainder(two_ranks):
    folder, _ = two_ranks
    first, second = (rank["seen"] for rank in ranks_of(folder))
    # Nine people in batches of four: two steps each, and one person is dropped.
    assert len(first) == len(second) == 4
    assert len(set(first + second)) == 8
    order = epoch_order(np.array([0, 3, 4, 6, 7, 9]), seed=0, epoch=0, window=2048)
    assert set(first + second) == set(order[:8].tolist())


def test_two_ranks_report_one_loss_and_count_all_samples(two_ranks):
    folder, _ = two_ranks
    first, second = ranks_of(folder)
    assert first["loss"] == second["loss"]
    assert (
        first["progress"]
        == second["progress"]
        == {
            "epochs": 1,
            "epoch_steps": 0,
            "steps": 2,
            "samples": 8,
            "bad_steps": 0,
            "epoch_bad_steps": 0,
        }
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"model.stacks": 2, "model.supervision": "last-stack"},
        {"model.supervision": "inside", "optim.loss": "cross-entropy"},
    ],
    ids=lambda changes: changes["model.supervision"],
)
def test_two_ranks_train_with_every_supervision(tmp_path, changes):
    # DDP refuses a second step where a weight has had no gradient.
    people = samples(8)
    task = task_of(
        pack_samples(tmp_path / "train", [people[:4], people[4:]], members=True),
        pack_samples(tmp_path / "val", [samples(2, first=20)], split="val"),
        **changes | {"optim.batch_size": 4},
    )
    start_ranks(train_rank, (tmp_path, task), 2)
    ours, theirs = ranks_of(tmp_path)
    assert ours["progress"]["steps"] == 2
    assert ours["state"].keys() == theirs["state"].keys()
    for name, value in ours["state"].items():
        assert torch.equal(value, theirs["state"][name]), name
