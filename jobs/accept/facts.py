"""Part 1: what this machine is, and its ceilings."""

import time
from collections.abc import Callable, Iterator

import torch

from jobs.accept.checks import Check, Place, at_least, fact
from jobs.benchmark.step.variants import synchronize
from pipeline.model.arithmetic import Fp32, arithmetic

_REPEATS = 3


def facts(place: Place) -> Iterator[Check]:
    """Name the device and its libraries; measure copies and matrix products."""
    yield fact("torch", torch.__version__)
    if place.is_gpu:
        yield fact("GPU", torch.cuda.get_device_name(place.device))
        yield fact("driver takes CUDA up to", _driver())
        yield fact("CUDA", str(torch.version.cuda))
        yield fact("cuDNN", str(torch.backends.cudnn.version()))
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        yield fact("multiplies bf16", str(native))
    yield fact("fp32 of convolutions, torch's default", str(_default()))
    yield at_least("copy, GB/s", copy_bytes_per_s(place) / 1e9, 0.1)
    for name, dtype, fp32 in _PRODUCTS:
        yield at_least(f"matmul in {name}, TFLOP/s", _matmul(place, dtype, fp32) / 1e12, 1e-3)


_PRODUCTS: tuple[tuple[str, torch.dtype, Fp32], ...] = (
    ("bf16", torch.bfloat16, "ieee"),
    ("tf32", torch.float32, "tf32"),
    ("IEEE fp32", torch.float32, "ieee"),
)


def _driver() -> str:
    # Its only public way would be NVML, which may be absent.
    asked = torch._C._cuda_getDriverVersion  # type: ignore[attr-defined]
    return str(asked())


def _default() -> object:
    conv: object = torch.backends.cudnn.conv.fp32_precision  # type: ignore[attr-defined]
    return conv


def copy_bytes_per_s(place: Place) -> float:
    """Measure the bytes that a copy within the device's memory reads and writes in a second."""
    source = torch.ones(2**30 // 4 if place.is_gpu else 2**20, device=place.device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _fastest(place, lambda: target.copy_(source))


def _matmul(place: Place, dtype: torch.dtype, fp32: Fp32) -> float:
    side = 8192 if place.is_gpu else 256
    a, b = (torch.randn(side, side, device=place.device).to(dtype) for _ in range(2))
    with arithmetic(fp32):
        return 2 * side**3 / _fastest(place, lambda: a @ b)


def _fastest(place: Place, run: Callable[[], object]) -> float:
    """Return the fewest seconds of several runs, after one that is not counted."""
    seconds = []
    for _ in range(1 + _REPEATS):
        synchronize(place.device)
        began = time.perf_counter()
        run()
        synchronize(place.device)
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])
