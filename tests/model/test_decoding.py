"""Decoding of joints, by hand and as the inverse of rendering."""

from math import exp
from typing import get_args

import pytest
import torch

from pipeline.model.decoding import decode
from pipeline.model.heatmaps import render
from pipeline.settings import Decoding

DECODINGS = get_args(Decoding)


def decoded(rows: list[list[float]], decoding: Decoding = "quarter") -> list[float]:
    """Return the joint of one map."""
    joints, _ = decode(torch.tensor([[rows]], dtype=torch.float32), decoding, 1.0)
    return joints[0, 0].tolist()


def rendered(joints: torch.Tensor, size: int, sigma_px: float, peak: float = 1.0) -> torch.Tensor:
    """Return maps of annotated joints (batch, joint, 2)."""
    return render(joints, torch.ones(joints.shape[:2], dtype=torch.bool), size, sigma_px, peak)


def test_argmax_gives_the_highest_pixel():
    rows = [[0, 0, 0, 0], [0, 1, 0, 0], [0, 5, 9, 6], [0, 0, 2, 0]]
    assert decoded(rows, "argmax") == [2.0, 2.0]


def test_decoding_moves_a_quarter_toward_the_higher_neighbour():
    assert decoded([[0, 0, 0, 0], [0, 1, 0, 0], [0, 5, 9, 6], [0, 0, 2, 0]]) == [2.25, 2.25]
    assert decoded([[0, 0, 0, 0], [0, 1, 3, 0], [0, 7, 9, 6], [0, 0, 2, 0]]) == [1.75, 1.75]


def test_decoding_stays_where_the_neighbours_are_equal():
    assert decoded([[0, 0, 0], [4, 9, 4], [0, 1, 0]]) == [1.0, 1.25]
    assert decoded([[0, 0, 0], [0, 9, 0], [0, 0, 0]]) == [1.0, 1.0]


def test_decoding_does_not_look_past_the_border():
    # At the left border x stays; y still follows its neighbours.
    assert decoded([[0, 0, 0], [9, 8, 0], [5, 0, 0]]) == [0.0, 1.25]
    # The next pixel in memory belongs to the next row.
    assert decoded([[0, 0, 9], [8, 0, 0], [0, 0, 0]]) == [2.0, 0.0]
    assert decoded([[0, 0, 0], [0, 0, 0], [0, 8, 9]]) == [2.0, 2.0]
    assert decoded([[9, 8, 0], [8, 0, 0], [0, 0, 0]]) == [0.0, 0.0]


def test_decoding_returns_the_height_of_each_map():
    _, confidence = decode(
        torch.tensor([[[[0.0, 0.5], [0.25, 0.0]], [[-3.0, -2.0], [-4.0, -5]]]]), "quarter", 1.0
    )
    assert confidence.tolist() == [[0.5, -2.0]]


def test_decoding_reads_a_map_that_is_wider_than_high():
    joints, _ = decode(torch.tensor([[[[0.0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 9, 0]]]]), "quarter", 1.0)
    assert joints.tolist() == [[[4.0, 1.0]]]


def test_a_rendered_joint_is_found_within_a_quarter_pixel():
    random = torch.Generator().manual_seed(0)
    joints = 1 + 61 * torch.rand(50, 16, 2, generator=random)
    maps = render(joints, torch.ones(50, 16, dtype=torch.bool), 64, 1.75, 1.0)
    found, confidence = decode(maps, "quarter", 1.75)
    assert (found - joints).abs().max() <= 0.2501
    # Without the quarter it would be half a pixel.
    assert (joints.round() - joints).abs().max() > 0.49
    assert confidence.min() > exp(-0.5 / (2 * 1.75**2)) - 1e-6


def test_decoding_a_half_precision_map_does_not_round_the_joint():
    maps = torch.zeros(1, 1, 3, 300, dtype=torch.bfloat16)
    maps[0, 0, 1, 257], maps[0, 0, 1, 258] = 1.0, 0.5
    joints, _ = decode(maps, "quarter", 1.75)
    assert joints.tolist() == [[[257.25, 1.0]]]


# DARK


