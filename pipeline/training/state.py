"""A network in training, and all that training changes: weights, their average, optimizer, course."""

import math
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.data.batch import Batch
from pipeline.model.build import build_network, compiled, training_dtype
from pipeline.pose.joint_sets import JointSet
from pipeline.run.checkpoint import Snapshot, Weights, load_training, load_weights, take_snapshot
from pipeline.run.metadata import CheckpointMetadata, Plateau, Progress
from pipeline.settings import Settings
from pipeline.training.distributed import average_statistics, gather_rows, parallel
from pipeline.training.ema import WeightAverage
from pipeline.training.schedule import learning_rate
from pipeline.training.step import (
    Step,
    build_optimizer,
    build_scaler,
    set_learning_rate,
    train_step,
)


class TrainState:
    """What a checkpoint holds, alive; the same on every rank but for BatchNorm's statistics."""

    def __init__(self, settings: Settings, device: torch.device, workers: int) -> None:
        self._settings, self._device, self._workers = settings, device, workers
        optim = settings.optim
        self.network = build_network(
            settings.model, optim.seed, device, zero_heads=optim.zero_heads
        )
        if optim.checkpointing:
            self.network.recompute_residuals()
        self._average = (
            WeightAverage(self.network, optim.ema_samples) if optim.ema_samples else None
        )
        self._optimizer = build_optimizer(self.network, optim)
        self._dtype = training_dtype(optim, device)
        self._scaler = build_scaler(self._dtype, device)
        self.parallel = parallel(self.network, device, sync_batchnorm=optim.sync_batchnorm)
        if optim.compile:
            # Training alone: evaluation has batches of other sizes.
            self.parallel = compiled(self.parallel, device, optim.accumulate)
        self._running = RunningStatistics(self.network)
        self.progress = Progress()
        # Sum of this rank's losses over the good steps of the epoch, on the device.
        self.losses = torch.zeros((), device=device)
        self.plateau = Plateau()

    def step(self, batch: Batch, samples_in_all: int) -> tuple[Tensor, float, str]:
        """Take a step on this rank's share of a batch.

        Returns the mean loss of the epoch's good steps, on the device, the
        learning rate, and what is wrong with the step, if anything is: then it
        has left nothing behind but its number, on any rank.
        """
        optim, done = self._settings.optim, self.progress
        rate = learning_rate(
            optim, done.samples, samples_in_all, has_dropped=self.plateau.has_dropped
        )
        set_learning_rate(self._optimizer, rate)
        self._running.keep()
        step = train_step(
            self.parallel,
            self._optimizer,
            batch,
            optim,
            self._device,
            self._dtype,
            self._scaler,
            # The step's batch and its learning rate are the same for any number of workers.
            share=len(batch) * self._workers / optim.batch_size,
        )
        if not step.is_taken:
            self._running.put_back()
        wrong = "" if step.is_taken else self._what_is_wrong(step)
        self.progress = done = replace(
            done,
            epoch_steps=done.epoch_steps + 1,
            steps=done.steps + 1,
            samples=done.samples + optim.batch_size,
            bad_steps=done.bad_steps + bool(wrong),
            epoch_bad_steps=done.epoch_bad_steps + bool(wrong),
        )
        if self._average is not None and step.is_taken:
            self._average.update(optim.batch_size, done.samples)
        before = torch.zeros_like(self.losses) if done.epoch_steps == 1 else self.losses
        self.losses = before if wrong else before + step.loss
        return self.losses / (done.epoch_steps - done.epoch_bad_steps), rate, wrong

    def _what_is_wrong(self, step: Step) -> str:
        """Say what of a step is not finite, for all ranks together; nothing if its loss was scaled too high."""
        losses = gather_rows(step.loss.reshape(1), self._workers).ravel().tolist()
        bad = [rank for rank, loss in enumerate(losses) if not math.isfinite(loss)]
        if not bad:
            return "" if step.has_overflowed else f"the gradients' norm is {step.norm}"
        if self._workers == 1:
            return f"the loss is {losses[0]}"
        return ", ".join(f"the loss of rank {rank} is {losses[rank]}" for rank in bad)

    def end_epoch(self) -> None:
        """Count the epoch under way as complete."""
        self.progress = replace(
            self.progress, epochs=self.progress.epochs + 1, epoch_steps=0, epoch_bad_steps=0
        )

    def judge(self, accuracy: float) -> None:
        """Note an epoch's headline accuracy; every rank must be told the same one."""
        optim = self._settings.optim
        patience = optim.patience if optim.schedule == "plateau" else math.inf
        self.plateau = self.plateau.after(accuracy, patience)

    def average_statistics(self) -> None:
        """Give every rank the same BatchNorm statistics; every rank must call it before evaluation."""
        average_statistics(self.network, self._workers)
        if self._average is not None:
            average_statistics(self._average.network, self._workers)

    def network_of(self, weights: Weights) -> nn.Module:
        """The network to evaluate; auto: the one that gives the headline, the average where there is one."""
        if weights == "raw" or self._average is None:
            return self.network
        return self._average.network

    def snapshot(self, joint_set: JointSet, metrics: dict[str, float]) -> Snapshot:
        """Copy all that a checkpoint is written from; every rank must call it, and none is changed by it.

        The weights get the mean of the ranks' BatchNorm statistics, and each rank's own are kept beside.
        """
        ranks = gather_rows(self._own(), self._workers).cpu()
        snapshot = take_snapshot(
            self.network,
            CheckpointMetadata(
                settings=self._settings,
                joint_set=joint_set,
                progress=self.progress,
                metrics=metrics,
                plateau=self.plateau,
            ),
            average=None if self._average is None else self._average.network,
            optimizer=self._optimizer,
            scaler=self._scaler,
            ranks=ranks,
        )
        states = [snapshot.weights] + ([snapshot.average] if snapshot.average else [])
        names = [[n for n, _ in _statistics(network)] for network in self._networks()]
        mine = [state[name] for state, of in zip(states, names, strict=True) for name in of]
        _put(ranks.mean(0)[1:], mine)
        return snapshot

    def restore(self, folder: Path, metadata: CheckpointMetadata, rank: int) -> None:
        """Take over a checkpoint, whose record has been read and found to fit. Raises ValueError.

        With as many workers as wrote it, each takes its own statistics; else all take their mean.
        """
        load_weights(folder, self.network)
        if self._average is not None:
            # The average may have been asked for since; then it starts from these weights.
            load_weights(folder, self._average.network, "auto")
        ranks = load_training(folder, self._optimizer, self._scaler)
        if ranks is not None:
            self.losses.copy_(ranks[:, 0].mean())
            if len(ranks) == self._workers and ranks.shape[1] == len(self._own()):
                self.losses.copy_(ranks[rank, 0])
                _put(ranks[rank, 1:].to(self._device), self._statistics())
        self.progress, self.plateau = metadata.progress, metadata.plateau

    def _networks(self) -> list[nn.Module]:
        return [self.network] + ([self._average.network] if self._average is not None else [])

    def _statistics(self) -> list[Tensor]:
        """What BatchNorm has seen on this rank alone."""
        return [buffer for network in self._networks() for _, buffer in _statistics(network)]

    def _own(self) -> Tensor:
        """What this rank does not share with the others, in one row: its losses of the epoch, its statistics."""
        return torch.cat([self.losses.reshape(1)] + [b.ravel() for b in self._statistics()])


