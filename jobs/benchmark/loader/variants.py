"""Variants of the data path: its stages on one core, and all of it on several."""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import simplejpeg
import torch
from torch.utils.data import DataLoader, Dataset

from jobs.benchmark.loader.photographs import Workload
from jobs.benchmark.loader.plain import PlainDataset, count_samples, plain_loader, worker_options
from jobs.benchmark.timing import Run, Timing, measure
from pipeline.data.augmentation import draw_augmentations
from pipeline.data.batch import Batch, network_input
from pipeline.data.decoded import DecodedSamples
from pipeline.data.loader import SampleLoader, stream_training
from pipeline.data.sampler import epoch_order, rank_batches
from pipeline.data.shards.reader import ShardReader
from pipeline.model.heatmaps import render
from pipeline.pose.joint_sets import MPII
from pipeline.pose.shapes import Positions
from pipeline.settings import DataSettings, ModelSettings, OptimSettings

INPUT_PX = ModelSettings().input_px
_DATA, _OPTIM = DataSettings(), OptimSettings()
# Bytes in which the benchmark's decoded crops fit.
_ALL = 10**10


def batches(reader: ShardReader, batch_size: int, samples: int) -> Iterator[Positions]:
    """Yield whole batches over as many epochs as `samples` take."""
    per_epoch = len(reader) // batch_size
    for number in range(max(1, samples // batch_size)):
        epoch, step = divmod(number, per_epoch)
        if step == 0:
            order = epoch_order(reader.bounds, _DATA.seed, epoch, _DATA.shuffle_window)
            steps = rank_batches(order, batch_size, rank=0, workers=1)
        yield next(steps)


class DataPath:
    """Our data path over some shards; each method runs a stage and returns the sample count."""

    def __init__(self, shards: Sequence[str], batch_size: int, samples: int) -> None:
        self._reader = ShardReader(shards)
        self._loader = SampleLoader(self._reader, MPII, INPUT_PX)
        self._decoded = SampleLoader(DecodedSamples(self._reader, _ALL), MPII, INPUT_PX)
        self._batch_size, self._samples = batch_size, samples
        self._positions = np.concatenate(list(self._batches())).tolist()
        self._held = list(self._reader)
        self._drawn = draw_augmentations(_DATA, 0, np.arange(len(self._held)))
        sizes = [simplejpeg.decode_jpeg_header(sample.crop.jpeg)[:2] for sample in self._held]
        self._buffer = np.empty(3 * max(height * width for height, width in sizes), np.uint8)
        self._image = np.empty((INPUT_PX, INPUT_PX, 3), np.uint8)
        self._batch = next(self._stream(1, self._loader))

    def stream(self, threads: int = 1) -> int:
        """Run all of it: order, reading, decoding, warp, joints, batches, hand-over."""
        return sum(len(batch) for batch in self._stream(threads, self._loader))

    def stream_of_decoded(self) -> int:
        """Run all of it on crops that are held decoded, once they have been decoded."""
        return sum(len(batch) for batch in self._stream(1, self._decoded))

    def sample_function(self) -> int:
        """Turn JPEGs and people in memory into pixels and joints, one at a time."""
        for position in self._positions:
            self._loader.load(self._held[position], self._drawn[position], self._image)
        return len(self._positions)

    def decode_only(self) -> int:
        """Decode three channels into reused memory, which is fastest."""
        for position in self._positions:
            simplejpeg.decode_jpeg(self._held[position].crop.jpeg, "RGB", buffer=self._buffer)
        return len(self._positions)

    def reading_only(self) -> int:
        """Read, check and parse samples in the epochs' order."""
        for positions in self._batches():
            for position in positions.tolist():
                self._reader[position]
        return len(self._positions)

    def network_input(self) -> int:
        """Do on the CPU what the device does to a batch's images."""
        return self._on_device(partial(network_input, self._batch, torch.device("cpu")))

    def heatmaps(self) -> int:
        """Do on the CPU what the device does to a batch's joints."""
        joints, annotated = self._batch.joints, self._batch.annotated
        size = ModelSettings().heatmap_px
        return self._on_device(
            partial(render, joints, annotated, size, _OPTIM.sigma_px, _OPTIM.target_peak)
        )

    def _on_device(self, work: partial) -> int:
        repeats = len(self._positions) // len(self._batch)
        for _ in range(repeats):
            work()
        return repeats * len(self._batch)

    def _batches(self) -> Iterator[Positions]:
        return batches(self._reader, self._batch_size, self._samples)

    def _stream(self, threads: int, loader: SampleLoader) -> Iterator:
        return stream_training(loader, self._batches(), DataSettings(threads=threads), 0)


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
