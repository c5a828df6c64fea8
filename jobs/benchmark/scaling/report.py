"""Scaling and its prediction as tables."""

from collections.abc import Mapping
from typing import Any

from jobs.benchmark.scaling.model import GPUS, LINKS
from jobs.benchmark.scaling.summary import PARTS
from pipeline.io.console import aligned

# Settings that move a limit.
_REMEDIES = {
    "link": "more images for the same gradients: optim.batch_size; where memory ends,\n"
    "  optim.accumulate or optim.checkpointing",
    "input": "data.threads and ray.cpus_per_worker",
    "launches": "more images a launch: optim.batch_size; or optim.compile",
    "gpu": "the GPUs move bytes all the time: optim.compile, or more ray.workers",
}


def scaling_report(result: Mapping[str, Any]) -> str:
    """Format all that was measured and predicted as tables."""
    machine = result["machine"]
    head = (
        f"{machine['cores']} cores, {machine['gpus']} GPUs, load {machine['load_average']:.1f} "
        f"before, Ray {machine['ray']}, torch {machine['torch']}"
    )
    limits = {row["limit"] for row in result["predicted"]}
    remedies = (f"{name}: {remedy}" for name, remedy in _REMEDIES.items() if name in limits)
    parts = (_measured, _exchange, _assumed, _predicted, _enough)
    return "\n\n".join([head, *(part(result) for part in parts), "\n".join(remedies)])


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
                *(f"{split[part]:.1%}" for part in PARTS),
                f"{step_ms:.1f}",
            ]
        )
    settings = result["settings"]
    return aligned(rows) + (
        f"\nunder Ray Train, one thread a worker, {settings['batch_per_worker']} images each; "
        f"medians of {settings['rounds']} rounds, of shares\n"
        "of a step too, which need not add up. all-reduce: extra time of steps that exchange\n"
        "gradients; input: waiting for samples; ray: extra time of Ray Train; compute: the rest,\n"
        "waiting for the slowest worker included"
    )


def _exchange(result: Mapping[str, Any]) -> str:
    found = result["exchange"]
    if not found:
        return "one worker: no all-reduce was measured"
    alone, hidden = found["all_reduce_alone_ms"], found["overlap"]
    return (
        f"all-reduce between {found['workers']} workers: {alone['median']:.1f} ms alone "
        f"({alone['min']:.1f} to {alone['max']:.1f}), the backward pass hides\n"
        f"{hidden['median']:.0%} of it ({hidden['min']:.0%} to {hidden['max']:.0%}); "
        f"{1e6 * found['hop_s']:.0f} us a hop, {found['bytes_per_s'] / 1e9:.2f} GB/s"
    )


def _assumed(result: Mapping[str, Any]) -> str:
    assumed = result["assumptions"]
    lines = [
        "PREDICTED, NOT MEASURED, in two significant digits, under these assumptions:",
        f"- an H100 copies {assumed['copy_bytes_per_s'] / 1e12:g} TB/s, of which training reaches "
        f"{assumed['of_copy']:.0%}, and multiplies bf16 matrices at",
        f"  {assumed['matmul_flops_per_s'] / 1e12:g} TFLOP/s, of which convolutions reach "
        f"{assumed['of_matmul']:.0%}; it moves the bytes of eager training",
        f"- a kernel launch takes {1e6 * assumed['launch_s']:g} us, and the host always has one "
        "ready",
        f"- {assumed['batch_per_gpu']} images a GPU and step; {assumed['cpus_per_gpu']} cores a "
        f"GPU load {assumed['loader_samples_per_s']:,.0f} samples/s each, and a sample holds",
        f"  Python's lock for {1e3 * assumed['lock_s']:g} ms",
        "- fp32 gradients; links at their nominal rates, without latency; local BatchNorm, equally",
        "  fast GPUs, no time for Ray",
    ]
    return "\n".join(lines)


def _predicted(result: Mapping[str, Any]) -> str:
    rows = [["predicted images/s", *LINKS]]
    found = {(row["stacks"], row["gpus"], row["link"]): row for row in result["predicted"]}
    for stacks in dict.fromkeys(row["stacks"] for row in result["predicted"]):
        for gpus in GPUS:
            cells = [_cell(found[stacks, gpus, link]) for link in LINKS]
            rows.append([f"{stacks} stack{'s' * (stacks > 1)}, {gpus} GPUs", *cells])
    return aligned(rows) + (
        "\nfrom none of the all-reduce hidden to all that a backward pass can hide; in brackets\n"
        "the share of as many GPUs that never wait, then the first limit"
    )


def _cell(row: Mapping[str, Any]) -> str:
    images = _range(*(f"{row[key]:,.0f}" for key in ("images_per_s", "images_per_s_at_best")))
    share = _range(*(f"{100 * row[key]:.0f}" for key in ("efficiency", "efficiency_at_best")))
    return f"{images} ({share}%) {row['limit']}"


def _range(least: str, most: str) -> str:
    return least if least == most else f"{least}-{most}"


def _enough(result: Mapping[str, Any]) -> str:
    rows = [row for row in result["predicted"] if (row["stacks"], row["gpus"]) == (8, 64)]
    figures = ", ".join(f"{row['batch_per_gpu_enough']:,.0f} over {row['link']}" for row in rows)
    return (
        "predicted images a GPU for an all-reduce of at most a tenth of a step, nothing hidden,\n"
        f"8 stacks on 64 GPUs: {figures}"
    )
