"""The benchmark of the training step, from settings to a JSON result."""

import statistics
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

import torch

from jobs.benchmark.step.curve import PEOPLE, SMOOTHING, learning_curves
from jobs.benchmark.step.profile import time_shares
from jobs.benchmark.step.variants import Pass, Precision, Runner, Variant, synchronize
from jobs.benchmark.timing import (
    Run,
    Timings,
    check_counts,
    in_fresh_process,
    machine,
    measure,
    ratio,
    speed,
)
from pipeline.io.console import say
from pipeline.io.processes import memory_mib
from pipeline.model.build import DTYPES, training_dtype
from pipeline.model.cost import network_cost
from pipeline.settings import OptimSettings
from pipeline.settings.check import require

_PASSES: tuple[Pass, ...] = ("forward", "training")
# After this many steps the allocator has stopped growing.
_MEMORY_STEPS = 5


@dataclass(frozen=True, kw_only=True)
class StepBenchmark:
    """Settings. Empty `precisions` mean the device's own.

    Without `memory_stacks` or `curve_steps` that part is skipped.
    """

    device: str = "auto"
    stacks: tuple[int, ...] = (1, 2)
    batches: tuple[int, ...] = (4,)
    input_px: int = 256
    precisions: tuple[Precision, ...] = ()
    compile: bool = False
    rounds: int = 5
    memory_stacks: tuple[int, ...] = (8,)
    curve_steps: int = 120
    curve_seeds: int = 3

    def __post_init__(self) -> None:
        check_counts(
            {
                "--rounds": self.rounds,
                "--stacks": min(self.stacks),
                "--batch": min(self.batches),
                "--memory-stacks": min(self.memory_stacks, default=1),
            }
        )
        steps = self.curve_steps
        fits = steps == 0 or steps >= SMOOTHING
        require(fits, "--curve-steps", f"0 or at least {SMOOTHING}", steps)


def measure_step(settings: StepBenchmark) -> dict[str, Any]:
    """Measure everything. Raises ValueError if the device or network cannot be had."""
    device = found_device(settings.device)
    dtype = training_dtype(OptimSettings(), device)
    auto: Precision = "bf16" if dtype is torch.bfloat16 else "fp32"
    variants = variants_of(settings, auto)
    on = {"device": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}
    described = machine("torch") | on
    say("1/4 speed, forward and training")
    timings = _measure_speed(settings, variants, device)
    peak = {
        name.removeprefix("matmul "): max(timing.per_s for timing in timings.pop(name))
        for name in list(timings)
        if name.startswith("matmul ")
    }
    result: dict[str, Any] = {
        "over_plain_fp32": over_plain(variants, timings, settings.batches[0], auto),
        "peak_memory_mib": {},
        "to_same_loss_over_plain_fp32": {},
        "machine": described,
        "settings": asdict(settings) | {"default_precision": auto},
        "matmul_flops_per_s": peak,
        "speed": [
            _row(variant, what, timings[f"{variant.name} {what}"], peak[variant.precision])
            for variant in variants
            for what in _PASSES
        ],
    }
    say("2/4 where the time of a training step goes")
    result["time_shares"] = {
        variant.name: time_shares(Runner(variant, device), device)
        for variant in variants
        if variant.batch == settings.batches[0] and not variant.compile
    }
    say("3/4 peak memory")
    for variant in memory_variants(settings, auto):
        # In a fresh process, whose peak no other variant has raised.
        mib = in_fresh_process(peak_memory_mib, variant, device.type)
        result["peak_memory_mib"][variant.name] = mib
        say(f"  {variant.name}: {mib:,.0f} MiB")
    say("4/4 learning curves")
    if settings.curve_steps:
        result["curves"] = learning_curves(
            curve_variants(settings, auto),
            device,
            settings.curve_steps,
            range(settings.curve_seeds),
        )
        result["to_same_loss_over_plain_fp32"] = result["curves"]["over_first"]
    return result


def found_device(name: str) -> torch.device:
    """Return the device of that name; auto: a GPU where there is one. Raises ValueError."""
    has_gpu = torch.cuda.is_available()
    require(has_gpu or name != "cuda", "--device", "cpu or auto where torch finds no GPU", name)
    if name == "auto":
        name = "cuda" if has_gpu else "cpu"
    return torch.device(name)


