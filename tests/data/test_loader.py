"""From shards to batches: every joint lands where its dot is drawn."""

import re
import threading
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from factories import person, same_batch, samples

from pipeline.data.augmentation import Augmentation, draw_augmentations, reach
from pipeline.data.batch import Batch
from pipeline.data.loader import SampleLoader, stream_training, stream_validation
from pipeline.data.sampler import rank_batches
from pipeline.data.shards.crop import cut_crop
from pipeline.data.shards.reader import ShardReader
from pipeline.data.shards.sample import BadSampleError, Sample
from pipeline.pose.geometry import heatmap_from_input, input_from_original, transform
from pipeline.pose.joint_sets import MPII
from pipeline.pose.person import Person, Visibility
from pipeline.settings import DataSettings
from pipeline.settings.packing import CropSettings

INPUT_PX = 256
# Sixteen colours that neither JPEG nor a warp confuses.
_LEVELS = (0, 128, 255)
COLOURS = np.array(
    [(r, g, b) for r in _LEVELS for g in _LEVELS for b in _LEVELS if r + g + b > 250]
)
COLOURS = COLOURS[:16]


def dotted_person() -> tuple[np.ndarray, Person]:
    """A black photograph with a dot of its own colour at each joint, all well within the frame."""
    angles = np.arange(16) * 2.4  # radians: a spiral, in which no two are near
    reach = 90 * np.sqrt((np.arange(16) + 0.5) / 16)
    joints = np.stack((313.3 + reach * np.cos(angles), 218.7 + reach * np.sin(angles)), axis=1)
    image = np.zeros((420, 640, 3), np.uint8)
    for (x, y), colour in zip(joints, COLOURS.tolist(), strict=True):
        center = round(x * 256), round(y * 256)
        cv2.circle(image, center, 9 * 256, colour, -1, cv2.LINE_AA, shift=8)
    made = person(
        center=(313.3, 218.7), scale=1.5, joints=tuple((float(x), float(y)) for x, y in joints)
    )
    return image, made


def find_dots(image: np.ndarray) -> np.ndarray:
    """Where each colour's dot lies in an input image: (16, 2)."""
    bright = image.max(axis=2).astype(np.float64)
    count, label = cv2.connectedComponents((bright > 40).astype(np.uint8))
    assert count == 1 + len(COLOURS)
    found = np.full((16, 2), np.nan)
    for part in range(1, count):
        ys, xs = np.nonzero(label == part)
        weight = bright[ys, xs]
        at = np.array([(xs * weight).sum(), (ys * weight).sum()]) / weight.sum()
        inside = np.hypot(xs - at[0], ys - at[1]) < 2.5
        colour = image[ys[inside], xs[inside]].mean(axis=0)
        found[np.abs(COLOURS - colour).sum(axis=1).argmin()] = at
    assert not np.isnan(found).any()
    return found


@pytest.fixture(params=[128, 4096], ids=["shrunk", "as it is"])
def dotted_loader(pack, request) -> SampleLoader:
    image, made = dotted_person()
    crop = cut_crop(image, made, CropSettings(person_px=request.param))
    paths = pack([Sample(person=made, crop=crop)])
    return SampleLoader(ShardReader([str(path) for path in paths]), MPII, INPUT_PX)


@pytest.mark.parametrize(
    "how",
    [
        Augmentation(),
        Augmentation(mirrored=True),
        Augmentation(rotation_deg=37.0),
        Augmentation(zoom=0.8),
        Augmentation(zoom=1.3, rotation_deg=-55.0, mirrored=True),
        Augmentation(zoom=0.9, rotation_deg=60.0, mirrored=True),
    ],
    ids=lambda how: f"{how.zoom}x {how.rotation_deg:g} deg {'mirrored' if how.mirrored else ''}",
)
def test_joints_land_where_the_picture_shows_them(dotted_loader, how):
    batch = dotted_loader.batch(np.array([0]), [how])
    dots = find_dots(batch.images[0].numpy())
    # In a mirrored picture the dot drawn for the right ankle is on a left ankle.
    shown = dots[list(MPII.mirror)] if how.mirrored else dots
    on_heatmap = transform(shown, heatmap_from_input())
    # A mistaken half-pixel would be off by 0.375 heatmap pixels.
    assert np.abs(on_heatmap - batch.joints[0].numpy()).max() < 0.15


