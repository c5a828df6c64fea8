"""Figures of people on images: skeletons, heatmaps, and samples as the network sees them."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.data.augmentation import draw_augmentations
from pipeline.data.loader import SampleLoader
from pipeline.data.shards.sample import Sample
from pipeline.io.text import one_line
from pipeline.pose.geometry import heatmap_from_input, transform
from pipeline.pose.joint_sets import JointSet
from pipeline.pose.person import Visibility
from pipeline.pose.sides import common_side
from pipeline.settings import DataSettings

_OF_SIDE, _TRUTH = {"left": "#ff7f0e", "right": "#1f9bff", None: "#7bd34f"}, "#ffffff"
# As many letters fit above one person's picture.
_TITLE_LETTERS = 32


@dataclass(frozen=True, kw_only=True)
class DrawnPose:
    """A person to draw: an image with joints in its pixels; `truth` where it is known."""

    image: UInt8[np.ndarray, "height width 3"]
    joints: Float[np.ndarray, "joint 2"]
    shown: Bool[np.ndarray, " joint"]
    truth: Float[np.ndarray, "joint 2"] | None = None
    annotated: Bool[np.ndarray, " joint"] | None = None
    title: str = ""


def overlay(poses: Sequence[DrawnPose], joint_set: JointSet, title: str) -> Figure:
    """Draw skeletons over images: left limbs orange, right blue; the truth as white rings."""
    columns = min(4, len(poses))
    rows = -(-len(poses) // columns)
    figure = Figure(figsize=(2.4 * columns, 2.55 * rows + 0.4), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, pose in zip(axes, poses, strict=False):
        _draw_pose(axis, pose, joint_set)
    figure.suptitle(title, fontsize=11, parse_math=False)
    return figure


def draw_truth(loader: SampleLoader, positions: np.ndarray, title: str) -> Figure:
    """Draw annotated joints on stored crops; white rings mark the occluded ones."""
    poses = []
    for sample in map(loader.samples.__getitem__, positions.tolist()):
        states = np.array(sample.person.visibility)
        pose = pose_of(sample, np.array(sample.person.joints))
        shown, ringed = states != Visibility.MISSING, states == Visibility.OCCLUDED
        poses.append(replace(pose, shown=shown, annotated=ringed))
    return overlay(poses, loader.joint_set, title)


def draw_joint_set(samples: Sequence[Sample], joint_set: JointSet) -> Figure:
    """Draw the person with most annotated joints, with the name of each and the limbs.

    Of several it is the largest one, and the picture ends a little beyond the joints.
    """

    def rank(sample: Sample) -> tuple[int, float]:
        return sum(map(bool, sample.person.visibility)), sample.person.scale

    sample = max(samples, key=rank)
    pose = pose_of(sample, np.array(sample.person.joints))
    pose = replace(pose, shown=np.array(sample.person.visibility) != Visibility.MISSING, truth=None)
    figure = Figure(figsize=(8, 8), layout="constrained")
    axis = figure.subplots()
    axis.set_axis_off()
    _draw_pose(axis, pose, joint_set)
    middle = _look_closely(axis, pose)
    for joint, name in enumerate(joint_set.joints):
        if pose.shown[joint]:
            # Names go outwards, where there is more room between them.
            is_left = pose.joints[joint, 0] < middle
            axis.annotate(
                name,
                tuple(pose.joints[joint]),
                xytext=(-4 if is_left else 4, 4),
                textcoords="offset points",
                ha="right" if is_left else "left",
                color=_TRUTH,
                fontsize=8,
                bbox={"facecolor": "black", "alpha": 0.5, "pad": 1, "linewidth": 0},
            )
    figure.suptitle(f"joint set {joint_set.name}", fontsize=11, parse_math=False)
    return figure


def _look_closely(axis: Axes, pose: DrawnPose) -> float:
    """Show a square around the joints, with room for their names; return its middle's x."""
    joints = pose.joints[pose.shown]
    low, high = joints.min(axis=0), joints.max(axis=0)
    x, y = (low + high) / 2
    half = 0.7 * max(*(high - low), 8.0)
    axis.set_xlim(x - half, x + half)
    axis.set_ylim(y + half, y - half)
    return float(x)


