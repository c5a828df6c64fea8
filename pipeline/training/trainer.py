"""One worker's share of a training run: network, optimizer and data; knows neither Ray nor MLflow.

Where torch.distributed is initialised the workers train together (DDP); else
the worker is alone.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from matplotlib.figure import Figure
from torch import nn

from pipeline.data.batch import Batch
from pipeline.data.loader import (
    SampleLoader,
    shard_cache,
    stream_given,
    stream_training,
    stream_validation,
    training_shards,
)
from pipeline.data.prefetch import prefetch
from pipeline.data.sampler import epoch_order, rank_batches, validation_batches
from pipeline.data.shards.reader import ShardReader
from pipeline.data.shards.sample import Samples
from pipeline.data.shards.streaming import ShardStream
from pipeline.evaluation.evaluate import Evaluation, Evaluator, evaluate_people
from pipeline.evaluation.overlays import draw_overlays
from pipeline.evaluation.per_person import PersonResults
from pipeline.io.console import Pace
from pipeline.pose.joint_sets import JointSet
from pipeline.pose.shapes import Positions
from pipeline.run.checkpoint import Snapshot, Weights
from pipeline.run.metadata import (
    CheckpointMetadata,
    Plateau,
    Progress,
    check_same_architecture,
    check_same_joints,
    check_same_order,
    read_metadata,
)
from pipeline.settings import Settings
from pipeline.training.bad_steps import BadStepsError, describe_bad_step, of_all_ranks, sample_names
from pipeline.training.distributed import (
    Request,
    RequestSync,
    all_reduce_sum,
    all_results,
    gather_texts,
    total_evaluation,
)
from pipeline.training.probes import ProgressMarker, no_trace
from pipeline.training.state import TrainState


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a worker is told: plain data, since it crosses processes.

    `settings` are by dotted key, with `model.joints` resolved; `joint_set` is
    `JointSet.to_json()`; `train` and `val` are absolute paths of shards; `folder` is the run's. `label` begins every
    line that is said, so that the trials of a sweep can be told apart.
    """

    settings: dict[str, Any]
    joint_set: dict[str, Any]
    train: tuple[str, ...]
    val: tuple[str, ...]
    folder: str = ""
    label: str = ""


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """Where an epoch stands: steps taken, the good ones' mean loss, speed over all workers.

    On the way the loss is this rank's, at the last step that of all workers;
    NaN before there is a good step. `bad_steps` are those of the epoch that
    were left out; `left_out` says why this one was, if it was.
    Speed and `input_wait_share`, the share of the time that was spent waiting
    for samples, are of the steps since the epoch began or was resumed.
    `request` is what the ranks have agreed to do now.
    """

    epoch: int
    step: int
    steps: int
    loss: float
    learning_rate: float
    samples_per_s: float
    input_wait_share: float
    request: Request = Request.NONE
    bad_steps: int = 0
    left_out: str = ""


