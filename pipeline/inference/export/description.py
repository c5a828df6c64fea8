"""Metadata in an exported file, for users who have only the file."""

import json
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pipeline.inference.export.graph import CONFIDENCE, HEATMAPS, INPUT, JOINTS, GraphSettings
from pipeline.model.loss import LOSSES
from pipeline.pose.geometry import heatmap_from_input
from pipeline.run.metadata import CheckpointMetadata, versions
from pipeline.settings import Loss

_PRODUCT = "hourglass-ray"


def describe(
    metadata: CheckpointMetadata, checkpoint: Path, weights: str, chosen: GraphSettings
) -> dict[str, Any]:
    """Return the metadata as plain data for JSON; `weights` are "raw" or "ema"."""
    settings, joint_set = metadata.settings, metadata.joint_set
    measure = joint_set.measure(settings.evaluation.measure)
    # With a moving average both weights were evaluated, under "raw/" and "ema/" too.
    own = f"{weights}/{measure.metric_name}"
    score = metadata.metrics.get(own, metadata.metrics.get(measure.metric_name))
    return {
        "joint_set": joint_set.to_json(),
        "mirror": list(joint_set.mirror),
        "input_px": settings.model.input_px,
        "heatmap_px": settings.model.heatmap_px,
        "heatmap_from_input": heatmap_from_input().tolist(),
        "normalisation": "inside: uint8 RGB divided by 255, no mean subtracted",
        "inputs": {INPUT: "uint8 (batch, input_px, input_px, 3), RGB, one person each"},
        "outputs": {name: _outputs(settings.optim.loss)[name] for name in chosen.outputs},
        "loss": settings.optim.loss,
        "target_peak": settings.optim.target_peak,
        "sigma_px": settings.optim.sigma_px,
        "decoding": chosen.decoding if chosen.decode else "none",
        "flip_test": chosen.flip_test,
        "checkpoint": f"{checkpoint.parent.name}/{checkpoint.name}",
        "weights": weights,
        "epochs": metadata.progress.epochs,
        "score": {} if score is None else {measure.headline: score},
        "versions": versions() | _own_version(),
    }


def _outputs(loss: Loss) -> Mapping[str, str]:
    return {
        HEATMAPS: "float32 (batch, joint, heatmap_px, heatmap_px), of the last stack; "
        f"{LOSSES[loss].height}",
        JOINTS: "float32 (batch, joint, 2), x and y in input pixels, the first one's centre at 0",
        CONFIDENCE: f"float32 (batch, joint); {LOSSES[loss].confidence}",
    }


def _own_version() -> dict[str, str]:
    # A submitted job's code is not installed.
    with suppress(PackageNotFoundError):
        return {_PRODUCT: version(_PRODUCT)}
    return {}


def as_strings(description: Mapping[str, Any]) -> dict[str, str]:
    """Convert values to ONNX's strings: text stays, other values become JSON."""
    return {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in description.items()
    }
