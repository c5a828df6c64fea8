"""One worker's share of a training run: network, optimizer and data; knows neither Ray nor MLflow.

Where torch.distributed is initialised the workers train together (DDP); else
the worker is alone.
"""

import math
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.checkpoint import (
    Progress,
    Record,
    check_same_architecture,
    check_same_joints,
    check_same_order,
    load_optimizer,
    load_weights,
    read_record,
    save_checkpoint,
)
from pipeline.evaluation import Evaluation, evaluate, predict
from pipeline.joints import JointSet
from pipeline.metric import JointCounts
from pipeline.overlays import draw_overlays
from pipeline.progress import Pace
from pipeline.settings import DataSettings, Settings
from pipeline.shards.cache import ShardCache
from pipeline.shards.order import epoch_order, rank_batches, validation_batches
from pipeline.shards.read import ShardReader
from pipeline.shards.sample import Samples
from pipeline.shards.stream import (
    Batch,
    SampleLoader,
    stream_given,
    stream_training,
    stream_validation,
)
from pipeline.shards.streaming import ShardStream
from pipeline.training import (
    build_network,
    build_optimizer,
    learning_rate,
    set_learning_rate,
    train_step,
    training_dtype,
)


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a worker is told: plain data, since it crosses processes.

    `settings` are by dotted key, with `model.joints` resolved; `joint_set` is
    `JointSet.to_json()`; `train` and `val` are absolute paths of shards. `label` begins every line that is said,
    so that the trials of a sweep can be told apart.
    """

    settings: dict[str, Any]
    joint_set: dict[str, Any]
    train: tuple[str, ...]
    val: tuple[str, ...]
    label: str = ""


def training_shards(
    paths: tuple[str, ...], data: DataSettings, rank: int, workers: int
) -> ShardReader | ShardStream:
    """Training shards, read as the settings say."""
    if data.reading == "exact":
        return ShardReader(paths, shard_cache(data))
    return ShardStream(
        locations=paths,
        seed=data.seed,
        rank=rank,
        workers=workers,
        window=data.shuffle_window,
    )


def shard_cache(data: DataSettings) -> ShardCache | None:
    """The cache that the settings ask for."""
    if not data.cache:
        return None
    return ShardCache(Path(data.cache), round(data.cache_gb * 1e9))


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """Where an epoch stands: steps taken, mean loss so far, speed over all workers.

    `input_wait_share` is the share of the time that was spent waiting for samples.
    """

    epoch: int
    step: int
    steps: int
    loss: float
    learning_rate: float
    samples_per_s: float
    input_wait_share: float


class Learner:
    """Trains and evaluates as rank `rank` of `workers`."""

    def __init__(self, task: Task, rank: int, workers: int, device: torch.device) -> None:
        self.settings = settings = Settings.from_flat(task.settings)
        torch.set_num_threads(max(1, int(settings.ray.cpus_per_worker)))
        self.rank, self.workers, self.device = rank, workers, device
        self.joint_set = JointSet.from_json(task.joint_set)
        self.measure = self.joint_set.measure(settings.evaluation.measure)
        self._shards = training_shards(task.train, settings.data, rank, workers)
        self._train = self._loader(self._shards if isinstance(self._shards, ShardReader) else [])
        self._val = self._loader(ShardReader(task.val, shard_cache(settings.data)))
        self.network = build_network(
            settings.model, settings.optim.seed, device, zero_heads=settings.optim.zero_heads
        )
        self._optimizer = build_optimizer(self.network, settings.optim)
        self._dtype = training_dtype(settings.optim, device)
        self._parallel = _parallel(self.network, device)
        self.progress = Progress()

    def _loader(self, samples: Samples) -> SampleLoader:
        settings = self.settings
        return SampleLoader(
            samples, self.joint_set, settings.model.input_px, settings.data.bad_samples
        )

    @property
    def steps_per_epoch(self) -> int:
        """Steps that every rank takes in an epoch."""
        data, shards = self.settings.data, self._shards
        samples = len(shards) if isinstance(shards, ShardReader) else data.epoch_samples
        return samples // self.settings.optim.batch_size

    def restore(self, folder: Path) -> None:
        """Go on from a checkpoint.

        Raises ValueError if it is of another architecture or joint set, or
        lies within an epoch of another order.
        """
        record = read_record(folder)
        check_same_architecture(folder, record, self.settings)
        check_same_joints(folder, record, self.joint_set)
        if record.progress.epoch_steps:
            check_same_order(folder, record, self.settings)
        load_weights(folder, self.network)
        load_optimizer(folder, self._optimizer)
        self.progress = record.progress

    def save(self, folder: Path, metrics: dict[str, float]) -> None:
        """Write a checkpoint into an existing folder."""
        record = Record(
            settings=self.settings,
            joint_set=self.joint_set,
            progress=self.progress,
            metrics=metrics,
        )
        save_checkpoint(folder, self.network, self._optimizer, record)

    def train_epoch(self, every_s: float) -> Iterator[StepReport]:
        """Take the steps that the epoch has left; report every few seconds, and always at the last step.

        Losses are means over the steps taken here: on the way this rank's, at
        the last report over all workers. Raises ArithmeticError if the loss
        is no longer finite.
        """
        optim, steps, pace = self.settings.optim, self.steps_per_epoch, Pace(every_s)
        waited, losses = 0.0, torch.zeros((), device=self.device)
        epoch, before = self.progress.epochs, self.progress.epoch_steps
        self._parallel.train()
        for step, (batch, wait) in enumerate(_timed(self._batches()), start=before + 1):
            rate = learning_rate(optim, self.progress.samples / self.samples_in_all)
            set_learning_rate(self._optimizer, rate)
            losses += train_step(
                self._parallel, self._optimizer, batch, optim, self.device, self._dtype
            )
            waited += wait
            self._advance(epoch_ends=step == steps)
            if step == steps or pace.is_due():
                elapsed = pace.elapsed_s()
                taken = step - before
                mean = (
                    self._sum(losses / taken) / self.workers
                    if step == steps
                    else float(losses) / taken
                )
                if not math.isfinite(mean):
                    raise ArithmeticError(
                        f"the loss is {mean} in epoch {epoch + 1}, by step {step} of {steps}, "
                        f"at learning rate {rate:g}; a smaller optim.learning_rate may help"
                    )
                yield StepReport(
                    epoch=epoch,
                    step=step,
                    steps=steps,
                    loss=mean,
                    learning_rate=rate,
                    samples_per_s=taken * optim.batch_size / elapsed,
                    input_wait_share=waited / elapsed,
                )

    def evaluate(self) -> Evaluation:
        """Evaluate every validation person once over all workers; every rank gets the total."""
        self._average_statistics()
        settings = self.settings.evaluation
        mine = validation_batches(
            len(self._val.samples), settings.batch_size, self.rank, self.workers
        )
        predictions = predict(
            self.network,
            stream_validation(self._val, mine, self.settings.data.threads),
            self._val,
            self.settings.optim,
            settings,
            self.device,
        )
        return self._total(evaluate(predictions, self._val))

    def draw_overlays(self, title: str) -> Figure:
        """Draw predictions on fixed validation people, the same in every epoch."""
        return draw_overlays(self.network, self._val, self.settings, self.device, title)

    def bad_samples(self) -> dict[str, str]:
        """What is wrong with the samples that this rank has passed over, by split and position."""
        return {
            f"{split} {position}": message
            for split, loader in (("train", self._train), ("val", self._val))
            for position, message in loader.bad.found.items()
        }

    def count_bad_samples(self) -> int:
        """Bad samples passed over by all workers so far; every rank must call it."""
        count = torch.tensor(float(len(self.bad_samples())), device=self.device)
        return round(self._sum(count))

    def _batches(self) -> Iterator[Batch]:
        """This rank's batches of the epoch under way, from its first that is still to come."""
        data, done, shards = self.settings.data, self.progress, self._shards
        batch_size = self.settings.optim.batch_size
        if isinstance(shards, ShardStream):
            steps = range(done.epoch_steps, self.steps_per_epoch)
            given = shards.batches(done.epochs, batch_size // self.workers, steps, self._train.bad)
            return stream_given(self._train, given, data, done.epochs)
        order = epoch_order(shards.bounds, data.seed, done.epochs, data.shuffle_window)
        mine = rank_batches(order, batch_size, self.rank, self.workers, done.epoch_steps)
        return stream_training(self._train, mine, data, done.epochs)

    @property
    def samples_in_all(self) -> int:
        """Samples that all epochs see over all workers."""
        optim = self.settings.optim
        return self.steps_per_epoch * optim.batch_size * optim.epochs

    def _advance(self, *, epoch_ends: bool) -> None:
        done = self.progress
        self.progress = Progress(
            epochs=done.epochs + epoch_ends,
            epoch_steps=0 if epoch_ends else done.epoch_steps + 1,
            steps=done.steps + 1,
            samples=done.samples + self.settings.optim.batch_size,
        )

    def _sum(self, value: Tensor) -> float:
        if self.workers > 1:
            dist.all_reduce(value)
        return float(value)

    def _average_statistics(self) -> None:
        """Give every rank the mean of all ranks' BatchNorm statistics.

        Each rank's own have seen its own samples only; broadcasting one rank's
        at every step, as DDP would, waits for the slowest and uses less data.
        """
        if self.workers > 1:
            for buffer in self.network.buffers():
                if buffer.is_floating_point():
                    dist.all_reduce(buffer)
                    buffer /= self.workers

    def _total(self, mine: Evaluation) -> Evaluation:
        if self.workers == 1:
            return mine
        # Counts stay whole numbers below 2**53, which float64 adds exactly.
        flat = [array for c in mine.counts.values() for array in (c.correct, c.annotated)]
        packed = np.concatenate([a.ravel() for a in flat] + [[mine.loss_sum, mine.people]])
        total = torch.from_numpy(packed.astype(np.float64)).to(self.device)
        dist.all_reduce(total)
        return _unpack(total.cpu().numpy(), mine)


def _unpack(total: np.ndarray, like: Evaluation) -> Evaluation:
    counts, start = {}, 0
    for key, theirs in like.counts.items():
        middle = start + theirs.correct.size
        end = middle + theirs.annotated.size
        counts[key] = JointCounts(
            correct=total[start:middle].reshape(theirs.correct.shape).astype(np.int64),
            annotated=total[middle:end].astype(np.int64),
        )
        start = end
    return Evaluation(counts=counts, loss_sum=float(total[-2]), people=int(total[-1]))


def _parallel(network: nn.Module, device: torch.device) -> nn.Module:
    if not (dist.is_initialized() and dist.get_world_size() > 1):
        return network
    with warnings.catch_warnings():
        # Its successor is unknown to older torch, and still broadcasts at the start.
        warnings.filterwarnings("ignore", ".*broadcast_buffers.*", FutureWarning)
        return DistributedDataParallel(
            network,
            device_ids=[device] if device.type == "cuda" else None,
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
        )


def _timed(batches: Iterable[Batch]) -> Iterator[tuple[Batch, float]]:
    """Yield each batch with the seconds that it was waited for."""
    iterator = iter(batches)
    while True:
        started = time.monotonic()
        batch = next(iterator, None)
        if batch is None:
            return
        yield batch, time.monotonic() - started
