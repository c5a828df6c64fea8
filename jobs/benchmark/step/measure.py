"""The benchmark of the training step, from settings to a result that is plain JSON."""

import os
import platform
import statistics
import time
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import torch

from jobs.benchmark.step.curve import PEOPLE, SMOOTHING, learning_curves
from jobs.benchmark.step.limits import matmul_route, peak_memory_mib
from jobs.benchmark.step.profile import time_shares
from jobs.benchmark.step.variants import Pass, Precision, Runner, Variant
from jobs.benchmark.timing import Laps, in_fresh_process, measure, ratio, speed
from pipeline.io.console import say
from pipeline.model.build import training_dtype
from pipeline.model.cost import network_cost
from pipeline.settings import OptimSettings

_PASSES: tuple[Pass, ...] = ("forward", "training")
_NAMES: dict[torch.dtype, Precision] = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
}


@dataclass(frozen=True, kw_only=True)
class StepBenchmark:
    """What to measure. Empty `precisions` are the device's own; without `memory_stacks` or `curve_steps` that part is left out."""

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
        for option, value in (
            ("--rounds", self.rounds),
            ("--stacks", min(self.stacks)),
            ("--batch", min(self.batches)),
            ("--memory-stacks", min(self.memory_stacks, default=1)),
        ):
            if value < 1:
                raise ValueError(f"{option} must be at least 1, got {value}")
        if self.curve_steps and self.curve_steps < SMOOTHING:
            raise ValueError(
                f"--curve-steps must be 0 or at least {SMOOTHING}, got {self.curve_steps}"
            )
        if self.curve_steps and self.batches[0] > PEOPLE:
            raise ValueError(
                f"--batch must be at most {PEOPLE} at first, got {self.batches[0]}: "
                "the learning curves have no more people"
            )


def measure_step(settings: StepBenchmark) -> dict[str, Any]:
    """Measure everything. Raises ValueError where there is no such device or network."""
    begin, device = time.monotonic(), found_device(settings.device)
    auto = _NAMES[training_dtype(OptimSettings(), device)]
    variants = variants_of(settings, auto)
    say("1/4 speed, forward and training")
    laps = _measure_speed(settings, variants, device)
    peaks = {
        name.removeprefix("matmul "): laps.pop(name) for name in list(laps) if "matmul" in name
    }
    peak = {name: max(lap.per_s for lap in found) for name, found in peaks.items()}
    result: dict[str, Any] = {
        "over_plain_fp32": over_plain(variants, laps, settings.batches[0], auto),
        "peak_memory_mib": {},
        "to_same_loss_over_plain_fp32": {},
        "machine": _machine(device),
        "settings": asdict(settings) | {"default_precision": auto},
        "matmul_flops_per_s": peak,
        "speed": [
            _row(variant, what, laps[f"{variant.name} {what}"], peak[variant.precision])
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
        # A process of its own, whose peak no other variant has raised.
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
    result["seconds"] = time.monotonic() - begin
    return result


def found_device(name: str) -> torch.device:
    """The device of that name; auto: a GPU where there is one."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device must be cpu or auto where torch finds no GPU, got 'cuda'")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def variants_of(settings: StepBenchmark, auto: Precision) -> list[Variant]:
    """For each number of stacks and batch: the plain network first, then ways to be faster."""
    made = []
    precisions: dict[Precision, None] = dict.fromkeys(("fp32", *(settings.precisions or (auto,))))
    for stacks, batch in product(settings.stacks, settings.batches):
        plain = Variant(stacks=stacks, batch=batch, input_px=settings.input_px, layout="contiguous")
        ways = [replace(plain, layout="channels_last", precision=name) for name in precisions]
        made += [plain, *ways]
        if settings.compile:
            made += [replace(way, compile=True) for way in ways]
    return made


def memory_variants(settings: StepBenchmark, auto: Precision) -> list[Variant]:
    """For each number of stacks whose memory is asked for: plain, the default, and with less kept."""
    made = []
    for stacks in settings.memory_stacks:
        plain = Variant(
            stacks=stacks,
            batch=settings.batches[0],
            input_px=settings.input_px,
            layout="contiguous",
        )
        default = replace(plain, layout="channels_last", precision=auto)
        made += [plain, default, replace(default, checkpointing=True)]
    return made


def curve_variants(settings: StepBenchmark, auto: Precision) -> list[Variant]:
    """The smallest of the paper's networks: plain first, then as training has it in each precision."""
    plain = Variant(
        stacks=1, batch=settings.batches[0], input_px=settings.input_px, layout="contiguous"
    )
    precisions = settings.precisions or (auto,)
    return [plain, *(replace(plain, layout="channels_last", precision=p) for p in precisions)]


def over_plain(
    variants: list[Variant], laps: dict[str, Any], batch: int, auto: Precision
) -> dict[str, float]:
    """By stacks: how often faster the device's default trains than plain fp32, median over rounds."""
    found: dict[str, dict[str, list[float]]] = {}
    for variant in variants:
        if variant.batch == batch:
            per_s = [lap.per_s for lap in laps[f"{variant.name} training"]]
            found.setdefault(str(variant.stacks), {})[variant.way] = per_s
    default = f"{auto} channels_last"
    return {
        stacks: ratio(ways[default], ways["fp32 contiguous"])
        for stacks, ways in found.items()
        if default in ways
    }


def _measure_speed(
    settings: StepBenchmark, variants: list[Variant], device: torch.device
) -> dict[str, Any]:
    # A GPU's steps are too short to be timed one by one.
    steps = 20 if device.type == "cuda" else 1
    routes = {
        f"matmul {name}": matmul_route(name, device)
        for name in dict.fromkeys(variant.precision for variant in variants)
    }
    for variant in variants:
        runner = Runner(variant, device)
        for what in _PASSES:
            routes[f"{variant.name} {what}"] = runner.route(what, steps)
    return dict(measure("all ways", routes, settings.rounds))


_cost = cache(network_cost)


def _row(variant: Variant, what: Pass, laps: Laps, peak: float) -> dict[str, Any]:
    cost = _cost(variant.model)
    flops = cost.training_flops if what == "training" else 2 * cost.macs
    found = speed(laps)
    per_s = found["samples_per_s"]
    return asdict(variant) | {
        "pass": what,
        "images_per_s": per_s,
        "min": found["min"],
        "max": found["max"],
        "ms": statistics.median(1000 * variant.batch * lap.wall_s / lap.samples for lap in laps),
        "flops_per_s": flops * per_s,
        "of_matmul_peak": flops * per_s / peak,
    }


def _machine(device: torch.device) -> dict[str, Any]:
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else names[0],
        "threads": torch.get_num_threads(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
