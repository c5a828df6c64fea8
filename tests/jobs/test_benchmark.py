"""The benchmark of the data path: it compares the same work, and its figures belong together."""

import json
import os
import statistics
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from factories import person, photograph

from jobs.benchmark.loader.crops import curve, inside, psnr
from jobs.benchmark.loader.data_path import LoaderBenchmark, measure_variants, prepare
from jobs.benchmark.loader.memory import measure_memory
from jobs.benchmark.loader.photographs import cut_people, find_photographs
from jobs.benchmark.loader.plain import PlainDataset, paste_gaussians
from jobs.benchmark.loader.report import OURS, loader_report, summary
from jobs.benchmark.loader.variants import BatchDataset, measure_parallel
from jobs.benchmark.timing import (
    Timing,
    by_cpu_time,
    in_fresh_process,
    on_one_core,
    pooled,
    ratio,
    speed,
)
from pipeline.data.augmentation import draw_augmentations
from pipeline.data.batch import network_input
from pipeline.data.loader import SampleLoader
from pipeline.data.shards.reader import ShardReader
from pipeline.model.heatmaps import is_drawn, render
from pipeline.pose.geometry import crop_from_original
from pipeline.pose.joint_sets import MPII
from pipeline.settings import DataSettings
from pipeline.settings.packing import CropSettings
from pipeline.settings.ray import KEEP_MEMORY

TINY = LoaderBenchmark(
    rounds=2,
    workers=(1,),
    sizes=((160, 120), (240, 180)),
    num_photographs=2,
    people=6,
    samples=8,
    plain_samples=4,
    batch_size=4,
    crops=(CropSettings(person_px=64, margin=2.0), CropSettings(person_px=64, margin=1.0)),
    curve_people=4,
    epochs=(1, 2),
)


@pytest.fixture(scope="module")
def workloads(tmp_path_factory):
    """Six people in rendered photographs of each of two small sizes, packed."""
    return prepare(TINY, tmp_path_factory.mktemp("benchmark"))


# The same work


@pytest.mark.parametrize("on_whole", [False, True])
def test_the_plain_loader_gives_the_result_of_stream_and_device(workloads, on_whole):
    [workload, _] = workloads
    plain = PlainDataset(workload.folder, workload.people, on_whole=on_whole)
    loader = SampleLoader(ShardReader([workload.shard]), MPII, 256)
    positions = np.arange(len(plain))
    drawn = draw_augmentations(DataSettings(), 0, positions)
    assert {how.mirrored for how in drawn} == {True, False}
    batch = loader.batch(positions, drawn)
    images = network_input(batch, torch.device("cpu"))
    heatmaps = render(batch.joints, batch.annotated, 64, 1.75, 1.0)
    drawn_joints = is_drawn(batch.joints, batch.annotated, 64)
    for position, (image, maps) in enumerate(plain):
        assert image.dtype == maps.dtype == torch.float32
        # Stored crops are JPEGs, and the photographs are small and grainy.
        assert (image - images[position]).abs().mean() < 0.04
        shown = drawn_joints[position]
        assert torch.equal(maps.amax(dim=(1, 2)) > 0, shown)
        assert torch.equal(
            maps[shown].flatten(1).argmax(1), heatmaps[position][shown].flatten(1).argmax(1)
        )


def test_both_orders_of_the_plain_loader_agree(workloads):
    [_, workload] = workloads
    one, other = (
        PlainDataset(workload.folder, workload.people, on_whole=on_whole)
        for on_whole in (False, True)
    )
    for position in range(len(one)):
        assert (one[position][0] - other[position][0]).abs().mean() < 0.01
        assert torch.equal(one[position][1], other[position][1])


def test_a_pasted_gaussian_is_cut_off_at_the_border_and_three_sigmas():
    [inner, corner, outer] = paste_gaussians(
        np.array([[8.4, 5.0], [0.0, 15.4], [15.6, 3.0]]), 16, 1.0
    )
    assert inner[5, 8] == 1.0
    assert inner[5, 9] == pytest.approx(np.exp(-0.5))
    assert inner[5, 11] == pytest.approx(np.exp(-4.5))
    assert (inner > 0).sum() == 49
    assert corner[15, 0] == 1.0
    assert (corner > 0).sum() == 16
    assert not outer.any()


