"""The benchmark of prediction on CPU, from settings to a JSON result, and its tables."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from jobs.benchmark.predict.variants import (
    PLAIN,
    Variant,
    default,
    noise,
    predict_batches,
    prepare,
    variants,
)
from jobs.benchmark.timing import (
    Timings,
    check_counts,
    in_fresh_process,
    machine,
    machine_line,
    measure,
    ratio,
    speed,
)
from pipeline.io.console import aligned, say
from pipeline.io.processes import memory_mib
from pipeline.pose.joint_sets import MPII
from pipeline.settings import ModelSettings


@dataclass(frozen=True, kw_only=True)
class PredictBenchmark:
    """Settings. Without `memory_batch` peak memory is not measured."""

    stacks: tuple[int, ...] = (1, 2, 8)
    batches: tuple[int, ...] = (1, 32)
    features: int = 256
    input_px: int = 256
    rounds: int = 5
    memory_batch: int = 32

    def __post_init__(self) -> None:
        check_counts(
            {"--rounds": self.rounds, "--stacks": min(self.stacks), "--batch": min(self.batches)}
        )

    def network(self, stacks: int) -> ModelSettings:
        """Return the paper's network or a smaller one, with as many joints as MPII has."""
        return ModelSettings(
            stacks=stacks, features=self.features, input_px=self.input_px, joints=len(MPII.joints)
        )


def measure_predict(settings: PredictBenchmark) -> dict[str, Any]:
    """Measure all variants of each network and batch, and their peak memory."""
    names, taken = variants(), default()
    result: dict[str, Any] = {
        "over_plain_fp32": {},
        "over_plain_fp32_by_variant": {},
        "peak_memory_mib": {},
        "machine": machine("torch"),
        "settings": asdict(settings) | {"default": taken, "variants": list(names)},
        "speed": [],
    }
    for stacks, batch in product(settings.stacks, settings.batches):
        # In a fresh process: memory that one network leaves behind would slow the next.
        timings = in_fresh_process(_time, settings.network(stacks), batch, settings.rounds, names)
        over = over_plain(timings)
        result["over_plain_fp32_by_variant"].setdefault(str(stacks), {})[str(batch)] = over
        result["over_plain_fp32"].setdefault(str(stacks), {})[str(batch)] = over[taken]
        result["speed"] += [
            {"stacks": stacks, "batch": batch, "variant": name}
            | speed(timings[name], "images_per_s")
            for name in names
        ]
    if settings.memory_batch:
        for stacks, name in product(settings.stacks, names):
            network, images = settings.network(stacks), settings.memory_batch
            mib = in_fresh_process(peak_memory_mib, name, network, images)
            result["peak_memory_mib"].setdefault(str(stacks), {})[name] = mib
            say(f"  peak memory, {stacks} stacks, batch {images}, {name}: {mib:,.0f} MiB")
    return result


def over_plain(timings: Mapping[Variant, Timings]) -> dict[Variant, float]:
    """Return how many times as fast as plain fp32 each variant is."""
    return {name: ratio(of_variant, timings[PLAIN]) for name, of_variant in timings.items()}


def peak_memory_mib(name: Variant, network: ModelSettings, batch: int) -> float:
    """Measure the peak resident memory of this process, a fresh one, while predicting."""
    predict, images = prepare(name, network), noise(batch, network.input_px)
    for _ in range(2):
        predict(images)
    return memory_mib("VmHWM")


def _time(
    network: ModelSettings, batch: int, rounds: int, names: tuple[Variant, ...]
) -> dict[Variant, Timings]:
    runs = {str(name): predict_batches(name, network, batch) for name in names}
    title = f"{network.stacks} stack{'s' * (network.stacks > 1)}, batch {batch}"
    timings = measure(title, runs, rounds)
    return {name: timings[name] for name in names}


def predict_report(result: Mapping[str, Any]) -> str:
    """Format all that was measured as tables."""
    has_onnx = "ONNX Runtime fp32" in result["settings"]["variants"]
    head = machine_line(result["machine"]) + "\nONNX Runtime: not installed" * (not has_onnx)
    parts = (head, _speed(result), _memory(result), _primary(result))
    return "\n\n".join(part for part in parts if part)


def _speed(result: Mapping[str, Any]) -> str:
    rows = [["", "images/s", "min", "max", "over plain fp32"]]
    for row in result["speed"]:
        stacks, batch, name = row["stacks"], row["batch"], row["variant"]
        over = result["over_plain_fp32_by_variant"][str(stacks)][str(batch)][name]
        figures = (row[key] for key in ("images_per_s", "min", "max"))
        head = f"stacks {stacks}, batch {batch}, {name}"
        rows.append([head, *(f"{value:,.2f}" for value in figures), f"{over:.2f}"])
    return aligned(rows)


def _memory(result: Mapping[str, Any]) -> str:
    if not result["peak_memory_mib"]:
        return ""
    rows = [[f"peak memory, batch {result['settings']['memory_batch']}", "MiB"]]
    for stacks, by_variant in result["peak_memory_mib"].items():
        rows += [[f"stacks {stacks}, {name}", f"{mib:,.0f}"] for name, mib in by_variant.items()]
    return aligned(rows)


def _primary(result: Mapping[str, Any]) -> str:
    lines = [f"prediction uses {result['settings']['default']} here; over_plain_fp32:"]
    for stacks, batches in result["over_plain_fp32"].items():
        shown = "   ".join(f"batch {batch}: {value:.2f}" for batch, value in batches.items())
        lines.append(f"  stacks {stacks}   {shown}")
    return "\n".join(lines)
