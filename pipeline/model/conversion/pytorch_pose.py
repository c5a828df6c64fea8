"""Layout of pytorch-pose's `hg` (github.com/bearpaw/pytorch-pose, pose/models/hourglass.py)."""

from pipeline.model.conversion.layout import Layout, Tensors, channels, count, head_channels
from pipeline.settings import ModelSettings


def _model(tensors: Tensors) -> ModelSettings:
    joints, features = head_channels(tensors, "score.0.weight")
    # The network of pytorch-pose is wider than the authors': 128 -> 256 in layer2.
    stem = channels(tensors, "layer2.0.conv3.weight")[0]
    return ModelSettings(
        stacks=count(tensors, "hg.#."),
        modules=count(tensors, "hg.0.hg.0.0.#."),
        order=count(tensors, "hg.0.hg.#."),
        features=features,
        stem_features=0 if stem == features // 2 else stem,
        joints=joints,
    )


def _differences(tensors: Tensors, model: ModelSettings) -> list[str]:
    if not count(tensors, "res.#."):
        return ["it has no residuals between hourglass and heatmaps (early pytorch-pose)"]
    return []


PYTORCH_POSE = Layout(
    name="pytorch-pose's hg",
    stem_conv="conv1",
    stem_norm="bn1",
    stem_residuals=("layer1.0", "layer2.0", "layer3.0"),
    hourglass="hg.{stack}.hg.{height}.{branch}.{module}",
    branches={"upper": "0", "down": "1", "up": "2", "inner": "3"},
    residuals="res.{stack}.{module}",
    stack={
        "conv": "fc.{stack}.0",
        "norm": "fc.{stack}.1",
        "head": "score.{stack}",
        "merge_features": "fc_.{stack}",
        "merge_heatmaps": "score_.{stack}",
    },
    residual={
        "norm1": "bn1",
        "conv1": "conv1",
        "norm2": "bn2",
        "conv2": "conv2",
        "norm3": "bn3",
        "conv3": "conv3",
        "skip": "downsample.0",
    },
    model=_model,
    differences=_differences,
    input_range=(
        "RGB from 0 to 1 minus the mean colour of the training images, which the file lacks; "
        "no mean is subtracted here: equal inputs give equal outputs, but equal images do not"
    ),
)
