"""The stacked hourglass network of Newell, Yang and Deng (ECCV 2016, arXiv 1603.06937)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.settings import ModelSettings


class Residual(nn.Module):
    """Pre-activation bottleneck; the skip is the identity where the channels agree."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half = outputs // 2
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, half, 1)
        self.norm2 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, half, 3, padding=1)
        self.norm3 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(half, outputs, 1)
        self.skip: nn.Module = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv1(F.relu(self.norm1(x)))
        y = self.conv2(F.relu(self.norm2(y)))
        y = self.conv3(F.relu(self.norm3(y)))
        return y + self.skip(x)


def _residuals(count: int, features: int) -> nn.Sequential:
    return nn.Sequential(*(Residual(features, features) for _ in range(count)))


class Hourglass(nn.Module):
    """Bottom-up, top-down processing over `order` halvings, with a skip at every resolution."""

    def __init__(self, order: int, modules: int, features: int) -> None:
        super().__init__()
        self.upper = _residuals(modules, features)
        self.down = _residuals(modules, features)
        self.inner: nn.Module = (
            Hourglass(order - 1, modules, features) if order > 1 else _residuals(modules, features)
        )
        self.up = _residuals(modules, features)

    def forward(self, x: Tensor) -> Tensor:
        lower: Tensor = self.up(self.inner(self.down(F.max_pool2d(x, 2))))
        upper: Tensor = self.upper(x)
        return upper + F.interpolate(lower, scale_factor=2.0, mode="nearest")


class Stack(nn.Module):
    """One hourglass with its head; all but the last feed their prediction back."""

    def __init__(self, settings: ModelSettings, last: bool) -> None:
        super().__init__()
        features, joints = settings.features, settings.joints
        self.hourglass = Hourglass(settings.order, settings.modules, features)
        self.residuals = _residuals(settings.modules, features)
        self.conv = nn.Conv2d(features, features, 1)
        self.norm = nn.BatchNorm2d(features)
        self.head = nn.Conv2d(features, joints, 1)
        # The last stack has nothing to feed; weights without a gradient would break DDP.
        self.merge_features = None if last else nn.Conv2d(features, features, 1)
        self.merge_heatmaps = None if last else nn.Conv2d(joints, features, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = F.relu(self.norm(self.conv(self.residuals(self.hourglass(x)))))
        heatmaps: Tensor = self.head(y)
        if self.merge_features is not None and self.merge_heatmaps is not None:
            x = x + self.merge_features(y) + self.merge_heatmaps(heatmaps)
        return x, heatmaps


class StackedHourglass(nn.Module):
    """Predict one heatmap a joint, at a quarter of the input's resolution, after every stack.

    `settings.joints` must be set. With 256 features this is the authors'
    network; the stem scales with the features.
    """

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        assert settings.joints >= 1, "model.joints is resolved before the network"
        quarter, half = settings.features // 4, settings.features // 2
        self.stem_conv = nn.Conv2d(3, quarter, 7, stride=2, padding=3)
        self.stem_norm = nn.BatchNorm2d(quarter)
        self.stem_residual1 = Residual(quarter, half)
        self.stem_residual2 = Residual(half, half)
        self.stem_residual3 = Residual(half, settings.features)
        self.stacks = nn.ModuleList(
            Stack(settings, last=index == settings.stacks - 1) for index in range(settings.stacks)
        )

    def start_heads_at_zero(self) -> None:
        """Make every head predict all-zero heatmaps, as good as all of a target is zero."""
        for module in self.modules():
            if isinstance(module, Stack):
                nn.init.zeros_(module.head.weight)
                assert module.head.bias is not None
                nn.init.zeros_(module.head.bias)

    def forward(
        self, images: Float[Tensor, "batch 3 input_px input_px"]
    ) -> Float[Tensor, "stack batch joint heatmap_px heatmap_px"]:
        x = F.relu(self.stem_norm(self.stem_conv(images)))
        x = F.max_pool2d(self.stem_residual1(x), 2)
        x = self.stem_residual3(self.stem_residual2(x))
        predictions = []
        for stack in self.stacks:
            x, heatmaps = stack(x)
            predictions.append(heatmaps)
        return torch.stack(predictions)
