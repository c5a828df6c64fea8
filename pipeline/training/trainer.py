"""One worker's part of a training run: state and data. Knows neither Ray nor MLflow.

If torch.distributed is initialised, the workers train together (DDP).
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Any

import torch
import torch.distributed as dist

from pipeline.data.batch import Batch
from pipeline.data.decoded import DecodedSamples
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
from pipeline.evaluation.evaluate import Evaluation, Evaluator, evaluate_stacks
from pipeline.evaluation.metrics import AveragePrecision
from pipeline.evaluation.oks import precision_of
from pipeline.evaluation.per_person import PersonResults
from pipeline.io.console import Pace
from pipeline.pose.joint_sets import JointSet
from pipeline.pose.shapes import Positions
from pipeline.run.checkpoint import Weights
from pipeline.settings import Settings
from pipeline.settings.packing import CropSettings
from pipeline.training.bad_steps import BadStepsError, describe_bad_step, sample_names
from pipeline.training.distributed import Request, RequestSync, all_reduce_sum, broadcast, gather
from pipeline.training.probes import COMPILE_PATIENCE, ProgressMarker, no_trace
from pipeline.training.state import BadStep, TrainState


@dataclass(frozen=True, kw_only=True)
class Task:
    """A worker's task as plain data, since it crosses processes.

    `settings` are by dotted key, with `model.joints` resolved. `joint_set` is `JointSet.to_json()`.
    `train` and `val` are absolute paths of shards, with `checksums` by the same names; `crop` has
    the fields of the `CropSettings` of `val`. `folder` is the run's. `label` begins every printed
    line, to tell the trials of a sweep apart; lines of steps come every `line_every_s` seconds.
    `owner` has the fields of the run's `Owner`.
    """

    settings: dict[str, Any]
    joint_set: dict[str, Any]
    train: tuple[str, ...]
    val: tuple[str, ...]
    folder: str = ""
    label: str = ""
    line_every_s: float = math.inf
    owner: dict[str, Any] = field(default_factory=dict)
    checksums: dict[str, str] = field(default_factory=dict)
    crop: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """A step of an epoch, from 1, with figures since the epoch began or was resumed.

    `loss` is the mean over the epoch's good steps: this rank's, at the last step that of all
    workers; NaN before the first good step. `bad_steps` counts the epoch's skipped steps;
    `left_out` describes the skipped steps that became known. Speed is that of all workers.
    `input_wait_share` is the share of time waiting for samples, `request` what the ranks agreed on.
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
    left_out: tuple[str, ...] = ()


