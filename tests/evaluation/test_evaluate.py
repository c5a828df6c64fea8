"""Evaluation with networks that know the truth: original pixels, counts by hand."""

import json
import re
from collections.abc import Iterable, Sequence

import numpy as np
import pytest
import torch
from factories import sample, samples
from torch import nn

from pipeline.data.batch import Batch, network_input
from pipeline.data.loader import SampleLoader
from pipeline.data.sampler import validation_batches
from pipeline.data.shards.reader import ShardReader
from pipeline.data.shards.sample import Sample
from pipeline.evaluation.baseline import constant_pose, predict_constant_pose
from pipeline.evaluation.evaluate import (
    Evaluation,
    Evaluator,
    Predictions,
    Truth,
    evaluate_people,
    evaluate_stacks,
)
from pipeline.evaluation.metrics import JointCounts
from pipeline.model.heatmaps import render
from pipeline.model.network import Heatmaps
from pipeline.pose.joint_sets import COCO, MPII
from pipeline.pose.person import Visibility
from pipeline.settings import EvaluationSettings, OptimSettings, Settings

CPU = torch.device("cpu")
AT_HALF, AT_TENTH = 50, 10
# A frame of 100 pixels on a heatmap of 16.
PIXEL = 100 / 16
_GONE = (Visibility.MISSING,)


def loader_of(pack, *shards, joint_set=MPII, **options) -> SampleLoader:
    paths = pack(*shards, joint_set=joint_set, **options)
    return SampleLoader(ShardReader([str(path) for path in paths]), joint_set, 64)


def evaluate(predictions: Iterable[Predictions], loader: SampleLoader) -> Evaluation:
    return evaluate_people(predictions, loader)[0]


def batches_of(loader: SampleLoader, size: int) -> list[Batch]:
    positions = validation_batches(len(loader.samples), size, rank=0, workers=1)
    return [loader.batch(chosen) for chosen in positions]


def stacked(*maps: torch.Tensor) -> Heatmaps:
    """Heatmaps of stacks that are all supervised."""
    stacks = torch.stack(maps)
    return Heatmaps(stacks=stacks, supervised=(stacks,))


class Oracle(nn.Module):
    """Two stacks: the first predicts zeros, the last the truth of its picture, mirrored or not.

    `heights` multiply the last stack's maps of a plain and of a mirrored picture.
    """

    def __init__(self, batches: Sequence[Batch], heights: tuple[float, float] = (1.0, 1.0)) -> None:
        super().__init__()
        self.batches, self.heights = batches, heights
        self.modes: list[bool] = []

    def forward(self, images: torch.Tensor) -> Heatmaps:
        self.modes.append(self.training)
        for batch in self.batches:
            shown = network_input(batch, CPU)
            maps = render(batch.joints, batch.annotated, 16, 1.75, 1.0)
            if images.shape == shown.shape and torch.equal(images, shown):
                return stacked(torch.zeros_like(maps), self.heights[0] * maps)
            if images.shape == shown.shape and torch.equal(images, shown.flip(-1)):
                # The left wrist of the picture is a right one in the mirror.
                mirrored = maps[:, list(MPII.mirror)].flip(-1)
                return stacked(torch.zeros_like(maps), self.heights[1] * mirrored)
        raise AssertionError("shown a picture that is in no batch")


def evaluator(network: nn.Module, loader: SampleLoader, **changes) -> Evaluator:
    optim = OptimSettings(**changes.pop("optim", {}))
    settings = Settings(optim=optim, evaluation=EvaluationSettings(**changes))
    return Evaluator(network=network, loader=loader, settings=settings, device=CPU)


def run(network: nn.Module, loader: SampleLoader, batches: Sequence[Batch], **changes):
    return list(evaluator(network, loader, **{"flip_test": False} | changes).predict(batches))


def varied_samples(count: int) -> list:
    """Return people who differ in joints, centre and size, so that predictions are distinct."""
    random = np.random.default_rng(5)
    made = []
    for number in range(count):
        center = (90.0 + 7.3 * number, 80.0)
        joints = tuple(
            (float(x), float(y)) for x, y in np.array(center) + random.uniform(-30, 30, (16, 2))
        )
        made.append(sample(number, center=center, scale=0.4 + 0.05 * number, joints=joints))
    return made