def test_a_worker_process_loads_the_batches_that_a_thread_does(workloads):
    [workload, _] = workloads
    positions = np.array([3, 0, 5])
    [batch] = [BatchDataset([workload.shard], [positions])[0]]
    loader = SampleLoader(ShardReader([workload.shard]), MPII, 256)
    drawn = draw_augmentations(DataSettings(), 0, positions)
    assert torch.equal(batch.images, loader.batch(positions, drawn).images)


# Figures


def test_ratios_are_those_of_the_samples_per_second_that_are_written(workloads):
    with on_one_core():
        timings = measure_variants(TINY, workloads)
    result = json.loads(json.dumps(summary(timings)))
    assert {"of_decode", "over_plain", "pipe_overhead"} <= set(result)

    def of(variants: dict, above: str, below: str) -> float:
        pairs = zip(variants[above]["rounds"], variants[below]["rounds"], strict=True)
        return statistics.median(a / b for a, b in pairs)

    assert list(result["sizes"]) == ["160x120", "240x180"]
    for part in (result, *result["sizes"].values()):
        variants = part["variants"]
        assert part["of_decode"] == pytest.approx(of(variants, "stream", "decode_only"))
        decoded = of(variants, "stream_of_decoded", "decode_only")
        assert part["decoded_of_decode"] == pytest.approx(decoded)
        assert part["over_plain"] == pytest.approx(of(variants, "stream", "plain"))
        assert part["over_lean_plain"] == pytest.approx(of(variants, "stream", "lean_plain"))
        assert part["pipe_overhead"] == pytest.approx(1 - of(variants, "stream", "sample_function"))
        assert all(len(held["rounds"]) == TINY.rounds for held in variants.values())


def test_timings_are_added_up_before_they_are_compared():
    quick, slow = (
        Timing(samples=30, wall_s=0.1, cpu_s=0.1),
        Timing(samples=30, wall_s=0.5, cpu_s=0.3),
    )
    [both] = pooled([quick], [slow])
    assert both.per_s == pytest.approx(100.0)
    assert by_cpu_time([both])[0].per_s == pytest.approx(60 / 0.4)
    figures = speed([quick, slow, both])
    assert (figures["min"], figures["samples_per_s"]) == pytest.approx((60.0, 100.0))
    assert figures["max"] == pytest.approx(300.0)
    assert figures["cpu_ms"] == pytest.approx(1000 * 0.4 / 60)
    # 2, 1 and 3: the median of the ratios, not 5 / 5, the ratio of the medians.
    above, below = (
        [Timing(samples=n, wall_s=1.0, cpu_s=1.0) for n in rounds]
        for rounds in ((10, 5, 3), (5, 5, 1))
    )
    assert ratio(above, below) == 2.0


def test_threads_and_processes_are_measured_end_to_end(workloads):
    timings = measure_parallel(workloads, (1,), batch_size=4, samples=8, plain_samples=4, rounds=1)
    assert list(timings) == ["threads 1", "processes 1", "plain processes 1"]
    assert [timing.samples for [timing] in timings.values()] == [8, 8, 4]
    assert all(timing.wall_s > 0 and timing.cpu_s >= 0 for [timing] in timings.values())


def test_a_fresh_process_keeps_its_memory_and_leaves_ours_alone():
    assert in_fresh_process(os.getenv, "MALLOC_TRIM_THRESHOLD_") == str(2**32)
    assert not set(KEEP_MEMORY) & set(os.environ)
    with pytest.raises(ValueError, match="invalid literal"):
        in_fresh_process(int, "two")


@pytest.mark.slow
def test_memory_is_measured_for_a_dataset_and_one_four_times_as_large(workloads, tmp_path):
    shards = [workload.shard for workload in workloads]
    found = measure_memory(shards, 4, (1, 2, 3), tmp_path / "larger")
    assert len(list((tmp_path / "larger").iterdir())) == 8
    small, large = found["resident_mib"][12], found["resident_mib"][48]
    assert list(small) == list(large) == [1, 2, 3]
    assert found["growth_mib"] == {12: small[3] - small[2], 48: large[3] - large[2]}
    assert found["larger_dataset_mib"] == large[3] - small[3]


