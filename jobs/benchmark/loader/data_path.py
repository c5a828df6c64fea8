"""The benchmark of the data path, from photographs to a JSON result."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2

from jobs.benchmark.loader.crops import CROPS, curve
from jobs.benchmark.loader.memory import EPOCHS, measure_memory
from jobs.benchmark.loader.photographs import (
    SIZES,
    Size,
    Workload,
    cut_people,
    find_photographs,
    frame_people,
    pack_people,
    render_photographs,
)
from jobs.benchmark.loader.plain import PlainDataset, count_samples, plain_loader
from jobs.benchmark.loader.report import LEAN_PLAIN, OURS, PLAIN, summary
from jobs.benchmark.loader.variants import INPUT_PX, DataPath, measure_parallel
from jobs.benchmark.timing import (
    Run,
    Timings,
    by_cpu_time,
    check_counts,
    machine,
    measure,
    on_one_core,
    speed,
)
from pipeline.io.console import say
from pipeline.settings.packing import CropSettings


@dataclass(frozen=True, kw_only=True)
class LoaderBenchmark:
    """Settings. Counts are of each photograph size; `workers` are thread and process counts.

    The plain loader gets fewer samples a round, since it takes much longer.
    """

    photographs: Path | None = None
    rounds: int = 7
    workers: tuple[int, ...] = (1,)
    sizes: tuple[Size, ...] = SIZES
    num_photographs: int = 16
    people: int = 192
    samples: int = 768
    plain_samples: int = 32
    batch_size: int = 32
    crops: tuple[CropSettings, ...] = CROPS
    curve_people: int = 32
    epochs: tuple[int, ...] = EPOCHS

    def __post_init__(self) -> None:
        check_counts({"--rounds": self.rounds, "--threads": min(self.workers)})


def measure_loader(settings: LoaderBenchmark, folder: Path) -> dict[str, Any]:
    """Measure everything, with `folder` for files. Raises ValueError about the photographs."""
    say("1/5 photographs, people and shards")
    workloads = prepare(settings, folder)
    result: dict[str, Any] = {
        "data": _data(settings, workloads),
        "machine": machine("torch", "numpy", "simplejpeg") | {"opencv": cv2.__version__},
        "settings": asdict(settings)
        | {"input_px": INPUT_PX, "crop": asdict(CropSettings())}
        | {"photographs": str(settings.photographs or "rendered")},
    }
    say("2/5 variants on one core")
    with on_one_core():
        result = summary(measure_variants(settings, workloads)) | result
    say("3/5 end to end, threads and processes on all cores")
    parallel = measure_parallel(
        workloads,
        settings.workers,
        batch_size=settings.batch_size,
        samples=2 * settings.samples,
        plain_samples=2 * settings.plain_samples,
        rounds=settings.rounds,
    )
    result["end_to_end"] = {name: speed(timings) for name, timings in parallel.items()}
    say("4/5 kinds of stored crops")
    people = [p for workload in workloads for p in workload.people[: settings.curve_people]]
    with on_one_core():
        result["crops"] = curve(workloads[0].folder, people, settings.crops, settings.rounds)
    say(f"5/5 resident memory over {max(settings.epochs)} epochs")
    result["memory"] = measure_memory(
        [workload.shard for workload in workloads],
        settings.batch_size,
        settings.epochs,
        folder / "four-times",
    )
    return result


def prepare(settings: LoaderBenchmark, folder: Path) -> list[Workload]:
    """Find or render photographs, frame people in them, and pack crops with default settings."""
    if settings.photographs is None:
        images = folder / "photographs"
        names = render_photographs(images, settings.sizes, settings.num_photographs)
    else:
        images = settings.photographs
        names = find_photographs(images, settings.sizes, settings.num_photographs)
    people = {size: frame_people(held, size, settings.people) for size, held in names.items()}
    crops = [cut_people(images, framed, CropSettings()) for framed in people.values()]
    shards = pack_people(folder / "shards", crops)
    return [
        Workload(size=size, folder=images, people=tuple(framed), shard=shard)
        for (size, framed), shard in zip(people.items(), shards, strict=True)
    ]


def measure_variants(
    settings: LoaderBenchmark, workloads: Sequence[Workload]
) -> dict[str, dict[str, Timings]]:
    """Time every variant by the name of the photographs' size, all in the same rounds."""
    variants: dict[str, Run] = {}
    for workload in workloads:
        ours = DataPath([workload.shard], settings.batch_size, settings.samples)
        for name in OURS:
            variants[f"{workload.name}/{name}"] = getattr(ours, name)
        for name, on_whole in ((PLAIN, True), (LEAN_PLAIN, False)):
            dataset = PlainDataset(workload.folder, workload.people, on_whole=on_whole)
            loader = plain_loader(dataset, settings.batch_size, settings.plain_samples)
            variants[f"{workload.name}/{name}"] = partial(
                count_samples, loader, settings.batch_size
            )
    timings = measure("one core", variants, settings.rounds)
    return {
        workload.name: {
            name: by_cpu_time(timings[f"{workload.name}/{name}"])
            for name in (*OURS, PLAIN, LEAN_PLAIN)
        }
        for workload in workloads
    }


def _data(settings: LoaderBenchmark, workloads: Sequence[Workload]) -> dict[str, Any]:
    sizes = {}
    for workload in workloads:
        files = [(workload.folder / name).stat().st_size for name in workload.images]
        sizes[workload.name] = {
            "photographs": len(files),
            "photograph_bytes": sum(files) / len(files),
            "people": len(workload.people),
            "shard_bytes_a_person": Path(workload.shard).stat().st_size / len(workload.people),
        }
    return {
        "photographs": "rendered" if settings.photographs is None else str(settings.photographs),
        "sizes": sizes,
    }
