"""Arithmetic of a GPU with fp32 numbers: IEEE, or TF32, which rounds factors to 10 bits."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

Fp32 = Literal["ieee", "tf32"]


def fp32_of(precision: str) -> Fp32:
    """Return the arithmetic of a `precision` of the settings, of which `tf32` alone rounds."""
    return "tf32" if precision == "tf32" else "ieee"


@contextmanager
def arithmetic(fp32: Fp32, *, tries_kernels: bool = False) -> Iterator[None]:
    """Compute on GPUs with `fp32` while the context lasts; on a CPU it changes nothing.

    torch's own default is TF32 for convolutions and IEEE for matrix products. With `tries_kernels`
    cuDNN times its kernels at the first batch of a shape, which pays where shapes repeat; not where
    torch is to be deterministic, as another run might choose others.
    """
    backends: Any = torch.backends
    homes = backends.cuda.matmul, backends.cudnn.conv
    before = [home.fp32_precision for home in homes], backends.cudnn.benchmark
    for home in homes:
        home.fp32_precision = fp32
    backends.cudnn.benchmark = tries_kernels and not torch.are_deterministic_algorithms_enabled()
    try:
        yield
    finally:
        for home, precision in zip(homes, before[0], strict=True):
            home.fp32_precision = precision
        backends.cudnn.benchmark = before[1]
