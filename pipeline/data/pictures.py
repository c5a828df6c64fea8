"""People drawn on images: poses, augmented samples, heatmaps."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.data.augmentation import draw_augmentations
from pipeline.data.batch import Batch
from pipeline.data.loader import SampleLoader
from pipeline.data.shards.sample import Sample
from pipeline.pose.geometry import heatmap_from_input, transform
from pipeline.pose.joint_sets import JointSet
from pipeline.pose.person import Visibility
from pipeline.settings import DataSettings

_LEFT, _RIGHT, _MIDDLE, _TRUTH = "#ff7f0e", "#1f9bff", "#7bd34f", "#ffffff"
# What fits above one person's picture.
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
    """Skeletons over images: left limbs orange, right blue; the truth as white rings."""
    columns = min(4, len(poses))
    rows = -(-len(poses) // columns)
    figure = Figure(figsize=(2.4 * columns, 2.55 * rows + 0.4), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, pose in zip(axes, poses, strict=False):
        _draw_pose(axis, pose, joint_set)
    figure.suptitle(title, fontsize=11)
    return figure


def _draw_pose(axis: Axes, pose: DrawnPose, joint_set: JointSet) -> None:
    axis.imshow(pose.image)
    for start, end in joint_set.limbs:
        if pose.shown[start] and pose.shown[end]:
            color = _side_color(joint_set.joints[start], joint_set.joints[end])
            axis.plot(*pose.joints[[start, end]].T, color=color, linewidth=2)
    for joint, name in enumerate(joint_set.joints):
        if pose.shown[joint]:
            axis.plot(*pose.joints[joint], "o", color=_side_color(name, name), markersize=3.5)
        if pose.truth is not None and pose.annotated is not None and pose.annotated[joint]:
            axis.plot(*pose.truth[joint], "o", mfc="none", mec=_TRUTH, mew=0.9, markersize=6)
    height, width = pose.image.shape[:2]
    axis.set_xlim(-0.5, width - 0.5)
    axis.set_ylim(height - 0.5, -0.5)
    # Titles are often names of files, which may hold what a formula would begin with.
    axis.set_title(_short(pose.title), fontsize=8, parse_math=False)


def _short(name: str) -> str:
    return name if len(name) <= _TITLE_LETTERS else "\u2026" + name[1 - _TITLE_LETTERS :]


def _side_color(*names: str) -> str:
    if all(name.startswith("left") for name in names):
        return _LEFT
    if all(name.startswith("right") for name in names):
        return _RIGHT
    return _MIDDLE


def stack_maps(
    image: UInt8[np.ndarray, "height width 3"],
    maps: Float[np.ndarray, "stack joint rows columns"],
    joints: Sequence[str],
    truth: Float[np.ndarray, "joint 2"],
    annotated: Bool[np.ndarray, " joint"],
    title: str,
) -> Figure:
    """Heatmaps over the image that they are of, a row a stack and a column a joint, all on one scale of colours.

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
    figure.suptitle(title, fontsize=11, parse_math=False)
    return figure


def spaced(samples: int, count: int) -> np.ndarray:
    """At most `count` positions, evenly spaced over `samples`."""
    return np.unique(np.linspace(0, samples - 1, min(count, samples)).astype(np.int64))


def pose_of(sample: Sample, predicted: np.ndarray) -> DrawnPose:
    """A sample's stored crop with predicted joints (joint, 2) in original-image pixels and the truth."""
    to_crop = sample.crop.from_original
    person = sample.person
    return DrawnPose(
        image=sample.picture(),
        joints=transform(predicted, to_crop),
        shown=np.ones(len(predicted), bool),
        truth=transform(np.array(person.joints), to_crop),
        annotated=np.array(person.visibility) != Visibility.MISSING,
        title=sample.key,
    )


def draw_truth(loader: SampleLoader, positions: np.ndarray, title: str) -> Figure:
    """Draw annotated joints on stored crops; white rings mark the occluded ones."""
    poses = []
    for sample in map(loader.samples.__getitem__, positions.tolist()):
        states = np.array(sample.person.visibility)
        pose = pose_of(sample, np.array(sample.person.joints))
        shown, ringed = states != Visibility.MISSING, states == Visibility.OCCLUDED
        poses.append(replace(pose, shown=shown, annotated=ringed))
    return overlay(poses, loader.joint_set, title)


def draw_augmented(
    loader: SampleLoader,
    settings: DataSettings,
    positions: np.ndarray,
    title: str = "training samples as the network sees them",
) -> Figure:
    """Draw samples as training sees them, joints and all: rotated, scaled, mirrored, coloured."""
    varied = draw_augmentations(settings, 0, positions)
    batch = loader.batch(positions, varied)
    to_input = np.linalg.inv(heatmap_from_input())
    poses = [
        DrawnPose(
            image=_seen(batch, row),
            joints=transform(batch.joints[row].double().numpy(), to_input),
            shown=batch.annotated[row].numpy(),
            title=loader.samples[position].key,
        )
        for row, position in enumerate(batch.positions.tolist())
    ]
    return overlay(poses, loader.joint_set, title)


def _seen(batch: Batch, row: int) -> np.ndarray:
    colored = batch.images[row].float() * batch.gains[row]
    return colored.clamp(0, 255).byte().numpy()
