"""The benchmark of the data path, from photographs to a result that is plain JSON."""

import importlib.metadata
import os
import platform
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2

from pipeline.benchmark.crops import CROPS, curve
from pipeline.benchmark.memory import EPOCHS, resident_over_epochs
from pipeline.benchmark.parallel import measure_parallel
from pipeline.benchmark.photographs import (
    SIZES,
    Size,
    Workload,
    cut_people,
    find_photographs,
    frame_people,
    pack_people,
    render_photographs,
)
from pipeline.benchmark.plain import plain_dataset, plain_loader
from pipeline.benchmark.routes import INPUT_PX, Ours
from pipeline.benchmark.timing import (
    Laps,
    Route,
    in_fresh_process,
    measure,
    on_one_core,
    pooled,
    ratio,
    speed,
)
from pipeline.pack_settings import CropSettings
from pipeline.progress import say

# Routes of our own, each by itself over the same people.
_OURS = (
    "stream",
    "sample_function",
    "decode_only",
    "reading_only",
    "network_input",
    "heatmaps",
)
# What they are compared with, by photograph size: the plain route, and its usual order of steps.
_PLAIN, _PLAIN_WHOLE = "plain", "plain_on_whole"


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
    result["memory"] = measure_memory(settings, workloads, folder / "four-times")
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
        for name in _OURS:
            routes[workload.name, name] = Route(run=getattr(ours, name))
        for name, on_whole in ((_PLAIN, False), (_PLAIN_WHOLE, True)):
            dataset = plain_dataset(workload.folder, workload.people, on_whole=on_whole)
            loader = plain_loader(dataset, settings.batch_size, settings.plain_samples)
            routes[workload.name, name] = Route(run=partial(_count, loader, settings.batch_size))
    laps = measure(
        "one core", {"/".join(key): route for key, route in routes.items()}, settings.rounds
    )
    return {
        workload.name: {
            name: laps[f"{workload.name}/{name}"] for name in (*_OURS, _PLAIN, _PLAIN_WHOLE)
        }
        for workload in workloads
    }


def _count(loader: Any, batch_size: int) -> int:
    return batch_size * sum(1 for _ in loader)


def summary(laps: Mapping[str, Mapping[str, Laps]]) -> dict[str, Any]:
    """The headline ratios, pooled over sizes (`over_plain`: the least of them), and what they are of."""
    together = {name: pooled(*(held[name] for held in laps.values())) for name in _OURS}
    sizes = {name: _ratios(held) for name, held in laps.items()}
    return {
        "of_decode": _ratio(together, "stream", "decode_only"),
        "over_plain": min(size["over_plain"] for size in sizes.values()),
        "pipe_overhead": 1 - _ratio(together, "stream", "sample_function"),
        "routes": {name: speed(held) for name, held in together.items()},
        "sizes": sizes,
    }


def _ratios(laps: Mapping[str, Laps]) -> dict[str, Any]:
    return {
        "of_decode": _ratio(laps, "stream", "decode_only"),
        "over_plain": _ratio(laps, "stream", _PLAIN),
        "over_plain_on_whole": _ratio(laps, "stream", _PLAIN_WHOLE),
        "over_plain_with_device_part": ratio(_with_device_part(laps), _per_s(laps[_PLAIN])),
        "pipe_overhead": 1 - _ratio(laps, "stream", "sample_function"),
        "routes": {name: speed(held) for name, held in laps.items()},
    }


def _ratio(laps: Mapping[str, Laps], above: str, below: str) -> float:
    return ratio(_per_s(laps[above]), _per_s(laps[below]))


def _per_s(laps: Laps) -> list[float]:
    return [lap.per_s for lap in laps]


def _with_device_part(laps: Mapping[str, Laps]) -> list[float]:
    """Samples/s of the stream if the same core also made floats and heatmaps, as the plain route does."""
    stages = zip(*(_per_s(laps[n]) for n in ("stream", "network_input", "heatmaps")), strict=True)
    return [1 / sum(1 / per_s for per_s in round_of) for round_of in stages]


def measure_memory(
    settings: LoaderBenchmark, workloads: Sequence[Workload], larger: Path
) -> dict[str, Any]:
    """Resident MiB by epoch over the dataset and over one four times as large, in processes of their own."""
    shards = [workload.shard for workload in workloads]
    people = sum(len(workload.people) for workload in workloads)
    found = {
        people: in_fresh_process(
            resident_over_epochs, shards, settings.batch_size, settings.epochs
        ),
        4 * people: in_fresh_process(
            resident_over_epochs, _copies(shards, larger), settings.batch_size, settings.epochs
        ),
    }
    # The first epoch fills the memory that is used again.
    early, last = sorted(settings.epochs)[1], max(settings.epochs)
    small, large = found.values()
    return {
        "resident_mib": found,
        "growth_mib": {held: after[last] - after[early] for held, after in found.items()},
        "larger_dataset_mib": large[last] - small[last],
    }


def _copies(shards: Sequence[str], folder: Path) -> list[str]:
    """Four copies of each shard; members.npz is left out, so that they are scanned."""
    folder.mkdir()
    made = [folder / f"{copy}-{Path(shard).name}" for copy in range(4) for shard in shards]
    for number, path in enumerate(made):
        shutil.copy(shards[number % len(shards)], path)
    return list(map(str, made))


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