@pytest.mark.parametrize("flip_test", [False, True])
@pytest.mark.parametrize(
    # Of a heatmap pixel.
    ("decoding", "within"),
    [("argmax", 0.5), ("quarter", 0.25), ("dark", 0.01)],
)
def test_predictions_come_back_in_pixels_of_the_original(pack, decoding, within, flip_test):
    made = varied_samples(3)
    loader = loader_of(pack, made)
    batches = batches_of(loader, 3)
    [predictions] = run(Oracle(batches), loader, batches, decoding=decoding, flip_test=flip_test)
    truth = np.array([one.person.joints for one in made])
    heatmap_px = np.array([200 * one.person.scale / 16 for one in made])
    off = np.abs(predictions.joints - truth) / heatmap_px[:, None, None]
    assert off.max() <= within + 1e-4
    assert predictions.positions.tolist() == [0, 1, 2]


def test_a_flip_test_of_an_exact_network_changes_nothing(pack):
    loader = loader_of(pack, varied_samples(3))
    batches = batches_of(loader, 3)
    [plain] = run(Oracle(batches), loader, batches)
    [flipped] = run(Oracle(batches), loader, batches, flip_test=True)
    assert np.array_equal(plain.joints, flipped.joints)
    assert plain.confidence == pytest.approx(flipped.confidence)


def test_a_flip_test_averages_the_two_heatmaps(pack):
    loader = loader_of(pack, samples(1))
    batches = batches_of(loader, 1)
    [plain] = run(Oracle(batches, heights=(1.0, 0.5)), loader, batches)
    [flipped] = run(Oracle(batches, heights=(1.0, 0.5)), loader, batches, flip_test=True)
    assert flipped.confidence == pytest.approx(0.75 * plain.confidence)


def test_every_stack_is_evaluated_in_its_place(pack):
    loader = loader_of(pack, varied_samples(3))
    batches = batches_of(loader, 2)
    measured = evaluator(Oracle(batches), loader)
    stacks = list(zip(*measured.predict_stacks(batches), strict=True))
    last = list(measured.predict(batches))
    assert len(stacks) == 2
    for of_stack, of_network in zip(stacks[1], last, strict=True):
        assert np.array_equal(of_stack.joints, of_network.joints)
        assert of_stack.loss == of_network.loss
    first, second = (evaluate(parts, loader).scores(MPII)["pckh"].headline for parts in stacks)
    # The first stack predicts zeros; the last is right to a quarter of a heatmap pixel.
    assert first < 20
    assert second == 100


def test_the_truth_of_a_batch_is_read_once_for_all_its_stacks(pack, monkeypatch):
    loader = loader_of(pack, varied_samples(3))
    batches = batches_of(loader, 2)
    stacks = list(evaluator(Oracle(batches), loader).predict_stacks(batches))
    alone = [evaluate_people(parts, loader) for parts in zip(*stacks, strict=True)]
    read = []
    whole = Truth.of

    def of(people: Sequence[Sample]) -> Truth:
        read.append(len(people))
        return whole(people)

    monkeypatch.setattr(Truth, "of", of)
    found = evaluate_stacks(stacks, loader, 2)
    assert read == [2, 1]
    for (together, people), (one, own) in zip(found, alone, strict=True):
        assert together.to_json() == one.to_json()
        assert people.to_bytes() == own.to_bytes()


def test_a_flip_test_averages_probabilities_of_a_network_trained_by_cross_entropy(pack):
    loader = loader_of(pack, samples(1))
    batches = batches_of(loader, 1)
    network = Oracle(batches, heights=(9.0, 0.0))
    [flipped] = run(network, loader, batches, flip_test=True, optim={"loss": "cross-entropy"})
    maps = render(batches[0].joints, batches[0].annotated, 16, 1.75, 1.0)
    plain = (9 * maps).flatten(2).softmax(dim=-1).amax(dim=-1)
    assert flipped.confidence == pytest.approx(((plain + 1 / 256) / 2).numpy())


@pytest.mark.parametrize("training", [True, False])
def test_a_network_is_evaluated_in_evaluation_mode_and_left_as_it_was(pack, training):
    loader = loader_of(pack, samples(3))
    batches = batches_of(loader, 2)
    network = Oracle(batches).train(training)
    run(network, loader, batches, flip_test=True)
    assert network.modes == [False] * 4
    assert network.training is training


