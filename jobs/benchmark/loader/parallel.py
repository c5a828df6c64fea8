"""End to end on several cores: decode threads against worker processes."""

from collections.abc import Sequence
from functools import partial

from torch.utils.data import DataLoader, Dataset

from jobs.benchmark.loader.photographs import Workload
from jobs.benchmark.loader.plain import PlainDataset, count_samples, plain_loader, worker_options
from jobs.benchmark.loader.stages import INPUT_PX, DataPath, batches
from jobs.benchmark.timing import Run, Timing, measure
from pipeline.data.augmentation import draw_augmentations
from pipeline.data.batch import Batch
from pipeline.data.loader import SampleLoader
from pipeline.data.shards.reader import ShardReader
from pipeline.pose.joint_sets import MPII
from pipeline.pose.shapes import Positions
from pipeline.settings import DataSettings

_DATA = DataSettings()


class BatchDataset(Dataset[Batch]):
    """Whole batches by number, each loaded by one worker process without collation."""

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
) -> dict[str, list[Timing]]:
    """Time `workers` threads, as many processes, and the plain loader with the most processes."""
    shards = [workload.shard for workload in workloads]
    ours = DataPath(shards, batch_size, samples)
    variants: dict[str, Run] = {f"threads {n}": partial(ours.stream, n) for n in workers}
    numbered = list(batches(ShardReader(shards), batch_size, samples))
    for n in workers:
        loader = DataLoader(BatchDataset(shards, numbered), batch_size=None, **worker_options(n))
        variants[f"processes {n}"] = partial(count_samples, loader, batch_size)
    people = [person for workload in workloads for person in workload.people]
    dataset = PlainDataset(workloads[0].folder, people)
    most = max(workers)
    loader = plain_loader(dataset, batch_size, plain_samples, most)
    variants[f"plain processes {most}"] = partial(count_samples, loader, batch_size)
    return measure("threads and processes", variants, rounds)