class Trainer:
    """Trains and evaluates as rank `rank` of `workers`, and says with its `marker` how far it is.

    `trace` is told of every step that this rank has taken, before anything comes of it:
    its epoch (from 0), the step (from 1), and the positions of the samples in the training shards.
    """

    def __init__(
        self,
        task: Task,
        rank: int,
        workers: int,
        device: torch.device,
        marker: ProgressMarker | None = None,
        trace: Callable[[int, int, Positions], None] = no_trace,
    ) -> None:
        self._marker = marker or ProgressMarker()
        self.settings = settings = Settings.from_flat(task.settings)
        torch.set_num_threads(max(1, int(settings.ray.cpus_per_worker)))
        self.rank, self.workers, self.device = rank, workers, device
        self._trace = trace
        self.joint_set = JointSet.from_json(task.joint_set)
        self.measure = self.joint_set.measure(settings.evaluation.measure)
        self._shards = training_shards(task.train, settings.data, rank, workers)
        self._train = self._loader(self._shards if isinstance(self._shards, ShardReader) else [])
        val = ShardReader(task.val, shard_cache(settings.data))
        self._val, self._val_keys = self._loader(val), val.keys
        self._state = TrainState(settings, device, workers)
        self._requests = RequestSync(workers if dist.is_initialized() else 1)

    def _loader(self, samples: Samples) -> SampleLoader:
        settings = self.settings
        return SampleLoader(
            samples, self.joint_set, settings.model.input_px, settings.data.bad_samples
        )

    @property
    def network(self) -> nn.Module:
        """The network as it is trained."""
        return self._state.network

    @property
    def progress(self) -> Progress:
        """How far training has come."""
        return self._state.progress

    @property
    def plateau(self) -> Plateau:
        """How validation has gone."""
        return self._state.plateau

    @property
    def steps_per_epoch(self) -> int:
        """Steps that every rank takes in an epoch."""
        data, shards = self.settings.data, self._shards
        samples = len(shards) if isinstance(shards, ShardReader) else data.epoch_samples
        return samples // self.settings.optim.batch_size

    def restore(self, folder: Path) -> CheckpointMetadata:
        """Go on from a checkpoint, and return its metadata.

        Raises ValueError if it is of another architecture or joint set, or
        lies within an epoch of another order.
        """
        self._marker.begin(f"the beginning of reading {folder.name}")
        metadata = read_metadata(folder)
        check_same_architecture(folder, metadata, self.settings)
        check_same_joints(folder, metadata, self.joint_set)
        if metadata.progress.epoch_steps:
            check_same_order(folder, metadata, self.settings)
        self._state.restore(folder, metadata, self.rank)
        return metadata

    def snapshot(
        self, metrics: dict[str, float], extras: Mapping[str, bytes] | None = None
    ) -> Snapshot:
        """Copy all that a checkpoint is written from, with further files by name; every rank must call it."""
        self._marker.begin("the beginning of a checkpoint")
        taken = self._state.snapshot(self.joint_set, metrics)
        self._marker.begin("the copy of a checkpoint")
        return replace(taken, extras=extras or {})

    def train_epoch(
        self, every_s: float, wanted: Callable[[], Request] = lambda: Request.NONE
    ) -> Iterator[StepReport]:
        """Take the steps that the epoch has left; report every few seconds, at every signal or step left out, and at the last step.

        `wanted` is called after each step and returns what this rank requests of all; what they
        agreed on comes with the report. Raises BadStepsError when more steps
        than allowed had a loss or gradient that is not finite, or all of an epoch.
        """
        steps, pace, waited = self.steps_per_epoch, Pace(every_s), 0.0
        epoch, before = self.progress.epochs, self.progress.epoch_steps
        self._state.parallel.train()
        self._marker.begin(f"the beginning of epoch {epoch + 1}")
        batches = prefetch(self._batches(), self.device)
        for step, (batch, wait) in enumerate(_timed(batches), start=before + 1):
            # Those that have their samples wait in the step for those that have not.
            self._marker.advance(f"loading step {step} of epoch {epoch + 1}")
            loss, rate, wrong = self._state.step(batch, self.samples_in_all)
            self._trace(epoch, step, batch.positions)
            bad_steps = self.progress.epoch_bad_steps
            left_out = self._left_out(wrong, batch, rate) if wrong else ""
            waited += wait
            request = self._requests.after_step(wanted()) | self._checkpoint_by_steps()
            self._marker.advance(f"step {step} of epoch {epoch + 1}")
            is_last = step == steps
            if is_last:
                self._state.end_epoch()
            if is_last and bad_steps == steps:
                raise BadStepsError(f"all {steps} steps of epoch {epoch + 1} were bad: {left_out}")
            if is_last or request or left_out or pace.is_due():
                mean = all_reduce_sum(loss, self.workers) / self.workers if is_last else float(loss)
                elapsed = pace.elapsed_s()
                yield StepReport(
                    epoch=epoch,
                    step=step,
                    steps=steps,
                    loss=mean,
                    learning_rate=rate,
                    samples_per_s=(step - before) * self.settings.optim.batch_size / elapsed,
                    input_wait_share=waited / elapsed,
                    request=request,
                    bad_steps=bad_steps,
                    left_out=left_out,
                )

    def _left_out(self, wrong: str, batch: Batch, rate: float) -> str:
        """Say which step was left out, and why; every rank must call it. Raises BadStepsError if that was one too many."""
        done = self.progress
        where = (
            f"epoch {done.epochs + 1}, step {done.epoch_steps} of {self.steps_per_epoch}, "
            f"learning rate {rate:g}: {wrong}"
        )
        mine = sample_names(batch.positions, self._shards)
        samples = of_all_ranks(gather_texts(mine, self.workers, self.device))
        return describe_bad_step(where, done.bad_steps, self.settings.optim.max_bad_steps, samples)

    def _checkpoint_by_steps(self) -> Request:
        every = self.settings.ray.checkpoint_steps
        is_due = every and self.progress.steps % every == 0
        return Request.CHECKPOINT if is_due else Request.NONE

    def evaluate(self, weights: Weights = "auto") -> Evaluation:
        """Evaluate every validation person once over all workers; every rank gets the total.

        By default of the weights that give the headline: the moving average where there is one.
        """
        mine, _ = self._evaluate(weights)
        return total_evaluation(mine, self.device, self.workers)

    def evaluate_people(self) -> tuple[Evaluation, PersonResults]:
        """Evaluate as `evaluate` does, and say what was found of each person; every rank gets it all."""
        mine, cases = self._evaluate("auto")
        evaluation = total_evaluation(mine, self.device, self.workers)
        return evaluation, all_results(cases, self._val_keys, self.device, self.workers)

    def _evaluate(self, weights: Weights) -> tuple[Evaluation, PersonResults]:
        """This rank's share of an evaluation."""
        stage = f"the evaluation after epoch {self.progress.epochs}"
        self._marker.begin(f"the call of {stage}")
        self._state.average_statistics()
        chosen = validation_batches(
            len(self._val.samples), self.settings.evaluation.batch_size, self.rank, self.workers
        )
        batches = stream_validation(self._val, chosen, self.settings.data.threads)
        predictions = self._evaluator(weights).predict(prefetch(batches, self.device))
        return evaluate_people(self._marker.of_each(predictions, stage), self._val)

    def _evaluator(self, weights: Weights) -> Evaluator:
        network = self._state.network_of(weights)
        return Evaluator(
            network=network, loader=self._val, settings=self.settings, device=self.device
        )

    def judge(self, accuracy: float) -> None:
        """Note an epoch's headline accuracy; every rank must be told the same one."""
        self._state.judge(accuracy)

    def draw_overlays(self, title: str) -> Figure:
        """Draw predictions on fixed validation people, the same in every epoch."""
        return draw_overlays(self._evaluator("auto"), title)

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
        return round(all_reduce_sum(count, self.workers))

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


def _timed(batches: Iterable[Batch]) -> Iterator[tuple[Batch, float]]:
    """Yield each batch with the seconds that it was waited for."""
    iterator = iter(batches)
    while True:
        started = time.monotonic()
        batch = next(iterator, None)
        if batch is None:
            return
        yield batch, time.monotonic() - started
