"""An exported file beside the network that it was made of, on the same people."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.data.batch import scaled
from pipeline.inference.export.graph import Graph
from pipeline.inference.export.write import ExportError, Runner
from pipeline.model.decoding import predicted_heatmaps
from pipeline.pose.shapes import Float, UInt8
from pipeline.run.metadata import CheckpointMetadata

# Further apart a joint is another one.
MOST_PX = 0.05
# Images in a batch after the first, which is of one.
_SEVERAL = 5
# As a share of the highest confidence: what rounding does to heatmaps.
_ROUNDING = 1e-4

Images = UInt8[np.ndarray, "batch input_px input_px 3"]
Joints = tuple[Float[Tensor, "batch joint 2"], Float[Tensor, "batch joint"]]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The largest differences: `joint_px` of a joint in input pixels, `confidence` of that in one."""

    joint_px: float
    confidence: float


def compare(
    graph: Graph, metadata: CheckpointMetadata, runner: Runner, images: Images
) -> Difference:
    """Run an exported file and the network it was made of on images, one alone and several at a time.

    Raises ExportError if either says what is no number, or if joints are
    further apart than `MOST_PX`, saying why where that is known.
    """
    pairs = [
        (_expected(graph, metadata, batch), _found(graph, runner, batch))
        for batch in _batches(images)
    ]
    joints, heights = (
        torch.stack([torch.cat([pair[side][what] for pair in pairs]) for side in (0, 1)])
        for what in (0, 1)
    )
    for name, values in zip(("network", "exported file"), heights, strict=True):
        if not values.isfinite().all():
            raise ExportError(f"the {name} has heatmaps that are not finite")
    apart = (joints[0] - joints[1]).norm(dim=-1)
    difference = Difference(
        joint_px=float(apart.max()), confidence=float((heights[0] - heights[1]).abs().max())
    )
    if not difference.joint_px <= MOST_PX:
        raise ExportError(_said(graph, difference, float(heights.abs().max()), apart))
    return difference


def _said(graph: Graph, difference: Difference, highest: float, apart: Tensor) -> str:
    count = int((apart > MOST_PX).sum())
    said = (
        f"{count} of {apart.numel()} joints are more than {MOST_PX} px from the network's, "
        f"the furthest {difference.joint_px:.3g} px"
    )
    if difference.confidence <= _ROUNDING * highest:
        said += (
            "; confidences agree, so these heatmaps have two pixels as high as each other: the "
            "network can't tell these joints, check on other people"
        )
    return said


def _batches(images: Images) -> Iterator[Images]:
    yield images[:1]
    # A single photograph makes a batch of several too.
    enough = images if len(images) > 1 else np.repeat(images, 2, axis=0)
    for start in range(0, len(enough), _SEVERAL):
        yield enough[start : start + _SEVERAL]


@torch.inference_mode()
def _expected(graph: Graph, metadata: CheckpointMetadata, images: Images) -> Joints:
    """What evaluation would find, by the way that evaluation takes."""
    pixels = torch.from_numpy(images)
    floats = scaled(pixels, torch.ones(len(images), 3), torch.device("cpu"))
    mirror = metadata.joint_set.mirror if graph.chosen.flip_test else None
    predicted = graph.network(floats)
    return graph.joints(
        predicted_heatmaps(graph.network, floats, predicted, metadata.settings.optim.loss, mirror)[
            -1
        ]
    )


def _found(graph: Graph, runner: Runner, images: Images) -> Joints:
    outputs = [torch.from_numpy(output) for output in runner(images)]
    if graph.chosen.decode:
        joints, confidence = outputs
        return joints, confidence
    return graph.joints(outputs[0])