def test_the_report_shows_all_that_was_measured(workloads):
    row = {"person_px": 256, "margin": 2.0, "jpeg_quality": 90, "bytes": 2e4}
    row |= {"psnr_db": 38.5, "missing_share": 0.0125, "decode_samples_per_s": 2800.0}
    timing = [Timing(samples=10, wall_s=0.01, cpu_s=0.01)]
    variants = dict.fromkeys((*OURS, "plain", "lean_plain"), timing)
    size = {"photographs": 2, "photograph_bytes": 2e5, "people": 6, "shard_bytes_a_person": 3e4}
    text = loader_report(
        summary({"160x120": variants})
        | {
            "machine": {"device": "a CPU", "cores": 2, "load_average": 0.5},
            "data": {"photographs": "rendered", "sizes": {"160x120": size}},
            "end_to_end": {"threads 1": speed(timing)},
            "crops": [row],
            "memory": {"resident_mib": {6: {1: 100.0, 2: 101.5}}, "growth_mib": {6: 1.5}},
        }
    )
    assert "photographs: rendered" in text
    assert "of_decode 1.000   over_plain 1.0   pipe_overhead 0.000" in text
    assert "1.25%" in text


# Accuracy of crops


def test_the_signal_to_noise_ratio_by_hand():
    truth = np.zeros((2, 2), np.uint8)
    # Errors of 0, 0, 0 and 10: a mean square of 25, so 20 log10(255 / 5).
    assert psnr(np.array([[0, 0], [0, 10]], np.uint8), truth) == pytest.approx(34.1514, abs=1e-4)
    assert psnr(truth, truth) == float("inf")


def test_pixels_whose_middle_is_on_the_image_are_inside():
    # An image of 4x2 whose middle pixel border, (1.5, 0.5), goes to (3.5, 3.5) of an 8x8 input.
    mask = inside(crop_from_original(-2, -3, 1, 1), 4, 2, 8)
    assert np.argwhere(mask).tolist() == [[y, x] for y in (3, 4) for x in (2, 3, 4, 5)]


def people_in_the_middle(folder: Path) -> list:
    """Forty people in one photograph, with so much around them that augmentation stays on it."""
    write_photograph(folder / "photo-000.jpg", 640, 640)
    made = replace(person(), center=(320.3, 319.6), scale=1.2)
    return [replace(made, person=number) for number in range(40)]


@pytest.mark.parametrize(("margin", "lacks"), [(2.0, False), (1.0, True)])
def test_a_margin_of_two_holds_every_pixel_that_augmentation_wants(tmp_path, margin, lacks):
    people = people_in_the_middle(tmp_path)
    [row] = curve(tmp_path, people, [CropSettings(person_px=96, margin=margin)], 1)
    assert (row["missing_share"] > 0) == lacks
    [sample, *_] = cut_people(tmp_path, people[:1], CropSettings(person_px=96, margin=margin))
    assert row["bytes"] == len(sample.crop.jpeg)
    assert (row["psnr_db"] > 35) == (not lacks)


def test_larger_crops_come_nearer_to_the_photograph(tmp_path):
    people = people_in_the_middle(tmp_path)[:4]
    kinds = [CropSettings(person_px=px, margin=2.0) for px in (32, 64, 128)]
    found = [row["psnr_db"] for row in curve(tmp_path, people, kinds, 1)]
    assert found == sorted(found)


# Photographs


def write_photograph(path: Path, width: int, height: int) -> None:
    cv2.imwrite(str(path), photograph(width, height))


def test_photographs_are_found_by_size(tmp_path):
    for name, size in (("a.jpg", (160, 120)), ("b.JPG", (160, 120)), ("c.jpg", (99, 99))):
        write_photograph(tmp_path / name, *size)
    (tmp_path / "notes.txt").write_text("no photograph")
    assert find_photographs(tmp_path, TINY.sizes, 9) == {(160, 120): ["a.jpg", "b.JPG"]}
    assert find_photographs(tmp_path, TINY.sizes, 1) == {(160, 120): ["a.jpg"]}


def test_a_folder_without_photographs_of_the_sizes_is_refused(tmp_path):
    write_photograph(tmp_path / "a.jpg", 100, 100)
    with pytest.raises(ValueError, match="none of its 1 JPEG photographs has 160x120 or 240x180"):
        find_photographs(tmp_path, TINY.sizes, 9)
    (tmp_path / "b.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"b\.jpg: not a readable image"):
        find_photographs(tmp_path, TINY.sizes, 9)