@pytest.mark.parametrize("position", range(3))
def test_a_joint_is_carried_back_to_the_original_photograph(dotted_loader, position):
    sample = dotted_loader.samples[0]
    [how] = draw_augmentations(
        DataSettings(rotation_share=1.0, scale_jitter=0.1), 0, np.array([position])
    )
    batch = dotted_loader.batch(np.array([0]), [how])
    matrix = heatmap_from_input() @ dotted_loader.input_from_original(sample, how)
    back = transform(batch.joints[0].numpy().astype(np.float64), np.linalg.inv(matrix))
    truth = np.array(sample.person.joints)[list(MPII.mirror) if how.mirrored else slice(None)]
    assert np.abs(back - truth).max() < 1e-3
    # And so is what the picture shows.
    seen = transform(
        find_dots(batch.images[0].numpy()),
        np.linalg.inv(dotted_loader.input_from_original(sample, how)),
    )
    assert np.abs(seen - np.array(sample.person.joints)).max() < 0.7


def loader_of(pack, *shards, input_px: int = 64) -> SampleLoader:
    return SampleLoader(ShardReader([str(path) for path in pack(*shards)]), MPII, input_px)


def test_a_flip_swaps_left_and_right_and_mirrors_x(pack):
    # The frame is 100 px around (100, 80); 64 input px, 16 heatmap px: 0.16 a pixel.
    joints = ((100.0, 80.0),) * 5 + ((125.0, 55.0),) + ((100.0, 80.0),) * 10
    states = (Visibility.MISSING,) + (Visibility.VISIBLE,) * 15
    loader = loader_of(pack, samples(1, joints=joints, visibility=states))
    plain = loader.batch(np.array([0]))
    assert plain.joints[0, 5].tolist() == pytest.approx([7.5 + 4, 7.5 - 4])
    assert plain.annotated[0].tolist() == [False] + [True] * 15
    flipped = loader.batch(np.array([0]), [Augmentation(mirrored=True)])
    # Joint 5, the left ankle, becomes joint 0, the right one: x = 15 - 11.5.
    assert flipped.joints[0, 0].tolist() == pytest.approx([3.5, 3.5])
    assert flipped.annotated[0].tolist() == [True] * 5 + [False] + [True] * 10
    assert (flipped.images.flip(2) - plain.images.int()).abs().float().mean() < 1


def test_a_missing_joint_reaches_no_arithmetic(pack):
    joints = ((1e30, -1e30),) + ((100.0, 80.0),) * 15
    states = (Visibility.MISSING, Visibility.OCCLUDED) + (Visibility.VISIBLE,) * 14
    batch = loader_of(pack, samples(1, joints=joints, visibility=states)).batch(np.array([0]))
    assert batch.joints[0, 0].tolist() == [0.0, 0.0]
    # An occluded joint is trained.
    assert batch.annotated[0].tolist() == [False] + [True] * 15


def test_colours_are_multiplied_later_by_the_gains(pack):
    loader = loader_of(pack, samples(2))
    batch = loader.batch(np.array([1, 0]), [Augmentation(gains=(0.6, 1.0, 1.4)), Augmentation()])
    assert batch.gains.tolist() == [pytest.approx([0.6, 1.0, 1.4]), [1.0, 1.0, 1.0]]
    assert batch.positions.tolist() == [1, 0]
    assert len(batch) == 2
    plain = loader.batch(np.array([1, 0]))
    assert (batch.images == plain.images).all()


def test_pixels_outside_the_photograph_are_black(pack):
    loader = loader_of(pack, samples(1, center=(0.0, 0.0)))
    image = loader.batch(np.array([0])).images[0]
    assert image[:30].max() == image[:, :30].max() == 0
    assert image[34:, 34:].max() > 60


def test_the_stream_is_the_same_for_any_number_of_threads(pack):
    loader = loader_of(pack, samples(6), samples(5, first=6))
    order = np.random.default_rng(0).permutation(11)

    def stream(threads: int) -> list[Batch]:
        batches = rank_batches(order, 2, 0, 1)
        return list(stream_training(loader, batches, DataSettings(threads=threads), epoch=3))

    one, three = stream(1), stream(3)
    assert len(one) == len(three) == 5
    assert all(same_batch(a, b) for a, b in zip(one, three, strict=True))
    assert np.concatenate([batch.positions for batch in one]).tolist() == order[:10].tolist()


@pytest.mark.parametrize("pinned", [True, False])
def test_batches_for_a_gpu_are_decoded_into_page_locked_memory(pack, monkeypatch, pinned):
    asked, empty = [], torch.empty

    def stand_in(*shape, dtype, pin_memory):
        asked.append((threading.current_thread().name, pin_memory))
        return empty(*shape, dtype=dtype)

    reader = ShardReader([str(path) for path in pack(samples(3))])
    plain, loader = (SampleLoader(reader, MPII, 64, pinned=value) for value in (False, pinned))
    expected = plain.batch(np.array([2, 0]))
    monkeypatch.setattr(torch, "empty", stand_in)
    [batch] = stream_validation(loader, [np.array([2, 0])], threads=1)
    assert same_batch(batch, expected)
    # Images, joints, annotated and gains, none of them on the thread that trains.
    assert len(asked) == 4
    assert all(name.startswith("decode") and asks is pinned for name, asks in asked)


