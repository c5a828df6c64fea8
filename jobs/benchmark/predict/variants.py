"""Variants of turning images into heatmaps on a CPU, each ready to run."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import torch
from torch import nn

from jobs.benchmark.step.variants import Contiguous
from jobs.benchmark.timing import Run, in_fresh_process
from pipeline.data.batch import scaled
from pipeline.inference.export.graph import Graph, GraphSettings
from pipeline.inference.export.write import load, write
from pipeline.model.build import Bf16Network, build_network, fastest
from pipeline.model.loss import to_heatmaps
from pipeline.model.network import PoseNetwork
from pipeline.pose.joint_sets import MPII
from pipeline.pose.shapes import UInt8
from pipeline.settings import ModelSettings, Settings

CPU = torch.device("cpu")
Variant = Literal[
    "fp32 contiguous", "fp32 channels_last", "bf16 channels_last", "ONNX Runtime fp32"
]
PLAIN: Variant = "fp32 contiguous"
_ONNX: Variant = "ONNX Runtime fp32"
# Least number of images that are timed together.
_IMAGES = 8

Images = UInt8[np.ndarray, "batch input_px input_px 3"]
# Images to the last stack's heatmaps, in fp32.
Predict = Callable[[Images], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Network:
    """The paper's network or a smaller one, with 16 joints."""

    stacks: int
    features: int
    input_px: int

    @property
    def settings(self) -> Settings:
        """Settings with this network."""
        model = ModelSettings(
            stacks=self.stacks, features=self.features, input_px=self.input_px, joints=16
        )
        return Settings(model=model)

    def build(self) -> PoseNetwork:
        """Build it with random heads: all-zero heatmaps would hide differences."""
        network = build_network(self.settings.model, 0, CPU, zero_heads=False)
        network.eval()
        return network


def variants() -> tuple[Variant, ...]:
    """Return the variants, the plain one first; ONNX Runtime where it is installed."""
    found: tuple[Variant, ...] = (PLAIN, "fp32 channels_last", "bf16 channels_last")
    return (*found, _ONNX) if importlib.util.find_spec("onnxruntime") else found


def default() -> Variant:
    """Return the variant that prediction uses on this machine."""
    network = fastest(Network(stacks=1, features=4, input_px=64).build(), CPU)
    return "bf16 channels_last" if isinstance(network, Bf16Network) else "fp32 channels_last"


def prepare(variant: Variant, network: Network) -> Predict:
    """Build the network, and return a function that predicts as the variant does."""
    if variant == _ONNX:
        return _onnx(network)
    built: nn.Module = network.build()
    if variant == PLAIN:
        built = Contiguous(network.build())
    elif variant == "bf16 channels_last":
        built = Bf16Network(network.build())

    @torch.inference_mode()
    def predict(images: Images) -> np.ndarray:
        floats = scaled(torch.from_numpy(images), torch.ones(len(images), 3), CPU)
        return to_heatmaps(built(floats).stacks[-1], network.settings.optim.loss).numpy()

    return predict


def _onnx(network: Network) -> Predict:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        # In a fresh process, so that exporting does not count as prediction's memory.
        in_fresh_process(_write_onnx, network, path)
        run = load("onnx", path)
    return lambda images: run(images)[0]


def _write_onnx(network: Network, path: Path) -> None:
    graph = Graph(network.build(), network.settings, MPII, GraphSettings())
    write(graph, "onnx", path, network.input_px, {})


def predict_batches(variant: Variant, network: Network, batch: int) -> Run:
    """Return a function that predicts batches of noise and returns the number of images."""
    predict, pixels = prepare(variant, network), noise(batch, network.input_px)
    times = max(1, _IMAGES // batch)

    def run() -> int:
        for _ in range(times):
            predict(pixels)
        return times * batch

    return run


def noise(count: int, input_px: int) -> Images:
    """Return random images, the same each time."""
    random = np.random.default_rng(0)
    return random.integers(0, 256, (count, input_px, input_px, 3), np.uint8)
