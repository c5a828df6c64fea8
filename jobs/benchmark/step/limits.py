"""What bounds a training step: how fast the device multiplies matrices, and how much memory a step takes."""

from pathlib import Path

import torch

from jobs.benchmark.step.variants import Runner, Variant, synchronize
from jobs.benchmark.timing import Route

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# The allocator is done growing after so many.
_MEMORY_STEPS = 5


def matmul_route(precision: str, device: torch.device) -> Route:
    """Multiply large square matrices; what it counts as samples are floating-point operations."""
    # Large enough to reach the peak, small enough for a fraction of a second.
    side, times = (8192, 10) if device.type == "cuda" else (4096, 1)
    a, b = (torch.randn(side, side, device=device).to(DTYPES[precision]) for _ in range(2))

    def run() -> int:
        for _ in range(times):
            a @ b
        synchronize(device)
        return times * 2 * side**3

    return Route(run=run)


def peak_memory_mib(variant: Variant, device_type: str) -> float:
    """Peak memory of training steps: on CPU all that this process has held resident, which must be a fresh one.

    On a GPU it is what torch has taken of its memory.
    """
    device = torch.device(device_type)
    runner = Runner(variant, device)
    for _ in range(_MEMORY_STEPS):
        runner.train()
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return _peak_resident_mib()


def _peak_resident_mib() -> float:
    status = Path("/proc/self/status").read_text()
    [kib] = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(kib) / 1024
