"""Heatmaps, rendered and mirrored by hand."""

from math import exp

import pytest
import torch

from pipeline.model.heatmaps import is_drawn, render, rescale, unmirror
from pipeline.pose.joint_sets import MPII


def rendered(x: float, y: float, *, size: int = 5, sigma_px: float = 1.0, peak: float = 1.0):
    """Return the map of one annotated joint."""
    joints = torch.tensor([[[x, y]]])
    return render(joints, torch.tensor([[True]]), size, sigma_px, peak)[0, 0]


def test_a_target_is_a_gaussian_around_its_joint():
    heatmap = rendered(1.0, 2.0)
    assert heatmap[2, 1] == 1.0
    assert heatmap[2, 2].item() == pytest.approx(exp(-1 / 2))
    assert heatmap[3, 2].item() == pytest.approx(exp(-2 / 2))
    assert heatmap[2, 3].item() == pytest.approx(exp(-4 / 2))
    assert heatmap[4, 4].item() == pytest.approx(exp(-13 / 2))


def test_sigma_widens_and_the_peak_raises_a_target():
    heatmap = rendered(1.0, 2.0, sigma_px=2.0, peak=10.0)
    assert heatmap[2, 1] == 10.0
    assert heatmap[3, 2].item() == pytest.approx(10 * exp(-2 / 8))


def test_a_target_is_not_rounded_to_its_pixel():
    heatmap = rendered(1.5, 2.25)
    assert heatmap[2, 1] == heatmap[2, 2]
    assert heatmap[2, 1].item() == pytest.approx(exp(-(0.5**2 + 0.25**2) / 2))
    assert heatmap[3, 1].item() == pytest.approx(exp(-(0.5**2 + 0.75**2) / 2))


def test_each_joint_has_its_own_map():
    joints = torch.tensor([[[1.0, 2.0], [3.0, 0.0]], [[4.0, 4.0], [0.0, 1.0]]])
    maps = render(joints, torch.ones(2, 2, dtype=torch.bool), 5, 1.0, 1.0)
    peaks = [
        divmod(int(heatmap.argmax()), 5)[::-1] for person_maps in maps for heatmap in person_maps
    ]
    assert peaks == [(1, 2), (3, 0), (4, 4), (0, 1)]


def test_a_joint_that_is_not_annotated_gets_an_all_zero_map():
    joints = torch.tensor([[[2.0, 2.0], [2.0, 2.0]]])
    maps = render(joints, torch.tensor([[False, True]]), 5, 1.0, 1.0)
    assert not maps[0, 0].any()
    assert maps[0, 1].all()


@pytest.mark.parametrize(
    ("x", "y", "drawn"),
    [
        (-3.5, 2.0, True),
        (-3.51, 2.0, False),
        (7.49, 2.0, True),
        (7.5, 2.0, False),
        (2.0, -3.51, False),
        (2.0, 7.5, False),
        (-3.0, 7.0, True),
        (0.0, 0.0, True),
    ],
)
def test_a_joint_more_than_three_pixels_outside_the_map_gets_an_all_zero_map(x, y, drawn):
    assert bool(rendered(x, y).any()) is drawn
    joint = torch.tensor([[[x, y]]])
    assert is_drawn(joint, torch.tensor([[True]]), 5).item() is drawn
    assert not is_drawn(joint, torch.tensor([[False]]), 5).item()


def test_of_a_joint_outside_the_map_the_part_inside_is_drawn():
    heatmap = rendered(-2.0, 1.0)
    assert heatmap[1, 0].item() == pytest.approx(exp(-4 / 2))
    assert heatmap[2, 1].item() == pytest.approx(exp(-10 / 2))


def test_a_cut_target_is_zero_outside_its_square():
    joints, annotated = torch.tensor([[[4.4, 6.6]]]), torch.tensor([[True]])
    [[heatmap]] = render(joints, annotated, 12, 1.75, 1.0, target_px=7)
    [[whole]] = render(joints, annotated, 12, 1.75, 1.0)
    # Seven columns around 4 and rows around 7.
    inside = torch.zeros(12, 12, dtype=torch.bool)
    inside[4:11, 1:8] = True
    assert torch.equal(heatmap, whole.where(inside, 0.0))
    assert whole.all()


def test_a_cut_target_reaches_into_the_map_from_three_pixels_outside():
    joints, annotated = torch.tensor([[[-3.0, 5.0]]]), torch.tensor([[True]])
    [[heatmap]] = render(joints, annotated, 12, 1.75, 1.0, target_px=7)
    assert heatmap[:, 0].nonzero().flatten().tolist() == [2, 3, 4, 5, 6, 7, 8]
    assert not heatmap[:, 1:].any()


def test_targets_are_those_of_the_authors_code_at_whole_pixels():
    # `drawGaussian` with a size of 7: a Gaussian of 0.25 * 7 pixels around the window's middle.
    window = torch.tensor(
        [[exp(-(x * x + y * y) / (2 * 1.75**2)) for x in range(-3, 4)] for y in range(-3, 4)]
    )
    for x, y in ((0, 0), (5, 2), (-3, 9), (12, 4), (14, 14)):
        # The map lies within eight more pixels on each side.
        expected = torch.zeros(8 + 12 + 8, 8 + 12 + 8)
        expected[8 + y - 3 : 8 + y + 4, 8 + x - 3 : 8 + x + 4] = window
        joints = torch.tensor([[[float(x), float(y)]]])
        [[found]] = render(joints, torch.tensor([[True]]), 12, 1.75, 1.0, target_px=7)
        assert torch.allclose(found, expected[8:20, 8:20], atol=1e-7)


def test_a_joint_lies_at_the_same_part_of_a_smaller_heatmap():
    # The middle of 16 pixels is at 7.5, of 4 at 1.5; the first pixel's left edge at -0.5.
    joints = torch.tensor([[[7.5, -0.5], [15.5, 3.0]]])
    assert rescale(joints, 1 / 4).tolist() == [[[1.5, -0.5], [3.5, 0.375]]]
    assert torch.equal(rescale(joints, 1.0), joints)


def test_unmirroring_reverses_columns_and_swaps_joints():
    maps = torch.tensor([[[[1, 2, 3]], [[4, 5, 6]], [[7, 8, 9]]]]).float()
    assert unmirror(maps, (1, 0, 2)).tolist() == [[[[6, 5, 4]], [[3, 2, 1]], [[9, 8, 7]]]]


def test_unmirroring_the_heatmaps_of_a_mirrored_person_is_exact():
    random = torch.Generator().manual_seed(0)
    # Sixteenths are exact in binary, so that 63 - x is too.
    joints = torch.randint(0, 63 * 16, (2, 16, 2), generator=random) / 16
    mirrored = joints[:, list(MPII.mirror)].clone()
    mirrored[..., 0] = 63 - mirrored[..., 0]
    shown = torch.ones(2, 16, dtype=torch.bool)
    expected = render(joints, shown, 64, 1.75, 1.0)
    assert torch.equal(
        unmirror(render(mirrored, shown, 64, 1.75, 1.0), MPII.mirror),
        expected,
    )
