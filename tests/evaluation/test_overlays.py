"""Pictures of single people: the worst first, and every stack's heatmaps in their place."""

import io

import numpy as np
import pytest
import torch
from factories import sample, samples
from torch import nn

from pipeline.data.loader import SampleLoader
from pipeline.data.pictures import stack_maps
from pipeline.data.shards.reader import ShardReader
from pipeline.evaluation.evaluate import Evaluator
from pipeline.evaluation.overlays import draw_close_ups, draw_stacks, draw_worst
from pipeline.evaluation.per_person import PersonResults
from pipeline.model.network import Heatmaps
from pipeline.pose.joint_sets import MPII
from pipeline.pose.person import Visibility
from pipeline.settings import Settings

CPU = torch.device("cpu")
PCKH = MPII.measure("pckh")
SETTINGS = Settings.from_flat({"evaluation.flip_test": False, "model.input_px": 64})


def loader_of(pack, people) -> SampleLoader:
    return SampleLoader(ShardReader([str(path) for path in pack(people)]), MPII, 64)


def results_of(loader: SampleLoader, errors: list[float]) -> PersonResults:
    """Return a loader's people, all joints off to the right by `errors` heads of 20 pixels."""
    people = list(loader.samples)
    truth = np.array([one.person.joints for one in people])
    off = np.array(errors)[:, None] * np.ones((1, 16))
    moved = truth + 20 * np.nan_to_num(off)[..., None] * [1.0, 0.0]
    keys = [one.key for one in people]
    number, errors = np.arange(len(people)), {"pckh": off, "pck_torso": off}
    return PersonResults.of(keys, number, number, moved, errors).by_key()


class Peaks(nn.Module):
    """Stack k predicts k + 1 at the pixel (3, 5) of every joint's map, and zero elsewhere."""

    def forward(self, images: torch.Tensor) -> Heatmaps:
        maps = torch.zeros(2, len(images), 16, 16, 16)
        maps[0, :, :, 5, 3], maps[1, :, :, 5, 3] = 1.0, 2.0
        return Heatmaps(stacks=maps, supervised=(maps,))


def evaluator(loader: SampleLoader) -> Evaluator:
    return Evaluator(network=Peaks(), loader=loader, settings=SETTINGS, device=CPU)


def titles(figure) -> list[str]:
    return [axis.get_title() for axis in figure.axes if axis.images]


def rings_of(axis) -> list[list[float]]:
    rings = [line for line in axis.lines if line.get_markerfacecolor() == "none"]
    return [ring.get_xydata()[0].tolist() for ring in rings]


def test_the_worst_come_first_with_key_and_error(pack):
    loader = loader_of(pack, samples(4))
    figure = draw_worst(loader, results_of(loader, [0.25, 1.5, np.nan, 0.75]), PCKH, "the worst")
    assert titles(figure) == [
        *("photo-001_00  1.50", "photo-003_00  0.75"),
        # The last has no errors.
        *("photo-000_00  0.25", "photo-002_00  nan"),
    ]
    [worst, *_] = figure.axes
    dots = [line.get_xydata()[0] for line in worst.lines if line.get_marker() == "o"]
    # Joint and ring side by side: 30 pixels of the original are about 19.2 of the crop.
    assert dots[0][0] - dots[1][0] == pytest.approx(30 * loader.samples[1].crop.factor_x, abs=1e-3)
    assert dots[0][1] == pytest.approx(dots[1][1], abs=1e-3)


def test_at_most_24_people_are_drawn(pack):
    loader = loader_of(pack, samples(30, person_px=32))
    figure = draw_worst(loader, results_of(loader, [0.01 * k for k in range(30)]), PCKH, "")
    assert titles(figure) == [f"photo-{k:03d}_00  {0.01 * k:.2f}" for k in range(29, 5, -1)]


def test_heatmaps_have_a_row_a_stack_and_a_column_a_group(pack):
    states = (Visibility.VISIBLE,) * 9 + (Visibility.MISSING,) + (Visibility.VISIBLE,) * 6
    loader = loader_of(pack, [sample(0), sample(1, visibility=states)])
    figure = draw_stacks(evaluator(loader), 1)
    assert figure.get_suptitle() == "heatmaps of photo-001_00"
    grid = [axis for axis in figure.axes if axis.images]
    groups = len(MPII.groups)
    assert len(grid) == 2 * groups
    first = [MPII.joints[members[0]] for _, members in MPII.groups]
    assert [axis.get_title() for axis in grid[:groups]] == first
    assert [axis.get_ylabel() for axis in grid[::groups]] == ["stack 1/2", "stack 2/2"]
    for number, axis in enumerate(grid):
        image, maps = axis.images
        assert image.get_array().shape == (64, 64)
        assert maps.get_array().max() == maps.get_array()[5, 3] == 1 + number // groups
        # One scale of colours for all.
        assert maps.get_clim() == (0.0, 2.0)
        assert maps.get_extent() == [-0.5, 63.5, 63.5, -0.5]
    # head_top is missing; the right shoulder (12) is at (77.5, 102.5), in a frame of 100 pixels
    # around (100, 80).
    assert rings_of(grid[0]) == []
    assert rings_of(grid[2]) == [pytest.approx([31.5 - 0.64 * 22.5, 31.5 + 0.64 * 22.5])]


def test_one_stack_and_one_joint_make_a_picture_too():
    maps, image = np.zeros((1, 1, 4, 4)), np.zeros((16, 16, 3), np.uint8)
    figure = stack_maps(
        image, maps, ["$a_{"], np.zeros((1, 2)), np.array([True]), "of $x_{_00 \udcff"
    )
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=50)
    assert drawn.getvalue().startswith(b"\x89PNG")


def test_both_pictures_are_returned_by_name(pack):
    loader = loader_of(pack, samples(3))
    results = results_of(loader, [0.1, 0.2, 0.3]).rows(np.array([1, 2]))
    figures = draw_close_ups(evaluator(loader), results, PCKH)
    assert list(figures) == ["worst.png", "stacks.png"]
    # The first person with results.
    assert figures["stacks.png"].get_suptitle() == "heatmaps of photo-001_00"
    assert "PCKh" in figures["worst.png"].get_suptitle()
