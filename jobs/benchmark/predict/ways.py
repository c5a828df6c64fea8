"""Ways to turn images into heatmaps on a CPU, each ready to run."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import torch
from torch import nn

from jobs.benchmark.step.contiguous import Contiguous
from jobs.benchmark.timing import Route, in_fresh_process
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
Way = Literal["fp32 contiguous", "fp32 channels_last", "bf16 channels_last", "ONNX Runtime fp32"]
PLAIN: Way = "fp32 contiguous"
_ONNX: Way = "ONNX Runtime fp32"
# Images that a lap of small batches takes together.
_LAP = 8

Images = UInt8[np.ndarray, "batch input_px input_px 3"]
# Images to the last stack's heatmaps, in fp32.
Predict = Callable[[Images], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network of the paper's, or a smaller one, with 16 joints."""

    stacks: int
    features: int
    input_px: int

    @property
    def settings(self) -> Settings:
        """As settings."""
        model = ModelSettings(
            stacks=self.stacks, features=self.features, input_px=self.input_px, joints=16
        )
        return Settings(model=model)

    def build(self) -> PoseNetwork:
        """With random heads: all-zero heatmaps would be equal however they come about."""
        network = build_network(self.settings.model, 0, CPU, zero_heads=False)
        network.eval()
        return network


def ways() -> tuple[Way, ...]:
    """The plain one first; ONNX Runtime where it is installed."""
    found: tuple[Way, ...] = (PLAIN, "fp32 channels_last", "bf16 channels_last")
    return (*found, _ONNX) if importlib.util.find_spec("onnxruntime") else found


def default() -> Way:
    """The way that prediction takes on this machine."""
    network = fastest(Network(stacks=1, features=4, input_px=64).build(), CPU)
    return "bf16 channels_last" if isinstance(network, Bf16Network) else "fp32 channels_last"


def prepare(way: Way, network: Network) -> Predict:
    """Build the network and all that the way needs."""
    if way == _ONNX:
        return _onnx(network)
    made: nn.Module = network.build()
    if way == PLAIN:
        made = Contiguous(network.build())
    elif way == "bf16 channels_last":
        made = Bf16Network(network.build())

    @torch.inference_mode()
    def predict(images: Images) -> np.ndarray:
        floats = scaled(torch.from_numpy(images), torch.ones(len(images), 3), CPU)
        return to_heatmaps(made(floats).stacks[-1], network.settings.optim.loss).numpy()

    return predict


def _onnx(network: Network) -> Predict:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        # In a process of its own: what exporting takes must not count as prediction's memory.
        in_fresh_process(_write_onnx, network, path)
        run = load("onnx", path)
    return lambda images: run(images)[0]


def _write_onnx(network: Network, path: Path) -> None:
    graph = Graph(network.build(), network.settings, MPII, GraphSettings())
    write(graph, "onnx", path, network.input_px, {})


def route(way: Way, network: Network, batch: int) -> Route:
    """Predict noise in batches, as a route whose samples are images."""
    predict, pixels = prepare(way, network), noise(batch, network.input_px)
    times = max(1, _LAP // batch)

    def run() -> int:
        for _ in range(times):
            predict(pixels)
        return times * batch

    return Route(run=run)


def noise(count: int, input_px: int) -> Images:
    """Random images, the same each time."""
    random = np.random.default_rng(0)
    return random.integers(0, 256, (count, input_px, input_px, 3), np.uint8)