def test_augmentation_changes_with_epoch_and_sample_alone(pack):
    loader = loader_of(pack, samples(3))
    settings = DataSettings()

    def first(order: list[int], epoch: int) -> Batch:
        return next(stream_training(loader, [np.array(order)], settings, epoch))

    assert same_batch(first([0, 1], 0), first([0, 1], 0))
    assert not same_batch(first([0, 1], 0), first([0, 1], 1))
    # A sample is varied alike wherever it comes in the epoch.
    assert (first([0, 1], 0).images[1] == first([2, 1], 0).images[1]).all()


def test_validation_is_not_varied(pack):
    loader = loader_of(pack, samples(3))
    first, second = stream_validation(loader, [np.array([0, 1]), np.array([2])], threads=2)
    assert same_batch(first, loader.batch(np.array([0, 1])))
    assert same_batch(second, loader.batch(np.array([2])))
    assert (first.gains == 1).all()


def test_an_abandoned_stream_stops_loading(pack):
    loader = loader_of(pack, samples(2))
    asked = []

    def batches():
        for step in range(1000):
            asked.append(step)
            yield np.array([step % 2])

    stream = stream_validation(loader, batches(), threads=1)
    next(stream)
    stream.close()
    assert len(asked) < 10


def test_a_sample_that_cannot_be_decoded_stops_the_stream_by_name(pack):
    good = samples(1)[0]
    crop = type(good.crop)(jpeg=b"no image", left=0, top=0, factor_x=1.0, factor_y=1.0)
    loader = loader_of(pack, [Sample(person=good.person, crop=crop)])
    with pytest.raises(
        ValueError, match=r"^train-000000.tar: photo-000_00: not a readable image \(8 bytes\)$"
    ):
        next(stream_validation(loader, [np.array([0])], threads=1))


def test_a_picture_that_is_cut_off_stops_the_stream_by_name(pack):
    good = samples(1)[0]
    cut = replace(good, crop=replace(good.crop, jpeg=good.crop.jpeg[:-200]))
    loader = loader_of(pack, [cut])
    with pytest.raises(ValueError, match=r"^train-000000.tar: photo-000_00: damaged JPEG of "):
        next(stream_validation(loader, [np.array([0])], threads=1))


def unusable() -> dict[str, Sample]:
    """A sample that is bad in each way, by its error."""
    good, *rest = samples(4)
    nobody = replace(rest[0].person, visibility=(Visibility.MISSING,) * 16)
    fewer = replace(rest[1].person, joints=rest[1].person.joints[:14])
    return {
        "photo-001_00: no joint is annotated": replace(rest[0], person=nobody),
        "photo-002_00: 14 joints, expected 16": replace(rest[1], person=fewer),
        "photo-003_00: damaged JPEG of ": replace(
            rest[2], crop=replace(rest[2].crop, jpeg=rest[2].crop.jpeg[:-200])
        ),
        "photo-000_00: not a readable image (5 bytes)": replace(
            good, crop=replace(good.crop, jpeg=b"media")
        ),
    }


@pytest.mark.parametrize("message", unusable())
def test_a_bad_sample_stops_the_stream_by_default(pack, message):
    loader = loader_of(pack, [unusable()[message]])
    with pytest.raises(BadSampleError, match=re.escape(f"train-000000.tar: {message}")):
        next(stream_training(loader, [np.array([0])], DataSettings(), epoch=0))


def tolerant(pack, held: list[Sample], allowed: int) -> SampleLoader:
    reader = ShardReader([str(path) for path in pack(held)])
    return SampleLoader(reader, MPII, 64, allowed)


def test_training_repeats_good_samples_in_place_of_bad_ones(pack):
    bad = list(unusable().values())
    loader = tolerant(pack, [*samples(2, first=8), *bad], 4)
    [batch] = stream_training(loader, [np.array([5, 1, 3, 0, 2])], DataSettings(), epoch=0)
    assert batch.positions.tolist() == [1, 0, 1, 0, 1]
    assert (batch.images[0] == batch.images[2]).all()
    assert (batch.joints[1] == batch.joints[3]).all()
    assert sorted(loader.bad.found) == [2, 3, 5]


def test_validation_leaves_bad_samples_out(pack):
    loader = tolerant(pack, [*samples(2, first=8), *unusable().values()], 4)
    orders = [np.array([0, 2]), np.array([3, 4, 5]), np.array([1])]
    batches = list(stream_validation(loader, orders, threads=2))
    assert [batch.positions.tolist() for batch in batches] == [[0], [1]]
    assert len(loader.bad.found) == 4