class Trainer:
    """Trains and evaluates `state` as rank `rank` of `workers`, marking its progress on `marker`.

    `trace` is called after every step of this rank with its epoch (from 0), the step (from 1), and
    the positions of its samples in the training shards.
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
        self.marker = marker or ProgressMarker()
        self.settings = settings = Settings.from_flat(task.settings)
        torch.set_num_threads(max(1, int(settings.ray.cpus_per_worker)))
        self.rank, self.workers, self.device = rank, workers, device
        self._trace = trace
        self.joint_set = JointSet.from_json(task.joint_set)
        self.measure = self.joint_set.measure(settings.evaluation.measure)
        self._shards = training_shards(task.train, settings.data, rank, workers)
        samples: Samples = self._shards if isinstance(self._shards, ShardReader) else []
        limit = round(settings.data.cache_decoded_gb * 1e9)
        self.decoded = DecodedSamples(samples, limit) if limit else None
        self._train = self._loader(samples if self.decoded is None else self.decoded)
        self._val = self._loader(ShardReader(task.val, shard_cache(settings.data)))
        crop = None if task.crop is None else CropSettings(**task.crop)
        self.state = TrainState(
            settings, self.joint_set, rank, workers, device, task.checksums, crop
        )
        self._has_compiled = False
        self._requests = RequestSync(workers if dist.is_initialized() else 1)

    def _loader(self, samples: Samples) -> SampleLoader:
        data = self.settings.data
        return SampleLoader(
            samples,
            self.joint_set,
            self.settings.model.input_px,
            data.bad_samples,
            data.max_pixels,
            pinned=self.device.type == "cuda",
        )

    @property
    def steps_per_epoch(self) -> int:
        """Steps that every rank takes in an epoch."""
        data, shards = self.settings.data, self._shards
        samples = len(shards) if isinstance(shards, ShardReader) else data.epoch_samples
        return samples // self.settings.optim.batch_size

    @property
    def samples_in_all(self) -> int:
        """Samples of all epochs over all workers."""
        optim = self.settings.optim
        return self.steps_per_epoch * optim.batch_size * optim.epochs

    def train_epoch(
        self, every_s: float, wanted: Callable[[], Request] = lambda: Request.NONE
    ) -> Iterator[StepReport]:
        """Take the remaining steps of the epoch.

        Reports every `every_s` seconds, at every request and skipped step, and at the last step.
        `wanted` is called after each step and returns this rank's request; the report has what
        the ranks agreed on. Raises BadStepsError if more steps than allowed, or all of an epoch,
        had a loss or gradient that is not finite.
        """
        steps, pace, waited = self.steps_per_epoch, Pace(every_s), 0.0
        epoch, before = self.state.progress.epochs, self.state.progress.epoch_steps
        self.state.parallel.train()
        self.marker.begin(f"the beginning of epoch {epoch + 1}")
        batches = prefetch(self._batches(), self.device)
        for step, (batch, wait) in enumerate(_timed(batches), start=before + 1):
            # Ranks that have their samples wait within the step for those that have not.
            self._mark_launch(step, epoch)
            loss, rate, bad = self.state.step(batch, self.samples_in_all)
            self._trace(epoch, step, batch.positions)
            waited += wait
            request = self._requests.after_step(wanted()) | self._checkpoint_by_steps()
            is_last = step == steps
            if is_last or request:
                # All ranks do it at the same step, and a checkpoint has the outcome of all steps.
                bad = [*bad, *self.state.settle()]
                loss = self.state.mean_loss()
            self.marker.advance(f"step {step} of epoch {epoch + 1}")
            left_out = tuple(map(self._left_out, bad))
            bad_steps = self.state.progress.epoch_bad_steps
            if is_last:
                self.state.end_epoch()
            if is_last and bad_steps == steps:
                reasons = "; ".join(left_out)
                raise BadStepsError(f"all {steps} steps of epoch {epoch + 1} were bad: {reasons}")
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

    def _mark_launch(self, step: int, epoch: int) -> None:
        """Mark that a step's samples are loaded; the first step of a process may compile."""
        if self.settings.optim.compile and not self._has_compiled:
            self._has_compiled = True
            what = f"compiling the network, in step {step} of epoch {epoch + 1}"
            self.marker.advance(what, COMPILE_PATIENCE)
        else:
            self.marker.advance(f"loading step {step} of epoch {epoch + 1}")

    def _left_out(self, bad: BadStep) -> str:
        """Describe a skipped step. Every rank must call it. Raises BadStepsError if too many."""
        where = (
            f"epoch {self.state.progress.epochs + 1}, step {bad.step} of {self.steps_per_epoch}, "
            f"learning rate {bad.rate:g}: {bad.wrong}"
        )
        names = sample_names(bad.positions, self._shards)
        samples = gather(names, self.workers, self.device)
        return describe_bad_step(where, bad.number, self.settings.optim.max_bad_steps, samples)

    def _checkpoint_by_steps(self) -> Request:
        every = self.settings.ray.checkpoint_steps
        is_due = every and self.state.progress.steps % every == 0
        return Request.CHECKPOINT if is_due else Request.NONE

    def evaluate(self, weights: Weights) -> Evaluation:
        """Evaluate as `evaluate_people`, without the results of each person."""
        [[own, _]] = self._evaluate_part(weights, 1)
        return reduce(add, gather(own, self.workers, self.device))

    def evaluate_people(self, weights: Weights = "auto") -> tuple[Evaluation, PersonResults]:
        """Evaluate every validation person once over all workers; every rank gets all results.

        "auto" evaluates the weights of the primary metric: the moving average if there is one.
        """
        return self._evaluate(weights, 1)[-1]

    def evaluate_stacks(self) -> list[tuple[Evaluation, PersonResults]]:
        """Evaluate as `evaluate_people`, with evaluation.every_stack each stack, first to last."""
        return self._evaluate("auto", self.measured_stacks)

    @property
    def measured_stacks(self) -> int:
        """Stacks that are evaluated: all, or the last one alone."""
        return self.settings.model.stacks if self.settings.evaluation.every_stack else 1

    def average_precision(self, results: PersonResults) -> AveragePrecision | None:
        """Return COCO's ten numbers (OKS), computed by rank 0. Every rank must call it."""
        found = precision_of(results, self.joint_set) if self.rank == 0 else None
        return broadcast(found, self.workers, self.device)

    def _evaluate(self, weights: Weights, stacks: int) -> list[tuple[Evaluation, PersonResults]]:
        """Evaluate all `stacks`, or the last one, over all workers."""
        ranks = gather(self._evaluate_part(weights, stacks), self.workers, self.device)
        found = []
        for parts in zip(*ranks, strict=True):
            results = PersonResults.together([results for _, results in parts])
            found.append((reduce(add, (evaluation for evaluation, _ in parts)), results.by_key()))
        return found

    def _evaluate_part(
        self, weights: Weights, stacks: int
    ) -> list[tuple[Evaluation, PersonResults]]:
        """Evaluate this rank's part of the validation data."""
        stage = f"the evaluation after epoch {self.state.progress.epochs}"
        self.marker.begin(f"the call of {stage}")
        self.state.average_statistics()
        chosen = validation_batches(
            len(self._val.samples), self.settings.evaluation.batch_size, self.rank, self.workers
        )
        batches = stream_validation(self._val, chosen, self.settings.data.threads or 1)
        evaluator, ahead = self._evaluator(weights), prefetch(batches, self.device)
        predictions = evaluator.predict_stacks(ahead, every=stacks > 1)
        return evaluate_stacks(self.marker.of_each(predictions, stage), self._val, stacks)

    def _evaluator(self, weights: Weights) -> Evaluator:
        network = self.state.network_of(weights)
        return Evaluator(
            network=network, loader=self._val, settings=self.settings, device=self.device
        )

    def overlays(self, title: str) -> bytes:
        """Draw predictions on fixed validation people, the same after every epoch, as a PNG."""
        # matplotlib takes a second to load, which the first step does not wait for.
        from pipeline.data.pictures import png
        from pipeline.evaluation.overlays import draw_overlays

        return png(draw_overlays(self._evaluator("auto"), title))

    def bad_samples(self) -> dict[str, str]:
        """Return the errors of samples that this rank has skipped, by split and position."""
        return {
            f"{split} {position}": message
            for split, loader in (("train", self._train), ("val", self._val))
            for position, message in loader.bad.found.items()
        }

    def count_bad_samples(self) -> int:
        """Count the bad samples that all workers have skipped so far. Every rank must call it."""
        count = torch.tensor(float(len(self.bad_samples())), device=self.device)
        return round(all_reduce_sum(count, self.workers))

    def _batches(self) -> Iterator[Batch]:
        """Load this rank's remaining batches of the current epoch."""
        data, done, shards = self.settings.data, self.state.progress, self._shards
        batch_size = self.settings.optim.batch_size
        if isinstance(shards, ShardStream):
            steps = range(done.epoch_steps, self.steps_per_epoch)
            given = shards.batches(done.epochs, batch_size // self.workers, steps, self._train.bad)
            return stream_given(self._train, given, data, done.epochs)
        order = epoch_order(shards.bounds, data.seed, done.epochs, data.shuffle_window)
        positions = rank_batches(order, batch_size, self.rank, self.workers, done.epoch_steps)
        return stream_training(self._train, positions, data, done.epochs)


def _timed(batches: Iterable[Batch]) -> Iterator[tuple[Batch, float]]:
    """Yield each batch with the seconds spent waiting for it."""
    started = time.monotonic()
    for batch in batches:
        yield batch, time.monotonic() - started
        started = time.monotonic()
