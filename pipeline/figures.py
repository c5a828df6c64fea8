"""Pictures, each a function from arrays to a matplotlib Figure; callers save or log them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.metric import THRESHOLDS, JointCounts, Scores
from pipeline.pose.joint_sets import JointSet

_LEFT, _RIGHT, _MIDDLE, _TRUTH = "#ff7f0e", "#1f9bff", "#7bd34f", "#ffffff"


# What fits above one person's picture.
_TITLE_LETTERS = 32


@dataclass(frozen=True, kw_only=True)
class Pose:
    """A person to draw: an image with joints in its pixels; `truth` where it is known."""

    image: UInt8[np.ndarray, "height width 3"]
    joints: Float[np.ndarray, "joint 2"]
    shown: Bool[np.ndarray, " joint"]
    truth: Float[np.ndarray, "joint 2"] | None = None
    annotated: Bool[np.ndarray, " joint"] | None = None
    title: str = ""


def overlay(poses: Sequence[Pose], joint_set: JointSet, title: str) -> Figure:
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


def _draw_pose(axis: Axes, pose: Pose, joint_set: JointSet) -> None:
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


def curves(history: Mapping[str, Sequence[tuple[int, float]]], headline: str) -> Figure:
    """Loss and accuracy by epoch. `history` holds (epoch, value) by metric name."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    losses, accuracy = figure.subplots(1, 2)
    for name in ("train_loss", "val_loss"):
        if history.get(name):
            losses.plot(*zip(*history[name], strict=True), marker=".", label=name)
    losses.set(xlabel="epoch", ylabel="loss (sum over stacks)", yscale="log")
    losses.legend()
    if history.get(headline):
        accuracy.plot(*zip(*history[headline], strict=True), marker=".", color="tab:green")
    accuracy.set(xlabel="epoch", ylabel=f"{headline} (%)", ylim=(0, 100))
    for axis in (losses, accuracy):
        axis.grid(alpha=0.3)
    return figure


def joint_bars(result: Scores) -> Figure:
    """The headline percentage of each joint, and the pooled mean as a line."""
    threshold = result.measure.thresholds[0]
    values = result.joints[threshold]
    figure = Figure(figsize=(7, 0.28 * len(values) + 1.2), layout="constrained")
    axis = figure.subplots()
    axis.barh(list(values), list(values.values()), color="tab:blue")
    axis.axvline(result.headline, color="tab:red", label=f"pooled {result.headline:.1f}")
    axis.invert_yaxis()
    axis.set(xlabel=f"{result.measure.headline} (%)", xlim=(0, 100))
    axis.legend()
    return figure


def threshold_curve(counts: JointCounts, result: Scores) -> Figure:
    """Percentage of correct joints against the threshold, pooled over the joints of the mean."""
    members = list(result.joint_set.in_mean)
    pooled = counts.correct[:, members].sum(axis=1) / counts.annotated[members].sum()
    figure = Figure(figsize=(5.5, 4), layout="constrained")
    axis = figure.subplots()
    axis.plot(THRESHOLDS, 100 * pooled)
    axis.set(
        xlabel=f"threshold (share of {result.measure.title}'s normaliser)",
        ylabel=f"{result.measure.title} (%), AUC {result.auc:.1f}",
        xlim=(0, 0.5),
        ylim=(0, 100),
    )
    axis.grid(alpha=0.3)
    return figure
