"""The stacked hourglass network of Newell, Yang and Deng (ECCV 2016, arXiv 1603.06937)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.model.network import Heatmaps, PoseNetwork
from pipeline.model.parts import InParts
from pipeline.pose.shapes import Float
from pipeline.settings import ModelSettings

# Resolutions below the output's at which heatmaps are predicted inside an hourglass
# (Newell et al., figure 8: HG-Int).
_INSIDE = 2


class Residual(nn.Module):
    """Pre-activation bottleneck; the skip is the identity where the channels are equal."""

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
        y: Tensor = self.conv1(_norm_relu(self.norm1, x))
        y = self.conv2(_norm_relu(self.norm2, y))
        y = self.conv3(_norm_relu(self.norm3, y))
        return y + self.skip(x)


def _norm_relu(norm: nn.Module, x: Tensor) -> Tensor:
    # In place: a norm's gradient needs only its input, and freed outputs would leave holes in
    # the allocator that the following blocks don't fit.
    return F.relu(norm(x), inplace=True)


def _residuals(count: int, features: int) -> nn.Sequential:
    return nn.Sequential(*(Residual(features, features) for _ in range(count)))


class Inside(nn.Module):
    """Head inside an hourglass, whose heatmaps are fed back as between two stacks."""

    def __init__(self, features: int, joints: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(features, features, 1)
        self.norm = nn.BatchNorm2d(features)
        self.head = nn.Conv2d(features, joints, 1)
        self.merge_features = nn.Conv2d(features, features, 1)
        self.merge_heatmaps = nn.Conv2d(joints, features, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = _norm_relu(self.norm, self.conv(x))
        heatmaps: Tensor = self.head(y)
        return x + self.merge_features(y) + self.merge_heatmaps(heatmaps), heatmaps


class Hourglass(InParts):
    """Bottom-up, top-down processing over `order` halvings, with a skip at every resolution.

    The `inside` next lower resolutions predict heatmaps of `joints` from upsampled features.
    """

    def __init__(
        self, order: int, modules: int, features: int, joints: int = 0, inside: int = 0
    ) -> None:
        super().__init__()
        self.upper = _residuals(modules, features)
        self.down = _residuals(modules, features)
        self.inner: nn.Module = (
            Hourglass(order - 1, modules, features, joints, inside - 1)
            if order > 1
            else _residuals(modules, features)
        )
        self.inside = Inside(features, joints) if inside > 0 else None
        self.up = _residuals(modules, features)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return features, and the heatmaps predicted inside, coarse to fine."""
        y: Tensor = self.part(self._halve, x)
        heatmaps: tuple[Tensor, ...] = ()
        if isinstance(self.inner, Hourglass):
            y, heatmaps = self.inner(y)
        else:
            y = self.part(self.inner, y)
        if self.inside is not None:
            y, predicted = self.inside(y)
            heatmaps = (*heatmaps, predicted)
        lower = F.interpolate(self.part(self.up, y), scale_factor=2.0, mode="nearest")
        return self.part(self.upper, x) + lower, heatmaps

    def _halve(self, x: Tensor) -> Tensor:
        halved: Tensor = self.down(F.max_pool2d(x, 2))
        return halved


class Stack(InParts):
    """One hourglass with its head; every stack but the last feeds its prediction back."""

    def __init__(self, settings: ModelSettings, last: bool) -> None:
        super().__init__()
        features, joints = settings.features, settings.joints
        inside = _INSIDE if settings.supervision == "inside" else 0
        self.hourglass = Hourglass(settings.order, settings.modules, features, joints, inside)
        self.residuals = _residuals(settings.modules, features)
        self.conv = nn.Conv2d(features, features, 1)
        self.norm = nn.BatchNorm2d(features)
        self.head = nn.Conv2d(features, joints, 1)
        # The last stack feeds none; weights without a gradient would break DDP.
        self.merge_features = None if last else nn.Conv2d(features, features, 1)
        self.merge_heatmaps = None if last else nn.Conv2d(joints, features, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Return the next stack's input, the heatmaps, and those predicted inside."""
        y, inside = self.hourglass(x)
        x, heatmaps = self.part(self._predict, x, y)
        return x, heatmaps, inside

    def _predict(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        y = _norm_relu(self.norm, self.conv(self.residuals(y)))
        heatmaps: Tensor = self.head(y)
        if self.merge_features is not None and self.merge_heatmaps is not None:
            x = x + self.merge_features(y) + self.merge_heatmaps(heatmaps)
        return x, heatmaps


class StackedHourglass(PoseNetwork):
    """Predict one heatmap per joint, at a quarter of the input's resolution, after every stack.

    `settings.joints` must be set. With 256 features this is the authors' network; the stem scales
    with the features unless `settings.stem_features` sets its width.

    `settings.supervision` selects the heatmaps that training compares with the target (Newell et
    al., section 4.3 and figure 8). `last-stack` leaves the network as it is; with `inside` a single
    hourglass also predicts from its upsampled features.
    """

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        assert settings.joints >= 1, "model.joints is resolved before the network"
        quarter, half = settings.features // 4, settings.features // 2
        self.stem_conv = nn.Conv2d(3, quarter, 7, stride=2, padding=3)
        self.stem_norm = nn.BatchNorm2d(quarter)
        self.stem_residual1 = Residual(quarter, half)
        stem = settings.stem_features or half
        self.stem_residual2 = Residual(half, stem)
        self.stem_residual3 = Residual(stem, settings.features)
        self.supervision = settings.supervision
        self.stacks = nn.ModuleList(
            Stack(settings, last=index == settings.stacks - 1) for index in range(settings.stacks)
        )

    def start_heads_at_zero(self) -> None:
        for module in self.modules():
            if isinstance(module, Stack | Inside):
                nn.init.zeros_(module.head.weight)
                assert module.head.bias is not None
                nn.init.zeros_(module.head.bias)

    def output_head(self) -> nn.Conv2d:
        last = self.stacks[-1]
        assert isinstance(last, Stack)
        return last.head

    def forward(self, images: Float[Tensor, "batch 3 input_px input_px"]) -> Heatmaps:
        x = self.part(self._widen, self.part(self._shrink, images))
        predictions, within = [], []
        for stack in self.stacks:
            x, heatmaps, inside = stack(x)
            predictions.append(heatmaps)
            within += [maps.unsqueeze(0) for maps in inside]
        stacks = torch.stack(predictions)
        trained = stacks[-1:] if self.supervision == "last-stack" else stacks
        return Heatmaps(stacks=stacks, supervised=(trained, *within))

    def _shrink(self, images: Tensor) -> Tensor:
        x = _norm_relu(self.stem_norm, self.stem_conv(images))
        return F.max_pool2d(self.stem_residual1(x), 2)

    def _widen(self, x: Tensor) -> Tensor:
        widened: Tensor = self.stem_residual3(self.stem_residual2(x))
        return widened
