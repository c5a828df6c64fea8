"""End to end on several cores: decode threads against worker processes."""

import multiprocessing
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from torch.utils.data import DataLoader, Dataset

from jobs.benchmark.loader.photographs import Workload
from jobs.benchmark.loader.plain import plain_dataset, plain_loader, worker_options
from jobs.benchmark.loader.routes import INPUT_PX, Ours, batches
from jobs.benchmark.timing import Laps, Route, measure, process_cpu_s
from pipeline.data.augmentation import draw_augmentations
from pipeline.data.batch import Batch
from pipeline.data.loader import SampleLoader
from pipeline.data.shards.reader import ShardReader
from pipeline.pose.joint_sets import MPII
from pipeline.pose.shapes import Positions
from pipeline.settings import DataSettings

_DATA = DataSettings()


class BatchDataset(Dataset[Batch]):
    """Whole batches by number, each loaded by one worker process: nothing is collated twice."""

    def __init__(self, shards: Sequence[str], numbered: Sequence[Positions]) -> None:
        self._shards, self._numbered = shards, numbered
        self._loader: SampleLoader | None = None

    def __len__(self) -> int:
        return len(self._numbered)

    def __getitem__(self, number: int) -> Batch:
        if self._loader is None:
            self._loader = SampleLoader(ShardReader(self._shards), MPII, INPUT_PX)
        positions = self._numbered[number]
        drawn = draw_augmentations(_DATA, 0, positions)
        return self._loader.batch(positions, drawn)


def measure_parallel(
    workloads: Sequence[Workload],
    workers: Sequence[int],
    *,
    batch_size: int,
    samples: int,
    plain_samples: int,
    rounds: int,
) -> dict[str, Laps]:
    """Samples/s of so many threads and so many processes, and of the plain route's processes."""
    shards = [workload.shard for workload in workloads]
    ours = Ours(shards, batch_size, samples)
    routes = {f"threads {n}": Route(run=partial(ours.stream, n)) for n in workers}
    numbered = list(batches(ShardReader(shards), batch_size, samples))
    for n in workers:
        loader = DataLoader(BatchDataset(shards, numbered), batch_size=None, **worker_options(n))
        routes[f"processes {n}"] = _process_route(loader, batch_size)
    people = [person for workload in workloads for person in workload.people]
    dataset = plain_dataset(workloads[0].folder, people)
    most = max(workers)
    loader = plain_loader(dataset, batch_size, plain_samples, most)
    routes[f"plain processes {most}"] = _process_route(loader, batch_size)
    return dict(measure("threads and processes", routes, rounds))


def _process_route(loader: DataLoader[Any], batch_size: int) -> Route:
    """The loader's workers are started and warmed up here, so that their CPU time can be read."""
    before = set(multiprocessing.active_children())
    sum(1 for _ in loader)
    children = [c.pid for c in multiprocessing.active_children() if c not in before]

    def run() -> int:
        return batch_size * sum(1 for _ in loader)

    def cpu_s() -> float:
        return time.process_time() + sum(process_cpu_s(pid) for pid in children if pid is not None)

    return Route(run=run, cpu_s=cpu_s)
