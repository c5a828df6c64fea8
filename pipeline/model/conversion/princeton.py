"""Layout of `PoseNet` (github.com/princeton-vl/pytorch_stacked_hourglass, models/posenet.py)."""

from pipeline.model.conversion.layout import Layout, Tensors, channels, count, head_channels
from pipeline.settings import ModelSettings


def _model(tensors: Tensors) -> ModelSettings:
    joints, features = head_channels(tensors, "outs.0.conv.weight")
    return ModelSettings(
        stacks=count(tensors, "hgs.#."),
        order=max((key.count("low2.") for key in tensors if key.startswith("hgs.0.")), default=0),
        features=features,
        joints=joints,
    )


def _differences(tensors: Tensors, model: ModelSettings) -> list[str]:
    found = []
    lower = channels(tensors, "hgs.0.0.low1.conv3.conv.weight")[0]
    if lower > model.features:
        found.append(
            f"its hourglasses gain {lower - model.features} channels at each lower resolution "
            f"(`increase`), here they keep {model.features}"
        )
    stem = channels(tensors, "pre.0.conv.weight")[0]
    if stem != model.features // 4:
        found.append(
            f"its stem has {stem} channels for any number of features, here a quarter of "
            f"{model.features}: {model.features // 4}"
        )
    return found


PRINCETON = Layout(
    name="Princeton's PoseNet",
    stem_conv="pre.0.conv",
    stem_norm="pre.0.bn",
    stem_residuals=("pre.1", "pre.3", "pre.4"),
    hourglass="hgs.{stack}.0.{nested}{branch}",
    nested="low2.",
    branches={"upper": "up1", "down": "low1", "up": "low3", "inner": "low2"},
    residuals="features.{stack}.{module}",
    stack={
        "conv": "features.{stack}.1.conv",
        "norm": "features.{stack}.1.bn",
        "head": "outs.{stack}.conv",
        "merge_features": "merge_features.{stack}.conv.conv",
        "merge_heatmaps": "merge_preds.{stack}.conv.conv",
    },
    residual={
        "norm1": "bn1",
        "conv1": "conv1.conv",
        "norm2": "bn2",
        "conv2": "conv2.conv",
        "norm3": "bn3",
        "conv3": "conv3.conv",
        "skip": "skip_layer.conv",
    },
    model=_model,
    differences=_differences,
    spare_skips=True,
    input_range="RGB from 0 to 1, as here",
)