def everywhere(size: int) -> torch.Tensor:
    """Return joints (batch, 1, 2) all over a map: random ones, and many near its border."""
    random = torch.Generator().manual_seed(size)
    border = torch.tensor([-0.5, -0.499, -0.26, 0.0, 0.3, 0.5, 1.1])
    border = torch.cat((border, size - 1 - border))
    # The last half pixel's end is outside.
    border = border.clamp(max=size - 0.5001)
    return torch.cat(
        (
            (size - 1e-3) * torch.rand(3000, 2, generator=random) - 0.5,
            torch.cartesian_prod(border, border),
            torch.stack((border, size * torch.rand(len(border), generator=random) - 0.5), dim=-1),
        )
    )[:, None]


@pytest.mark.parametrize(
    ("size", "sigma_px", "peak"),
    [(32, 1.0, 1.0), (32, 1.25, 50.0), (32, 1.75, 50.0), (32, 2.0, 1.0), (64, 1.75, 1.0)],
)
def test_dark_finds_a_rendered_joint_wherever_it_lies(size, sigma_px, peak):
    joints = everywhere(size)
    found, _ = decode(rendered(joints, size, sigma_px, peak), "dark", sigma_px)
    assert (found - joints).abs().max() < 2e-3


def test_dark_does_not_depend_on_the_maps_height():
    joints = everywhere(32)[:200]
    maps = rendered(joints, 32, 1.75)
    found, _ = decode(maps, "dark", 1.75)
    faint, _ = decode(maps * 1e-6, "dark", 1.75)
    assert (found - faint).abs().max() < 1e-3


def test_dark_finds_the_maximum_in_noise():
    random = torch.Generator().manual_seed(0)
    joints = 4 + 56 * torch.rand(100, 16, 2, generator=random)
    maps = rendered(joints, 64, 1.75)
    maps += 0.05 * torch.randn(maps.shape, generator=random)
    error = {
        decoding: float((decode(maps, decoding, 1.75)[0] - joints).norm(dim=-1).mean())
        for decoding in DECODINGS
    }
    assert error["dark"] < 0.5 * error["quarter"] < 0.5 * error["argmax"]


def test_dark_mirrors_with_its_map():
    maps = torch.rand(4, 16, 24, 24, generator=torch.Generator().manual_seed(1))
    found, _ = decode(maps, "dark", 1.5)
    mirrored, _ = decode(maps.flip(-1), "dark", 1.5)
    assert (mirrored[..., 0] - (23 - found[..., 0])).abs().max() < 1e-3
    assert (mirrored[..., 1] - found[..., 1]).abs().max() < 1e-3


def test_dark_stays_within_a_pixel_of_the_highest_one():
    random = torch.Generator().manual_seed(0)
    maps = torch.randn(200, 16, 16, 16, generator=random)
    found, _ = decode(maps, "dark", 1.75)
    highest, _ = decode(maps, "argmax", 1.75)
    assert (found - highest).abs().max() <= 1.0


@pytest.mark.parametrize("decoding", DECODINGS)
@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, float("nan"), float("inf"), -float("inf")])
def test_a_constant_map_gives_its_first_pixel(decoding, value):
    joints, _ = decode(torch.full((1, 2, 8, 8), value), decoding, 1.75)
    assert joints.tolist() == [[[0.0, 0.0], [0.0, 0.0]]]


@pytest.mark.parametrize("decoding", DECODINGS)
def test_a_map_of_one_pixel_or_with_a_hole_is_read_where_it_is_highest(decoding):
    maps = torch.zeros(1, 2, 8, 8)
    maps[0, 0, 3, 5] = 1.0
    maps[0, 1] = rendered(torch.tensor([[[4.0, 2.0]]]), 8, 1.0)[0, 0]
    maps[0, 1, 6, 6] = float("nan")
    joints, _ = decode(maps, decoding, 1.0)
    assert joints[0, 0].tolist() == pytest.approx([5.0, 3.0], abs=1e-3)
    assert joints[0, 1].tolist() == pytest.approx([4.0, 2.0], abs=1e-3)


def test_dark_reads_maps_of_half_precision_in_single():
    maps = torch.zeros(1, 1, 9, 300)
    maps[..., 240:249] = rendered(torch.tensor([[[4.3, 4.4]]]), 9, 1.75)
    found, height = decode(maps.bfloat16(), "dark", 1.75)
    assert found.dtype == height.dtype == torch.float32
    # In half precision pixels past 256 would be even numbers, and none had a fraction.
    assert found[0, 0].tolist() == pytest.approx([244.3, 4.4], abs=0.02)
