"""Scaling and the prediction as a person reads them."""

from collections.abc import Callable, Mapping
from typing import Any

from jobs.benchmark.report import aligned
from jobs.benchmark.scaling.fit import PARTS
from jobs.benchmark.scaling.model import GPUS, LINKS

# What moves a limit.
REMEDIES = {
    "bandwidth": "more images for the same gradients: optim.batch_size; where memory ends, optim.accumulate or optim.checkpointing",
    "latency": "fewer exchanges an image: optim.batch_size, as for bandwidth",
    "input": "data.threads and ray.cpus_per_worker",
    "compute": "the GPUs are busy: optim.precision, optim.compile, or more ray.workers",
}


def scaling_report(result: Mapping[str, Any]) -> str:
    """Tables of all that was measured and predicted."""
    parts = (_head, _measured, _fitted, _assumed, _model, _enough, _limits)
    return "\n\n".join(part(result) for part in parts)


def _head(result: Mapping[str, Any]) -> str:
    machine = result["machine"]
    return (
        f"{machine['cores']} cores, {machine['gpus']} GPUs, load {machine['load_average_before']:.1f} before, "
        f"Ray {machine['ray']}, torch {machine['torch']}"
    )


def _measured(result: Mapping[str, Any]) -> str:
    parts = [part.replace("_", "-") for part in PARTS]
    rows = [["workers", "samples/s", "min", "max", "efficiency", *parts, "ms a step"]]
    for workers, found in result["rounds"].items():
        speed, split = found["samples_per_s"], result["split"][workers]
        step_ms = sum(held["median"] for held in found["ms"].values())
        rows.append(
            [
                workers,
                *(f"{speed[key]:,.1f}" for key in ("median", "min", "max")),
                f"{result['efficiency'][workers]:.3f}",
                *(f"{100 * split[part]:.1f} %" for part in PARTS),
                f"{step_ms:.1f}",
            ]
        )
    settings = result["settings"]
    return aligned(rows) + (
        f"\nunder Ray Train, one thread a worker, {settings['batch_per_worker']} images each; medians of {settings['rounds']} turns, shares of a step too, which\n"
        "need not add up. all-reduce: what exchanging gradients adds to the same steps without; input: waiting for samples;\n"
        "ray: what Ray Train adds to the same loop without; compute: the rest, waiting for the slowest worker included"
    )


def _fitted(result: Mapping[str, Any]) -> str:
    found = result["fitted"]
    if found["workers"] == 1:
        return "one worker: no all-reduce was measured, and none of it is taken to be hidden"
    alone = found["all_reduce_alone_ms"]
    return (
        f"all-reduce between {found['workers']} workers: {alone['median']:.1f} ms alone ({alone['min']:.1f} to {alone['max']:.1f}), "
        f"{100 * found['overlap']:.0f} % of it hidden by the backward pass "
        f"({100 * min(found['overlap_rounds']):.0f} to {100 * max(found['overlap_rounds']):.0f}); "
        f"a hop takes {1e6 * found['hop_s']:.0f} us, and {found['bytes_per_s'] / 1e9:.2f} GB/s pass"
    )


def _assumed(result: Mapping[str, Any]) -> str:
    assumed = result["assumptions"]
    images = ", ".join(
        f"{value:,.0f} with {stacks} stack{'s' * (stacks > 1)}"
        for stacks, value in assumed["gpu_images_per_s"].items()
    )
    links = "; ".join(
        f"{link.name} {link.bytes_per_s / 1e9:g} GB/s and {1e6 * link.hop_s:g} us a hop"
        for link in LINKS
    )
    return (
        f"assumed, not measured: a GPU alone trains {images} images/s, {assumed['batch_per_gpu']} a step, with {assumed['cpus_per_gpu']} cores\n"
        f"that decode {assumed['loader_samples_per_s']:,.0f} samples/s each; {links};\n"
        "fp32 gradients, BatchNorm not synchronised, no GPU slower than the others. From here: what is hidden, and Ray's share"
    )


def _model(result: Mapping[str, Any]) -> str:
    return _by_link(
        result,
        "predicted images/s",
        lambda row: (
            f"{row['images_per_s']:,.0f} ({100 * row['efficiency']:.0f}-"
            f"{100 * row['efficiency_at_best']:.0f} %) {row['limit']}"
        ),
    ) + (
        "\nin brackets: of as many GPUs that never wait, so and with all hidden that a backward pass can hide; then what limits first"
    )


def _enough(result: Mapping[str, Any]) -> str:
    return (
        _by_link(
            result,
            "images a GPU that suffice",
            lambda row: f"{row['batch_per_gpu_enough']:,}",
        )
        + "\nfor the all-reduce to take a tenth of a step or less; optim.batch_size is so many times the GPUs"
    )


def _limits(result: Mapping[str, Any]) -> str:
    limits = {row["limit"] for row in result["model"]}
    return "\n".join(f"{name}: {remedy}" for name, remedy in REMEDIES.items() if name in limits)


def _by_link(
    result: Mapping[str, Any], title: str, cell: Callable[[Mapping[str, Any]], str]
) -> str:
    held = {(row["stacks"], row["gpus"], row["link"]): cell(row) for row in result["model"]}
    rows = [[title, *(link.name for link in LINKS)]]
    for stacks in dict.fromkeys(row["stacks"] for row in result["model"]):
        for gpus in GPUS:
            name = f"{stacks} stack{'s' * (stacks > 1)}, {gpus} GPUs"
            rows.append([name, *(held[stacks, gpus, link.name] for link in LINKS)])
    return aligned(rows)
