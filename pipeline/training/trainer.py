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
from pipeline.data.prefetch import transferred
from pipeline.data.sampler import epoch_order, rank_batches, validation_batches
from pipeline.data.shards.reader import ShardReader
from pipeline.data.shards.sample import Samples
from pipeline.data.shards.streaming import ShardStream
from pipeline.evaluation.evaluate import Evaluation, evaluate_cases, predict
from pipeline.evaluation.overlays import draw_overlays
from pipeline.evaluation.per_person import Cases
from pipeline.io.console import Pace
from pipeline.pose.joint_sets import JointSet
from pipeline.pose.shapes import Positions
from pipeline.run.checkpoint import Snapshot, Weights
from pipeline.run.metadata import (
    Plateau,
    Progress,
    Record,
    check_same_architecture,
    check_same_joints,
    check_same_order,
    read_record,
)
from pipeline.settings import Settings
from pipeline.training.bad_steps import BadStepsError, names_of, of_all_ranks, verdict
from pipeline.training.distributed import (
    Agreement,
    Signal,
    all_cases,
    told_by_all,
    total,
    total_evaluation,
)
from pipeline.training.probes import Pulse, unwitnessed
from pipeline.training.state import Trainee


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
    `signal` is what the ranks have agreed to do now.
    """

    epoch: int
    step: int
    steps: int
    loss: float
    learning_rate: float
    samples_per_s: float
    input_wait_share: float
    signal: Signal = Signal.NONE
    bad_steps: int = 0
    left_out: str = ""


class Learner:
    """Trains and evaluates as rank `rank` of `workers`, and says with its `pulse` how far it is.

    `witness` is told of every step that this rank has taken, before anything comes of it:
    its epoch (from 0), the step (from 1), and the positions of the samples in the training shards.
    """

    def __init__(
        self,
        task: Task,
        rank: int,
        workers: int,
        device: torch.device,
        pulse: Pulse | None = None,
        witness: Callable[[int, int, Positions], None] = unwitnessed,
    ) -> None:
        self._pulse = pulse or Pulse()
        self.settings = settings = Settings.from_flat(task.settings)
        torch.set_num_threads(max(1, int(settings.ray.cpus_per_worker)))
        self.rank, self.workers, self.device = rank, workers, device
        self._witness = witness
        self.joint_set = JointSet.from_json(task.joint_set)
        self.measure = self.joint_set.measure(settings.evaluation.measure)
        self._shards = training_shards(task.train, settings.data, rank, workers)
        self._train = self._loader(self._shards if isinstance(self._shards, ShardReader) else [])
        val = ShardReader(task.val, shard_cache(settings.data))
        self._val, self._val_keys = self._loader(val), val.keys
        self._trainee = Trainee(settings, device, workers)
        self._agreement = Agreement(workers if dist.is_initialized() else 1)

    def _loader(self, samples: Samples) -> SampleLoader:
        settings = self.settings
        return SampleLoader(
            samples, self.joint_set, settings.model.input_px, settings.data.bad_samples
        )

    @property
    def network(self) -> nn.Module:
        """The network as it is trained."""
        return self._trainee.network

    @property
    def progress(self) -> Progress:
        """How far training has come."""
        return self._trainee.progress

    @property
    def plateau(self) -> Plateau:
        """How validation has gone."""
        return self._trainee.plateau

    @property
    def steps_per_epoch(self) -> int:
        """Steps that every rank takes in an epoch."""
        data, shards = self.settings.data, self._shards
        samples = len(shards) if isinstance(shards, ShardReader) else data.epoch_samples
        return samples // self.settings.optim.batch_size

    def restore(self, folder: Path) -> Record:
        """Go on from a checkpoint, and return its record.

        Raises ValueError if it is of another architecture or joint set, or
        lies within an epoch of another order.
        """
        self._pulse.begin(f"the beginning of reading {folder.name}")
        record = read_record(folder)
        check_same_architecture(folder, record, self.settings)
        check_same_joints(folder, record, self.joint_set)
        if record.progress.epoch_steps:
            check_same_order(folder, record, self.settings)
        self._trainee.restore(folder, record, self.rank)
        return record

    def snapshot(
        self, metrics: dict[str, float], extras: Mapping[str, bytes] | None = None
    ) -> Snapshot:
        """Copy all that a checkpoint is written from, with further files by name; every rank must call it."""
        self._pulse.begin("the beginning of a checkpoint")
        taken = self._trainee.snapshot(self.joint_set, metrics)
        self._pulse.begin("the copy of a checkpoint")
        return replace(taken, extras=extras or {})

    def train_epoch(
        self, every_s: float, wish: Callable[[], Signal] = lambda: Signal.NONE
    ) -> Iterator[StepReport]:
        """Take the steps that the epoch has left; report every few seconds, at every signal or step left out, and at the last step.

        `wish` is asked after each step what this rank wants of all; what they
        agreed on comes with the report. Raises BadStepsError when more steps
        than allowed had a loss or gradient that is not finite, or all of an epoch.
        """
        steps, pace, waited = self.steps_per_epoch, Pace(every_s), 0.0
        epoch, before = self.progress.epochs, self.progress.epoch_steps
        self._trainee.parallel.train()
        self._pulse.begin(f"the beginning of epoch {epoch + 1}")
        batches = transferred(self._batches(), self.device)
        for step, (batch, wait) in enumerate(_timed(batches), start=before + 1):
            # Those that have their samples wait in the step for those that have not.
            self._pulse.beat(f"loading step {step} of epoch {epoch + 1}")
            loss, rate, wrong = self._trainee.step(batch, self.samples_in_all)
            self._witness(epoch, step, batch.positions)
            bad_steps = self.progress.epoch_bad_steps
            left_out = self._left_out(wrong, batch, rate) if wrong else ""
            waited += wait
            signal = self._agreement.after_step(wish()) | self._checkpoint_by_steps()
            self._pulse.beat(f"step {step} of epoch {epoch + 1}")
            is_last = step == steps
            if is_last:
                self._trainee.end_epoch()
            if is_last and bad_steps == steps:
                raise BadStepsError(f"all {steps} steps of epoch {epoch + 1} were bad: {left_out}")
            if is_last or signal or left_out or pace.is_due():
                mean = total(loss, self.workers) / self.workers if is_last else float(loss)
                elapsed = pace.elapsed_s()
                yield StepReport(
                    epoch=epoch,
                    step=step,
                    steps=steps,
                    loss=mean,
                    learning_rate=rate,
                    samples_per_s=(step - before) * self.settings.optim.batch_size / elapsed,
                    input_wait_share=waited / elapsed,
                    signal=signal,
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
        mine = names_of(batch.positions, self._shards)
        samples = of_all_ranks(told_by_all(mine, self.workers, self.device))
        return verdict(where, done.bad_steps, self.settings.optim.max_bad_steps, samples)

    def _checkpoint_by_steps(self) -> Signal:
        every = self.settings.ray.checkpoint_steps
        is_due = every and self.progress.steps % every == 0
        return Signal.CHECKPOINT if is_due else Signal.NONE

    def evaluate(self, weights: Weights = "auto") -> Evaluation:
        """Evaluate every validation person once over all workers; every rank gets the total.

        By default of the weights that give the headline: the moving average where there is one.
        """
        mine, _ = self._evaluate(weights)
        return total_evaluation(mine, self.device, self.workers)

    def evaluate_cases(self) -> tuple[Evaluation, Cases]:
        """Evaluate as `evaluate` does, and say what was found of each person; every rank gets it all."""
        mine, cases = self._evaluate("auto")
        evaluation = total_evaluation(mine, self.device, self.workers)
        return evaluation, all_cases(cases, self._val_keys, self.device, self.workers)

    def _evaluate(self, weights: Weights) -> tuple[Evaluation, Cases]:
        """This rank's share of an evaluation."""
        stage = f"the evaluation after epoch {self.progress.epochs}"
        self._pulse.begin(f"the call of {stage}")
        self._trainee.average_statistics()
        settings = self.settings.evaluation
        batches = validation_batches(
            len(self._val.samples), settings.batch_size, self.rank, self.workers
        )
        predictions = predict(
            self._trainee.network_of(weights),
            transferred(
                stream_validation(self._val, batches, self.settings.data.threads), self.device
            ),
            self._val,
            self.settings.optim,
            settings,
            self.device,
        )
        return evaluate_cases(self._pulse.of_each(predictions, stage), self._val)

    def judge(self, accuracy: float) -> None:
        """Note an epoch's headline accuracy; every rank must be told the same one."""
        self._trainee.judge(accuracy)

    def draw_overlays(self, title: str) -> Figure:
        """Draw predictions on fixed validation people, the same in every epoch."""
        network = self._trainee.network_of("auto")
        return draw_overlays(network, self._val, self.settings, self.device, title)

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
        return round(total(count, self.workers))

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