def test_a_bad_sample_is_counted_once_however_often_it_comes(pack):
    loader = tolerant(pack, [*samples(1, first=8), unusable().popitem()[1]], 1)
    for _ in range(5):
        assert len(loader.batch(np.array([1, 0]))) == 1
    assert len(loader.bad.found) == 1


def test_one_bad_sample_more_than_allowed_is_an_error(pack):
    loader = tolerant(pack, list(unusable().values()), 3)
    with pytest.raises(
        BadSampleError, match=r"\(5 bytes\) \(bad sample 4, data\.bad_samples allows 3\)$"
    ):
        loader.batch(np.arange(4))


def test_a_training_batch_without_a_good_sample_is_an_error(pack):
    loader = tolerant(pack, list(unusable().values()), 4)
    with pytest.raises(BadSampleError, match=r"^none of a batch's 4 samples can be used$"):
        next(stream_training(loader, [np.arange(4)], DataSettings(), epoch=0))


def test_crops_are_stored_as_wide_as_the_default_augmentation_reaches():
    assert CropSettings().margin == pytest.approx(reach(DataSettings()))


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, 2**0.5 * 2**0.5),  # 45 degrees lie within twice 30
        ({"scale_jitter": 0.0}, 2**0.5),
        ({"rotation_deg": 15.0}, 2**0.5 * (3**0.5 / 2 + 0.5)),
        ({"rotation_share": 0.0}, 2**0.5),
        ({"scale_jitter": 0.0, "rotation_deg": 0.0}, 1.0),
    ],
)
def test_no_corner_of_an_input_leaves_the_reach_of_augmentation(changes, wanted):
    settings = DataSettings(**changes)
    assert reach(settings) == pytest.approx(wanted)
    corners = np.array([[0, 0], [63, 0], [0, 63], [63, 63]], float)
    far = 0.0
    for how in draw_augmentations(settings, 0, np.arange(500)):
        matrix = input_from_original(
            (0.0, 0.0), 0.5, 64, zoom=how.zoom, rotation_deg=how.rotation_deg
        )
        far = max(far, np.abs(transform(corners, np.linalg.inv(matrix))).max())
    # The frame is 100 pixels wide; its corners' pixels have their centres half a pixel inside.
    assert 0.9 * wanted < far / 50 <= wanted


def drawn(**changes) -> list[Augmentation]:
    return draw_augmentations(DataSettings(**changes), 0, np.arange(2000))


def test_augmentation_follows_the_distributions_of_the_authors():
    varied = drawn()
    octaves = np.log2([how.zoom for how in varied])
    # A normal of deviation 0.25, clipped at twice that: 2.3% lie at each end.
    assert np.abs(octaves).max() == pytest.approx(0.5)
    assert np.std(octaves) == pytest.approx(0.24, abs=0.01)
    assert np.mean(octaves == octaves.max()) == pytest.approx(0.023, abs=0.012)
    turns = np.array([how.rotation_deg for how in varied])
    assert np.abs(turns).max() == pytest.approx(60)
    assert np.mean(turns != 0) == pytest.approx(0.4, abs=0.04)
    assert np.mean([how.mirrored for how in varied]) == pytest.approx(0.5, abs=0.04)
    gains = np.array([how.gains for how in varied])
    assert gains.min() == pytest.approx(0.6, abs=0.01)
    assert gains.max() == pytest.approx(1.4, abs=0.01)
    assert gains.mean(axis=0) == pytest.approx([1, 1, 1], abs=0.02)
    # Each channel for itself.
    assert abs(np.corrcoef(gains.T)[0, 1]) < 0.08


def test_a_samples_augmentation_does_not_depend_on_those_drawn_with_it():
    settings = DataSettings(seed=3)
    together = draw_augmentations(settings, 5, np.array([7, 2, 9]))
    assert draw_augmentations(settings, 5, np.array([9])) == [together[2]]
    for seed, epoch in ((4, 5), (3, 6), (5, 3)):
        other = draw_augmentations(DataSettings(seed=seed), epoch, np.array([7, 2, 9]))
        assert all(one != another for one, another in zip(together, other, strict=True))


def test_draws_of_neighbouring_samples_and_epochs_are_unrelated():
    zooms = np.log2([how.zoom for how in drawn()])
    later = np.log2([how.zoom for how in draw_augmentations(DataSettings(), 1, np.arange(2000))])
    turns = np.array([how.rotation_deg for how in drawn(rotation_share=1.0)])
    for one, other in ((zooms[:-1], zooms[1:]), (zooms, later), (zooms, turns)):
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.08


def test_augmentation_can_be_switched_off():
    off = drawn(scale_jitter=0.0, rotation_deg=0.0, flip_share=0.0, color_jitter=0.0)
    assert set(off) == {Augmentation()}