def variants_of(settings: StepBenchmark, auto: Precision) -> list[Variant]:
    """Return for each number of stacks and batch the plain network, then the faster variants."""
    found = []
    precisions: dict[Precision, None] = dict.fromkeys(("fp32", *(settings.precisions or (auto,))))
    for stacks, batch in product(settings.stacks, settings.batches):
        plain = _plain(settings, stacks, batch)
        faster = [replace(plain, layout="channels_last", precision=name) for name in precisions]
        found += [plain, *faster]
        if settings.compile:
            found += [replace(variant, compile=True) for variant in faster]
    return found


def memory_variants(settings: StepBenchmark, auto: Precision) -> list[Variant]:
    """Return the variants whose memory is measured: plain, default, and with checkpointing."""
    found = []
    for stacks in settings.memory_stacks:
        plain = _plain(settings, stacks, settings.batches[0])
        default = replace(plain, layout="channels_last", precision=auto)
        found += [plain, default, replace(default, checkpointing=True)]
    return found


def curve_variants(settings: StepBenchmark, auto: Precision) -> list[Variant]:
    """Return the smallest of the paper's networks: plain, then as trained in each precision.

    Batches are those of `settings`, up to the number of people of the learning curves.
    """
    plain = _plain(settings, 1, min(settings.batches[0], PEOPLE))
    precisions = settings.precisions or (auto,)
    return [plain, *(replace(plain, layout="channels_last", precision=p) for p in precisions)]


def _plain(settings: StepBenchmark, stacks: int, batch: int) -> Variant:
    return Variant(stacks=stacks, batch=batch, input_px=settings.input_px, layout="contiguous")


def over_plain(
    variants: list[Variant], timings: dict[str, Any], batch: int, auto: Precision
) -> dict[str, float]:
    """Return by stacks how many times as fast as plain fp32 the device's default trains."""
    found: dict[str, dict[str, Timings]] = {}
    for variant in variants:
        if variant.batch == batch:
            trained = timings[f"{variant.name} training"]
            found.setdefault(str(variant.stacks), {})[variant.method] = trained
    default = f"{auto} channels_last"
    return {
        stacks: ratio(methods[default], methods["fp32 contiguous"])
        for stacks, methods in found.items()
        if default in methods
    }


def matmul_run(precision: Precision, device: torch.device) -> Run:
    """Return a function that multiplies large square matrices and returns its operations."""
    # Large enough to reach the peak, small enough for a fraction of a second.
    side, times = (8192, 10) if device.type == "cuda" else (4096, 1)
    a, b = (torch.randn(side, side, device=device).to(DTYPES[precision]) for _ in range(2))

    def run() -> int:
        for _ in range(times):
            a @ b
        synchronize(device)
        return times * 2 * side**3

    return run


def peak_memory_mib(variant: Variant, device_type: str) -> float:
    """Measure the peak memory of training steps in this process, which must be a fresh one.

    On a CPU the peak is all resident memory, on a GPU what torch has allocated there.
    """
    device = torch.device(device_type)
    runner = Runner(variant, device)
    for _ in range(_MEMORY_STEPS):
        runner.train()
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return memory_mib("VmHWM")


def _measure_speed(
    settings: StepBenchmark, variants: list[Variant], device: torch.device
) -> dict[str, Any]:
    # A GPU's steps are too short to be timed one by one.
    steps = 20 if device.type == "cuda" else 1
    runs = {
        f"matmul {name}": matmul_run(name, device)
        for name in dict.fromkeys(variant.precision for variant in variants)
    }
    if device.type != "cuda":
        for variant in variants:
            runs |= _passes(variant, device, steps)
        return dict(measure("all variants", runs, settings.rounds))
    # A GPU's memory holds one network at a time, and its speed does not drift.
    timings = dict(measure("matrix products", runs, settings.rounds))
    for variant in variants:
        timings |= measure(variant.name, _passes(variant, device, steps), settings.rounds)
        torch.compiler.reset()
        torch.cuda.empty_cache()
    return timings


def _passes(variant: Variant, device: torch.device, steps: int) -> dict[str, Run]:
    runner = Runner(variant, device)
    return {f"{variant.name} {what}": runner.run_of(what, steps) for what in _PASSES}


def _row(variant: Variant, what: Pass, timings: Timings, peak: float) -> dict[str, Any]:
    cost = network_cost(variant.model)
    flops = cost.training_flops if what == "training" else 2 * cost.macs
    found = speed(timings, "images_per_s")
    flops_per_s = flops * found["images_per_s"]
    return asdict(variant) | {
        "pass": what,
        **{key: found[key] for key in ("images_per_s", "min", "max")},
        "ms": statistics.median(1000 * variant.batch / timing.per_s for timing in timings),
        "flops_per_s": flops_per_s,
        "of_matmul_peak": flops_per_s / peak,
    }
