"""Variants of the training step: precision, layout and compilation, forward or trained."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from jobs.benchmark.timing import Run
from pipeline.data.batch import Batch, network_input
from pipeline.model.build import build_network, training_dtype
from pipeline.model.network import Heatmaps, PoseNetwork
from pipeline.settings import ModelSettings, OptimSettings
from pipeline.training.updater import Updater

# As many as MPII has.
JOINTS = 16
# A moving average, as the recipe `modern` has one.
_EMA_SAMPLES = 10_000
Pass = Literal["forward", "training"]
Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A network, a batch and how it is computed; `precision` is one of `optim.precision`."""

    stacks: int
    batch: int
    input_px: int = 256
    precision: Precision = "fp32"
    layout: Literal["contiguous", "channels_last"] = "channels_last"
    compile: bool = False
    checkpointing: bool = False

    @property
    def name(self) -> str:
        """All that differs in a run, such as `8 stacks, batch 4, bf16 channels_last`."""
        name = f"{self.stacks} stack{'s' * (self.stacks > 1)}, batch {self.batch}, {self.method}"
        return f"{name}, checkpointing" if self.checkpointing else name

    @property
    def method(self) -> str:
        """Precision, layout and compilation."""
        return f"{self.precision} {self.layout}" + " compiled" * self.compile

    @property
    def model(self) -> ModelSettings:
        return ModelSettings(stacks=self.stacks, joints=JOINTS, input_px=self.input_px)

    @property
    def optim(self) -> OptimSettings:
        return OptimSettings(
            batch_size=self.batch,
            precision=self.precision,
            checkpointing=self.checkpointing,
            compile=self.compile,
            ema_samples=_EMA_SAMPLES,
        )


class Contiguous(nn.Module):
    """A network with images and weights in torch's default layout, channel by channel."""

    def __init__(self, network: PoseNetwork) -> None:
        super().__init__()
        for parameter in network.parameters():
            # Not contiguous(): a 1x1 kernel counts as laid out already, but its strides would
            # turn what it is convolved with into channels_last.
            plain = torch.empty_like(parameter.data, memory_format=torch.contiguous_format)
            parameter.data = plain.copy_(parameter.data)
        self.network = network

    def forward(self, images: Tensor) -> Heatmaps:
        heatmaps: Heatmaps = self.network(images.contiguous())
        return heatmaps


class Runner:
    """A variant built on a device, with its batch there; `optim` replaces its own settings."""

    def __init__(
        self, variant: Variant, device: torch.device, optim: OptimSettings | None = None
    ) -> None:
        optim = optim or variant.optim
        self.variant, self._device = variant, device
        # Heads at random: all-zero heatmaps would be equal however they are computed.
        network = build_network(variant.model, optim.seed, device, zero_heads=False)
        self._updater = Updater(network, optim, device)
        self.network: nn.Module = network
        if variant.layout == "contiguous":
            self.network = Contiguous(network)
        self._dtype = training_dtype(optim, device)
        # In training the next batch is copied during a step.
        self.batch = random_batch(variant.batch, variant.input_px).changed(
            lambda tensor: tensor.to(device)
        )
        self._samples = 0

    def run_of(self, what: Pass, steps: int) -> Run:
        """Return a function that takes `steps` steps and returns the number of images."""

        def run() -> int:
            for _ in range(steps):
                self.train() if what == "training" else self.forward()
            synchronize(self._device)
            return steps * self.variant.batch

        return run

    def train(self, batch: Batch | None = None) -> Tensor:
        """Take a training step, by default on noise, and return its loss."""
        self.network.train()
        self._updater.parallel = self.network
        self._samples += self.variant.batch
        return self._updater.step(batch or self.batch, self._samples).loss

    @torch.no_grad()
    def forward(self) -> None:
        """Turn a batch into heatmaps as evaluation does."""
        self.network.eval()
        reduced = self._dtype is not torch.float32
        with torch.autocast(self._device.type, self._dtype, enabled=reduced):
            self.network(network_input(self.batch, self._device))


def random_batch(size: int, input_px: int) -> Batch:
    """Return noise with random joints, the same each time."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (size, input_px, input_px, 3), np.uint8)
    joints = random.uniform(0, input_px // 4 - 1, (size, JOINTS, 2))
    return Batch(
        images=torch.from_numpy(pixels),
        joints=torch.from_numpy(joints.astype(np.float32)),
        annotated=torch.ones(size, JOINTS, dtype=torch.bool),
        gains=torch.ones(size, 3),
        positions=np.arange(size),
    )


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done its queued work; no-op on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