def test_a_network_that_fails_is_left_in_training_mode(pack):
    loader = loader_of(pack, samples(1))
    network = Oracle([])
    with pytest.raises(AssertionError, match="in no batch"):
        run(network, loader, batches_of(loader, 1))
    assert network.training


class Constant(nn.Module):
    """Two stacks that predict `value` everywhere."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, images: torch.Tensor) -> Heatmaps:
        return stacked(*torch.full((2, len(images), 16, 16, 16), self.value))


def test_people_whose_heatmaps_are_flat_are_counted(pack, tmp_path):
    loader = loader_of(pack, samples(3))
    batches = batches_of(loader, 2)
    # Heatmaps are flat below a tenth of the peak.
    for value, flat in ((0.0, 3), (0.9, 3), (1.1, 0)):
        predictions = run(Constant(value), loader, batches, optim={"target_peak": 10.0})
        assert evaluate(predictions, loader).flat == flat
    # Equal heights are the uniform distribution, however high.
    predictions = run(Constant(9.0), loader, batches, optim={"loss": "cross-entropy"})
    counted = evaluate(predictions, loader)
    assert counted.flat == 3
    assert (counted + counted).flat == 6
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps(counted.to_json()))
    assert Evaluation.read(path, MPII).flat == 3
    assert evaluate(run(Oracle(batches), loader, batches), loader).flat == 0


def test_losses_are_summed_over_people(pack):
    loader = loader_of(pack, samples(3, joints=((5000.0, 5000.0),) * 16))
    batches = batches_of(loader, 2)
    predictions = run(Constant(2.0), loader, batches)
    # Every joint is far outside, so every target is zero: 2 squared, of two stacks.
    assert [part.loss for part in predictions] == pytest.approx([2 * 8.0, 8.0])
    assert evaluate(predictions, loader).loss_sum == pytest.approx(24.0)
    masked = run(Constant(2.0), loader, batches, optim={"missing_joints": "mask"})
    assert [part.loss for part in masked] == [0.0, 0.0]


def off_by(loader: SampleLoader, offsets: Sequence[float]) -> Predictions:
    """Return predictions of every joint of person k, offsets[k] pixels right of the truth."""
    truth = np.array([one.person.joints for one in loader.samples])
    return Predictions(
        positions=np.arange(len(offsets)),
        joints=truth + np.array(offsets)[:, None, None] * [1.0, 0.0],
        confidence=np.ones(truth.shape[:2]),
        loss=1.5,
    )


def test_two_people_are_counted_by_hand(pack):
    # Head sizes 20 and 80; both are off by 12 pixels: 0.6 and 0.15.
    states = (Visibility.MISSING, Visibility.OCCLUDED) + (Visibility.VISIBLE,) * 14
    loader = loader_of(pack, [sample(0, head_size=20.0), sample(1, head_size=80.0)])
    missing = loader_of(pack, [sample(0, head_size=80.0, visibility=states)], folder="other")
    result = evaluate([off_by(loader, [12.0, 12.0])], loader)
    pckh = result.counts["pckh"]
    assert pckh.annotated.tolist() == [2] * 16
    assert pckh.correct[AT_HALF].tolist() == [1] * 16
    assert pckh.correct[AT_TENTH].tolist() == [0] * 16
    assert (pckh.correct[14, 0], pckh.correct[15, 0]) == (0, 1)
    assert (result.people, result.loss_sum) == (2, 1.5)
    # A missing joint counts neither way, an occluded one as any other.
    counts = evaluate([off_by(missing, [12.0])], missing).counts["pckh"]
    assert counts.annotated.tolist() == [0] + [1] * 15
    assert counts.correct[AT_HALF].tolist() == [0] + [1] * 15


def test_errors_are_normalised_by_the_torso_too(pack):
    # Left shoulder (13) at (92.5, 102.5), right hip (2) at (107.5, 57.5): 15 * sqrt(10) = 47.43 px.
    loader = loader_of(pack, [sample(0, head_size=None)])
    counts = evaluate([off_by(loader, [9.0])], loader).counts["pck_torso"]
    # 9 / 47.43 is 0.1897.
    assert counts.correct[19].tolist() == [1] * 16
    assert counts.correct[18].tolist() == [0] * 16


def test_a_truth_has_a_checksum_of_all_that_is_annotated():
    def checksum(**changes) -> int:
        [found] = Truth.of([sample(**changes)]).checksums().tolist()
        return found

    plain = checksum()
    joints = sample().person.joints
    moved = ((joints[0][0] + 0.5, joints[0][1]), *joints[1:])
    gone = _GONE + (Visibility.VISIBLE,) * 15
    changes = [
        *({"joints": moved}, {"visibility": gone}, {"head_size": 21.0}, {"head_size": None}),
        {"box": (0.0, 0.0, 5.0, 9.0)},
    ]
    assert len({plain, *(checksum(**change) for change in changes)}) == 6
    # Neither the place of a joint that is not annotated counts, nor how the crop is stored.
    assert checksum(visibility=gone, joints=moved) == checksum(visibility=gone)
    assert checksum(person_px=32) == plain
    assert 0 <= plain < 2**32


def test_scores_leave_out_a_measure_without_annotations(pack):
    loader = loader_of(pack, samples(2, head_size=None))
    result = evaluate([off_by(loader, [0.0, 0.0])], loader)
    assert list(result.scores(MPII)) == ["pck_torso"]
    assert result.scores(MPII)["pck_torso"].headline == 100.0
    assert Evaluation.nothing(MPII).scores(MPII) == {}


def test_the_box_of_coco_is_its_longer_side(pack):
    made = sample(0, joint_set=COCO, head_size=None, box=(50.0, 30.0, 100.0, 60.0))
    loader = loader_of(pack, [made], joint_set=COCO)
    counts = evaluate([off_by(loader, [5.0])], loader).counts["pck_box"]
    assert counts.correct[5].tolist() == [1] * 17
    assert counts.correct[4].tolist() == [0] * 17


def test_batches_of_any_size_give_the_same_counts(pack):
    loader = loader_of(pack, varied_samples(5))
    results = []
    for size in (5, 2, 1):
        batches = batches_of(loader, size)
        results.append(evaluate(run(Oracle(batches), loader, batches), loader))
    for other in results[1:]:
        assert other.people == results[0].people == 5
        assert other.loss_sum == pytest.approx(results[0].loss_sum)
        for key, counts in results[0].counts.items():
            assert np.array_equal(counts.correct, other.counts[key].correct)
            assert np.array_equal(counts.annotated, other.counts[key].annotated)
    # Some are right and some are wrong, or the comparison would prove little.
    assert 0 < results[0].counts["pckh"].correct[AT_TENTH].sum() < 5 * 16


def test_evaluations_add_up(pack):
    loader = loader_of(pack, samples(2))
    once = evaluate([off_by(loader, [0.0, 0.0])], loader)
    twice = once + once
    assert (twice.people, twice.loss_sum) == (4, 3.0)
    assert twice.counts["pckh"].annotated.tolist() == [4] * 16
    assert twice.counts["pckh"].correct[0].tolist() == [4] * 16
    total = Evaluation.nothing(MPII) + once
    assert total.counts["pckh"].correct[0].tolist() == [2] * 16


def test_an_evaluation_survives_json(pack, tmp_path):
    loader = loader_of(pack, samples(2))
    result = evaluate([off_by(loader, [4.0, 0.0])], loader)
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps(result.to_json()))
    back = Evaluation.read(path, MPII)
    assert (back.people, back.loss_sum) == (result.people, result.loss_sum)
    assert back.counts.keys() == result.counts.keys()
    for key, counts in result.counts.items():
        assert isinstance(back.counts[key], JointCounts)
        assert np.array_equal(back.counts[key].correct, counts.correct)
        assert np.array_equal(back.counts[key].annotated, counts.annotated)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("people"), "evaluation: field 'people' is absent"),
        (lambda c: c.update(people=-1), "people must be a whole number of at least 0, got -1"),
        (lambda c: c.update(flat=3), "flat must be a whole number of at most 2, got 3"),
        (lambda c: c.update(loss_sum="0"), "loss_sum must be a number with a point, got '0'"),
        (lambda c: c["counts"].pop("pckh"), "counts: field 'pckh' is absent"),
        (lambda c: c["counts"].update(pckh=5), "counts.pckh must be a table of fields, got 5"),
        (
            lambda c: c["counts"]["pckh"].update(annotated=[1, [2]]),
            "counts.pckh.annotated must be whole numbers of shape (16,), got [1, [2]]",
        ),
        (
            lambda c: c["counts"]["pckh"]["correct"][3].__setitem__(0, 0.5),
            "counts.pckh.correct must be whole numbers of shape (51, 16), got [[",
        ),
        (
            lambda c: c["counts"]["pckh"]["correct"][0].__setitem__(0, -1),
            "counts.pckh must rise from 0 with the threshold, to at most the annotated joints",
        ),
        (
            lambda c: c["counts"]["pckh"]["annotated"].__setitem__(0, 3),
            "and these to at most 2 people",
        ),
    ],
)
def test_an_evaluation_that_cannot_be_is_refused_by_file_and_field(pack, tmp_path, change, message):
    loader = loader_of(pack, samples(2))
    content = evaluate([off_by(loader, [4.0, 0.0])], loader).to_json()
    change(content)
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=re.escape(f"{path}: ")) as refused:
        Evaluation.read(path, MPII)
    assert message in str(refused.value)


# The baseline that ignores the picture


def test_a_constant_pose_is_the_median_within_the_frames():
    small = sample(0, joints=((110.0, 80.0), (75.0, 80.0)) + ((100.0, 80.0),) * 14)
    states = (Visibility.VISIBLE, *_GONE) + (Visibility.VISIBLE,) * 14
    large = sample(
        1,
        scale=1.0,
        joints=((100.0, 120.0), (5e6, -5e6)) + ((100.0, 80.0),) * 14,
        visibility=states,
    )
    far = sample(2, joints=((170.0, 90.0), (80.0, 90.0)) + ((100.0, 80.0),) * 14)
    pose = constant_pose([small, large, far], 16)
    # Of (0.1, 0) of a side of 100, (0, 0.2) of a side of 200, and (0.7, 0.1).
    assert pose[0] == pytest.approx([0.1, 0.1])
    # Missing in one, between the two others'.
    assert pose[1] == pytest.approx([-0.225, 0.05])
    assert pose[2:] == pytest.approx(np.zeros((14, 2)))


def test_a_joint_without_annotations_stays_in_the_middle():
    pose = constant_pose([sample(0, visibility=_GONE + (Visibility.VISIBLE,) * 15)], 16)
    assert pose[0].tolist() == [0.0, 0.0]


def test_a_constant_pose_is_placed_in_every_frame():
    pose = np.zeros((16, 2))
    pose[3] = (0.05, 0.1)
    people = [sample(0, center=(50.0, 60.0)), sample(1, center=(100.0, 80.0), scale=1.0)]
    placed = predict_constant_pose(pose, people)
    assert placed.joints[0, 3].tolist() == pytest.approx([55.0, 70.0])
    assert placed.joints[1, 3].tolist() == pytest.approx([110.0, 100.0])
    assert placed.joints[1, 0].tolist() == [100.0, 80.0]
    assert placed.positions.tolist() == [0, 1]


def test_people_who_all_stand_alike_are_predicted_by_their_median(pack):
    loader = loader_of(pack, samples(3))
    pose = constant_pose(loader.samples, 16)
    result = evaluate([predict_constant_pose(pose, loader.samples)], loader)
    assert result.scores(MPII)["pckh"].pooled == {0.5: 100.0, 0.1: 100.0}


@pytest.mark.parametrize(
    ("changes", "has_side", "has_area"),
    [
        ({}, False, False),
        ({"box": (1.0, 2.0, 30.0, 40.0)}, True, True),
        ({"box": (1.0, 2.0, 30.0, 0.0)}, True, False),
        ({"box": (1.0, 2.0, 0.0, 0.0)}, False, False),
        ({"box": (1.0, 2.0, 30.0, 0.0), "area": 50.0}, True, True),
        ({"box": (1.0, 2.0, 30.0, 40.0), "area": 0.0}, True, True),
    ],
)
def test_a_box_without_extent_gives_no_size(changes, has_side, has_area):
    given = sample(
        0, **{"joints": ((5.0, 6.0),) * 17, "visibility": (Visibility.VISIBLE,) * 17} | changes
    )
    truth = Truth.of([given])
    assert COCO.measure("pck_box").is_defined_for(given.person) == has_side
    assert COCO.measure("oks").is_defined_for(given.person) == has_area
    errors = truth.errors(truth.joints + 1, COCO)
    assert np.isfinite(errors["pck_box"]).all() == has_side
    assert np.isfinite(errors["oks"]).all() == has_area
