"""Variants of turning images into heatmaps on a CPU, each ready to run."""

import importlib.util
from collections.abc import Callable
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
from pipeline.settings import ModelSettings, OptimSettings, Settings

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


def variants() -> tuple[Variant, ...]:
    """Return the variants, the plain one first; ONNX Runtime where it is installed."""
    found: tuple[Variant, ...] = (PLAIN, "fp32 channels_last", "bf16 channels_last")
    return (*found, _ONNX) if importlib.util.find_spec("onnxruntime") else found


def default() -> Variant:
    """Return the variant that prediction uses on this machine."""
    network = fastest(build(ModelSettings(stacks=1, features=4, input_px=64, joints=1)), CPU)
    return "bf16 channels_last" if isinstance(network, Bf16Network) else "fp32 channels_last"


def build(network: ModelSettings) -> PoseNetwork:
    """Build a network with random heads: all-zero heatmaps would hide differences."""
    built = build_network(network, 0, CPU, zero_heads=False)
    built.eval()
    return built


def prepare(variant: Variant, network: ModelSettings) -> Predict:
    """Build the network, and return a function that predicts as the variant does."""
    if variant == _ONNX:
        return _onnx(network)
    built: nn.Module = build(network)
    if variant == PLAIN:
        built = Contiguous(build(network))
    elif variant == "bf16 channels_last":
        built = Bf16Network(build(network))

    @torch.inference_mode()
    def predict(images: Images) -> np.ndarray:
        floats = scaled(torch.from_numpy(images), torch.ones(len(images), 3), CPU)
        return to_heatmaps(built(floats).stacks[-1], OptimSettings().loss).numpy()

    return predict


def _onnx(network: ModelSettings) -> Predict:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        # In a fresh process, so that exporting does not count as prediction's memory.
        in_fresh_process(_write_onnx, network, path)
        run = load("onnx", path)
    return lambda images: run(images)[0]


def _write_onnx(network: ModelSettings, path: Path) -> None:
    graph = Graph(build(network), Settings(model=network), MPII, GraphSettings())
    write(graph, "onnx", path, network.input_px, {})


def predict_batches(variant: Variant, network: ModelSettings, batch: int) -> Run:
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
