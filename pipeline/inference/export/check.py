"""Comparison of an exported file with its network on the same people."""

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

# A joint may differ by at most this distance.
MOST_PX = 0.05
# Images per batch; a first batch has one.
_SEVERAL = 5
# Effect of rounding on heatmaps, as a share of the highest confidence.
_ROUNDING = 1e-4

Images = UInt8[np.ndarray, "batch input_px input_px 3"]
Joints = tuple[Float[Tensor, "batch joint 2"], Float[Tensor, "batch joint"]]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Largest differences, of a joint in input pixels and of a confidence."""

    joint_px: float
    confidence: float


def compare(
    graph: Graph, metadata: CheckpointMetadata, runner: Runner, images: Images
) -> Difference:
    """Run an exported file and its network on images, one alone and several at a time.

    Raises ExportError if outputs are not finite, or joints are further apart than `MOST_PX`, with
    the reason if it is known.
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
        count = int((apart > MOST_PX).sum())
        message = (
            f"{count} of {apart.numel()} joints are more than {MOST_PX} px from the network's, "
            f"the furthest {difference.joint_px:.3g} px"
        )
        if difference.confidence <= _ROUNDING * float(heights.abs().max()):
            message += (
                "; confidences agree, so these heatmaps have two equal maxima: the network does "
                "not locate these joints, check on other people"
            )
        raise ExportError(message)
    return difference


def _batches(images: Images) -> Iterator[Images]:
    yield images[:1]
    # A single photograph is repeated to make a batch of several.
    enough = images if len(images) > 1 else np.repeat(images, 2, axis=0)
    for start in range(0, len(enough), _SEVERAL):
        yield enough[start : start + _SEVERAL]


@torch.inference_mode()
def _expected(graph: Graph, metadata: CheckpointMetadata, images: Images) -> Joints:
    """Compute joints as evaluation does."""
    pixels = torch.from_numpy(images)
    floats = scaled(pixels, torch.ones(len(images), 3), torch.device("cpu"))
    mirror = metadata.joint_set.mirror if graph.chosen.flip_test else None
    predicted, loss = graph.network(floats), metadata.settings.optim.loss
    return graph.joints(predicted_heatmaps(graph.network, floats, predicted, loss, mirror)[-1])


def _found(graph: Graph, runner: Runner, images: Images) -> Joints:
    outputs = [torch.from_numpy(output) for output in runner(images)]
    if graph.chosen.decode:
        joints, confidence = outputs
        return joints, confidence
    return graph.joints(outputs[0])
