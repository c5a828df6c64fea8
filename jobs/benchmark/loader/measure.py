"""The benchmark of the data path, from photographs to a result that is plain JSON."""

import importlib.metadata
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2

from jobs.benchmark.loader.crops import CROPS, curve
from jobs.benchmark.loader.memory import EPOCHS, measure_memory
from jobs.benchmark.loader.parallel import measure_parallel
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
from jobs.benchmark.loader.plain import plain_dataset, plain_loader
from jobs.benchmark.loader.routes import INPUT_PX, Ours
from jobs.benchmark.summary import LEAN_PLAIN, OURS, PLAIN, summary
from jobs.benchmark.timing import Laps, Route, by_cpu_time, measure, on_one_core, speed
from pipeline.io.console import say
from pipeline.settings.packing import CropSettings


@dataclass(frozen=True, kw_only=True)
class LoaderBenchmark:
    """What to measure. Counts are of each photograph size; `workers` are thread and process counts.

    The plain route is given fewer samples a round, since it takes so much longer.
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
        if self.rounds < 1:
            raise ValueError(f"--rounds must be at least 1, got {self.rounds}")
        if min(self.workers) < 1:
            raise ValueError(f"--threads must be at least 1, got {min(self.workers)}")


def measure_loader(settings: LoaderBenchmark, folder: Path) -> dict[str, Any]:
    """Measure everything, with `folder` for files. Raises ValueError about the photographs."""
    begin = time.monotonic()
    say("1/5 photographs, people and shards")
    workloads = prepare(settings, folder)
    result: dict[str, Any] = {
        "data": _data(settings, workloads),
        "machine": _machine(),
        "settings": _plain(settings),
    }
    say("2/5 routes on one core")
    with on_one_core():
        result = summary(measure_routes(settings, workloads)) | result
    say("3/5 end to end, threads and processes on all cores")
    parallel = measure_parallel(
        workloads,
        settings.workers,
        batch_size=settings.batch_size,
        samples=2 * settings.samples,
        plain_samples=2 * settings.plain_samples,
        rounds=settings.rounds,
    )
    result["end_to_end"] = {name: speed(laps) for name, laps in parallel.items()}
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
    result["seconds"] = time.monotonic() - begin
    return result


def prepare(settings: LoaderBenchmark, folder: Path) -> list[Workload]:
    """Find or render photographs, frame people in them and pack their crops with the default settings."""
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


def measure_routes(
    settings: LoaderBenchmark, workloads: Sequence[Workload]
) -> dict[str, dict[str, Laps]]:
    """Laps of every route by the name of the photographs' size, all in the same rounds."""
    routes: dict[tuple[str, str], Route] = {}
    for workload in workloads:
        ours = Ours([workload.shard], settings.batch_size, settings.samples)
        for name in OURS:
            routes[workload.name, name] = Route(run=getattr(ours, name))
        for name, on_whole in ((PLAIN, True), (LEAN_PLAIN, False)):
            dataset = plain_dataset(workload.folder, workload.people, on_whole=on_whole)
            loader = plain_loader(dataset, settings.batch_size, settings.plain_samples)
            routes[workload.name, name] = Route(run=partial(_count, loader, settings.batch_size))
    laps = measure(
        "one core", {"/".join(key): route for key, route in routes.items()}, settings.rounds
    )
    return {
        workload.name: {
            name: by_cpu_time(laps[f"{workload.name}/{name}"])
            for name in (*OURS, PLAIN, LEAN_PLAIN)
        }
        for workload in workloads
    }


def _count(loader: Any, batch_size: int) -> int:
    return batch_size * sum(1 for _ in loader)


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


def _machine() -> dict[str, Any]:
    cpu = next(
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    )
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "opencv": cv2.__version__,
    } | {name: importlib.metadata.version(name) for name in ("torch", "numpy", "simplejpeg")}


def _plain(settings: LoaderBenchmark) -> dict[str, Any]:
    written = asdict(settings) | {"input_px": INPUT_PX, "crop": asdict(CropSettings())}
    return written | {"photographs": str(settings.photographs or "rendered")}