def _statistics(network: nn.Module) -> list[tuple[str, Tensor]]:
    return [(n, buffer) for n, buffer in network.named_buffers() if buffer.is_floating_point()]


def _put(row: Tensor, into: list[Tensor]) -> None:
    """Spread a row over tensors, in order."""
    pieces = row.split([tensor.numel() for tensor in into])
    for tensor, piece in zip(into, pieces, strict=True):
        tensor.copy_(piece.view_as(tensor))


class RunningStatistics:
    """The buffers of a network and a copy of them, each kept in one sweep over their memory.

    A forward pass moves them before anyone can know whether its step is a good
    one; with a NaN in it, for good.
    """

    def __init__(self, network: nn.Module) -> None:
        # Listed once: walking through the modules takes longer than copying. By
        # number format, of which one sweep takes one.
        by_dtype: dict[torch.dtype, list[Tensor]] = {}
        for buffer in network.buffers():
            by_dtype.setdefault(buffer.dtype, []).append(buffer)
        self._live = list(by_dtype.values())
        self._kept = [[torch.empty_like(buffer) for buffer in group] for group in self._live]

    def keep(self) -> None:
        """Copy them as they are."""
        for kept, live in zip(self._kept, self._live, strict=True):
            torch._foreach_copy_(kept, live)

    def put_back(self) -> None:
        """Make them what they were when `keep` was called."""
        for kept, live in zip(self._kept, self._live, strict=True):
            torch._foreach_copy_(live, kept)
