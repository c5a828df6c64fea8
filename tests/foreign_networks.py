"""Networks in the key layouts of two public implementations, as small as the keys allow."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# The layout of pytorch-pose


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half = outputs // 2
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, half, 1)
        self.bn2, self.conv2 = nn.BatchNorm2d(half), nn.Conv2d(half, half, 3, padding=1)
        self.bn3, self.conv3 = nn.BatchNorm2d(half), nn.Conv2d(half, outputs, 1)
        self.downsample = None
        if inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(self.bn1(x).relu())
        y = self.conv2(self.bn2(y).relu())
        y = self.conv3(self.bn3(y).relu())
        return y + (x if self.downsample is None else self.downsample(x))


def bottlenecks(count: int, channels: int) -> nn.Sequential:
    return nn.Sequential(*(Bottleneck(channels, channels) for _ in range(count)))


class Levels(nn.Module):
    """An hourglass whose levels lie side by side, the innermost first."""

    def __init__(self, depth: int, blocks: int, channels: int) -> None:
        super().__init__()
        self.hg = nn.ModuleList(
            nn.ModuleList(bottlenecks(blocks, channels) for _ in range(3 if level else 4))
            for level in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.at(len(self.hg) - 1, x)

    def at(self, level: int, x: Tensor) -> Tensor:
        row = self.hg[level]
        lower = row[1](F.max_pool2d(x, 2))
        lower = row[2](self.at(level - 1, lower) if level else row[3](lower))
        return row[0](x) + F.interpolate(lower, scale_factor=2)


class Hg(nn.Module):
    """`stem` are the channels after each residual of the stem, as shares of the features.

    By default they are the authors'; pytorch-pose builds `GENUINE`.
    """

    GENUINE = (1 / 2, 1, 1)

    def __init__(
        self,
        stacks: int = 2,
        blocks: int = 1,
        channels: int = 16,
        joints: int = 16,
        stem: tuple[float, float, float] = (1 / 2, 1 / 2, 1),
        depth: int = 4,
    ) -> None:
        super().__init__()
        first, second, third = (round(share * channels) for share in stem)
        self.conv1 = nn.Conv2d(3, channels // 4, 7, stride=2, padding=3)
        self.bn1 = nn.BatchNorm2d(channels // 4)
        self.layer1 = nn.Sequential(Bottleneck(channels // 4, first))
        self.layer2 = nn.Sequential(Bottleneck(first, second))
        self.layer3 = nn.Sequential(Bottleneck(second, third))

        def each(make: Callable[[], nn.Module], count: int = stacks) -> nn.ModuleList:
            return nn.ModuleList(make() for _ in range(count))

        def linear() -> nn.Module:
            return nn.Conv2d(channels, channels, 1)

        self.hg = each(lambda: Levels(depth, blocks, channels))
        self.res = each(lambda: bottlenecks(blocks, channels))
        self.fc = each(lambda: nn.Sequential(linear(), nn.BatchNorm2d(channels), nn.ReLU()))
        self.score = each(lambda: nn.Conv2d(channels, joints, 1))
        self.fc_ = each(linear, stacks - 1)
        self.score_ = each(lambda: nn.Conv2d(joints, channels, 1), stacks - 1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.layer1(self.bn1(self.conv1(images)).relu())
        x = self.layer3(self.layer2(F.max_pool2d(x, 2)))
        heatmaps = []
        for stack, hourglass in enumerate(self.hg):
            y = self.fc[stack](self.res[stack](hourglass(x)))
            heatmaps.append(self.score[stack](y))
            if stack < len(self.fc_):
                x = x + self.fc_[stack](y) + self.score_[stack](heatmaps[-1])
        return torch.stack(heatmaps)


# The layout of Princeton


class Conv(nn.Module):
    def __init__(self, inputs: int, outputs: int, side: int = 1, stride: int = 1, norm=False):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, side, stride, padding=side // 2)
        self.bn = nn.BatchNorm2d(outputs) if norm else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y if self.bn is None else self.bn(y).relu()


class Residual(nn.Module):
    """It has a skip's weights in any case, and uses them where the channels differ."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half = outputs // 2
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), Conv(inputs, half)
        self.bn2, self.conv2 = nn.BatchNorm2d(half), Conv(half, half, 3)
        self.bn3, self.conv3 = nn.BatchNorm2d(half), Conv(half, outputs)
        self.skip_layer = Conv(inputs, outputs)
        self.changes = inputs != outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(self.bn1(x).relu())
        y = self.conv2(self.bn2(y).relu())
        y = self.conv3(self.bn3(y).relu())
        return y + (self.skip_layer(x) if self.changes else x)


class Nested(nn.Module):
    def __init__(self, depth: int, channels: int, increase: int) -> None:
        super().__init__()
        below = channels + increase
        self.up1, self.low1 = Residual(channels, channels), Residual(channels, below)
        self.low2 = Nested(depth - 1, below, increase) if depth > 1 else Residual(below, below)
        self.low3 = Residual(below, channels)

    def forward(self, x: Tensor) -> Tensor:
        lower = self.low3(self.low2(self.low1(F.max_pool2d(x, 2))))
        return self.up1(x) + F.interpolate(lower, scale_factor=2)


class Merge(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = Conv(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class PoseNet(nn.Module):
    def __init__(
        self,
        stacks: int = 2,
        channels: int = 16,
        joints: int = 16,
        stem: int = 4,
        increase: int = 0,
        depth: int = 4,
    ) -> None:
        super().__init__()
        self.pre = nn.Sequential(
            Conv(3, stem, 7, 2, norm=True),
            Residual(stem, 2 * stem),
            nn.MaxPool2d(2),
            Residual(2 * stem, 2 * stem),
            Residual(2 * stem, channels),
        )

        def each(make: Callable[[], nn.Module], count: int = stacks) -> nn.ModuleList:
            return nn.ModuleList(make() for _ in range(count))

        self.hgs = each(lambda: nn.Sequential(Nested(depth, channels, increase)))
        self.features = each(
            lambda: nn.Sequential(Residual(channels, channels), Conv(channels, channels, norm=True))
        )
        self.outs = each(lambda: Conv(channels, joints))
        self.merge_features = each(lambda: Merge(channels, channels), stacks - 1)
        self.merge_preds = each(lambda: Merge(joints, channels), stacks - 1)

    def forward(self, images: Tensor) -> Tensor:
        x, heatmaps = self.pre(images), []
        for stack, hourglass in enumerate(self.hgs):
            y = self.features[stack](hourglass(x))
            heatmaps.append(self.outs[stack](y))
            if stack < len(self.merge_preds):
                x = x + self.merge_preds[stack](heatmaps[-1]) + self.merge_features[stack](y)
        return torch.stack(heatmaps)


def trained(network: nn.Module) -> nn.Module:
    """The network as if it had learned: no statistic and no affine part of a norm is trivial."""
    random = torch.Generator().manual_seed(3)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.bias.data):
                tensor.normal_(0, 0.5, generator=random)
            for tensor in (module.running_var, module.weight.data):
                tensor.uniform_(0.5, 2, generator=random)
            module.num_batches_tracked.fill_(7)
    return network.eval()