def draw_augmented(
    loader: SampleLoader,
    settings: DataSettings,
    positions: np.ndarray,
    title: str = "training samples as the network sees them",
) -> Figure:
    """Draw samples as training sees them, joints and all: rotated, scaled, mirrored, coloured."""
    batch = loader.batch(positions, draw_augmentations(settings, 0, positions))
    colored = (batch.images.float() * batch.gains[:, None, None]).clamp(0, 255).byte().numpy()
    to_input = np.linalg.inv(heatmap_from_input())
    poses = [
        DrawnPose(
            image=colored[row],
            joints=transform(batch.joints[row].double().numpy(), to_input),
            shown=batch.annotated[row].numpy(),
            title=loader.samples[position].key,
        )
        for row, position in enumerate(batch.positions.tolist())
    ]
    return overlay(poses, loader.joint_set, title)


def stack_maps(
    image: UInt8[np.ndarray, "height width 3"],
    maps: Float[np.ndarray, "stack joint rows columns"],
    joints: Sequence[str],
    truth: Float[np.ndarray, "joint 2"],
    annotated: Bool[np.ndarray, " joint"],
    title: str,
) -> Figure:
    """Draw heatmaps over their image, a row a stack, a column a joint, on one scale of colours.

    `truth` is in pixels of the image, ringed where it is annotated.
    """
    stacks, height, width = len(maps), *image.shape[:2]
    figure = Figure(figsize=(1.5 * len(joints) + 0.9, 1.5 * stacks + 0.7), layout="constrained")
    axes = np.array(figure.subplots(stacks, len(joints), squeeze=False))
    for (stack, joint), axis in np.ndenumerate(axes):
        axis.imshow(image.mean(axis=-1), cmap="gray", vmin=0, vmax=255)
        shown = axis.imshow(
            maps[stack, joint],
            cmap="inferno",
            alpha=0.6,
            vmin=min(0.0, float(maps.min())),
            vmax=float(maps.max()),
            extent=(-0.5, width - 0.5, height - 0.5, -0.5),
        )
        if annotated[joint]:
            axis.plot(*truth[joint], "o", mfc="none", mec=_TRUTH, mew=0.9, markersize=8)
        axis.set(xticks=[], yticks=[], xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
        if stack == 0:
            axis.set_title(joints[joint], fontsize=8, parse_math=False)
        if joint == 0:
            axis.set_ylabel(f"stack {stack + 1}/{stacks}", fontsize=8)
    figure.colorbar(shown, ax=axes, shrink=0.8).ax.tick_params(labelsize=7)
    figure.suptitle(one_line(title), fontsize=11, parse_math=False)
    return figure


def pose_of(sample: Sample, predicted: np.ndarray) -> DrawnPose:
    """Make a drawable pose of a sample: its crop, predicted joints and the truth.

    `predicted`, (joint, 2), is in pixels of the original image.
    """
    to_crop, person = sample.crop.from_original, sample.person
    return DrawnPose(
        image=sample.picture(),
        joints=transform(predicted, to_crop),
        shown=np.ones(len(predicted), bool),
        truth=transform(np.array(person.joints), to_crop),
        annotated=np.array(person.visibility) != Visibility.MISSING,
        title=sample.key,
    )


def png(figure: Figure) -> bytes:
    """Return a figure as the bytes of a PNG file."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return file.getvalue()


def spaced(samples: int, count: int) -> np.ndarray:
    """Return at most `count` positions, evenly spaced over `samples`."""
    return np.unique(np.linspace(0, samples - 1, min(count, samples)).astype(np.int64))


def _draw_pose(axis: Axes, pose: DrawnPose, joint_set: JointSet) -> None:
    axis.imshow(pose.image)
    for start, end in joint_set.limbs:
        if pose.shown[start] and pose.shown[end]:
            color = _side_color(joint_set.joints[start], joint_set.joints[end])
            axis.plot(*pose.joints[[start, end]].T, color=color, linewidth=2)
    for joint, name in enumerate(joint_set.joints):
        if pose.shown[joint]:
            axis.plot(*pose.joints[joint], "o", color=_side_color(name), markersize=3.5)
        if pose.truth is not None and pose.annotated is not None and pose.annotated[joint]:
            axis.plot(*pose.truth[joint], "o", mfc="none", mec=_TRUTH, mew=0.9, markersize=6)
    height, width = pose.image.shape[:2]
    axis.set_xlim(-0.5, width - 0.5)
    axis.set_ylim(height - 0.5, -0.5)
    # Of names that are no UTF-8 there is nothing to draw.
    title = one_line(pose.title)
    is_long = len(title) > _TITLE_LETTERS
    # Titles are often names of files, and their $ must not begin a formula.
    axis.set_title(
        "\u2026" + title[1 - _TITLE_LETTERS :] if is_long else title, fontsize=8, parse_math=False
    )


def _side_color(*names: str) -> str:
    return _OF_SIDE[common_side(names)]
