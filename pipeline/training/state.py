"""The state of training: the network, its moving average, the optimizer, and progress."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pipeline.data.batch import Batch
from pipeline.model.build import build_network
from pipeline.pose.joint_sets import JointSet
from pipeline.pose.shapes import Positions
from pipeline.run.checkpoint import Snapshot, Weights, load_training, load_weights, take_snapshot
from pipeline.run.metadata import (
    CheckpointMetadata,
    Plateau,
    Progress,
    check_resumable,
    read_metadata,
)
from pipeline.run.start import find_local, plan_start
from pipeline.settings import Settings
from pipeline.settings.packing import CropSettings
from pipeline.training.deferred import LateRead
from pipeline.training.distributed import all_reduce_mean, gather_rows, spread
from pipeline.training.schedule import learning_rate
from pipeline.training.step import has_overflowed, set_learning_rate
from pipeline.training.teacher import teacher_of
from pipeline.training.updater import Updater


class BadStep(NamedTuple):
    """A step of an epoch, from 1, that was not taken: why, at which rate, on which samples.

    `number` counts the run's bad steps, from 1.
    """

    number: int
    step: int
    wrong: str
    rate: float
    positions: Positions


class _Launched(NamedTuple):
    """A step whose outcome the host has not read."""

    step: int
    rate: float
    positions: Positions
    loss: Tensor
    outcome: LateRead


class TrainState:
    """All that a checkpoint holds, in training. Only BatchNorm statistics differ between ranks."""

    def __init__(
        self,
        settings: Settings,
        joint_set: JointSet,
        rank: int,
        workers: int,
        device: torch.device,
        checksums: Mapping[str, str] | None = None,
        crop: CropSettings | None = None,
    ) -> None:
        self._settings, self._joint_set, self._device = settings, joint_set, device
        self._checksums, self._crop = dict(checksums or {}), crop
        self._rank, self._workers = rank, workers
        optim = settings.optim
        self.network = build_network(
            settings.model,
            optim.seed,
            device,
            zero_heads=optim.zero_heads,
            norm_weights=optim.norm_weights,
        )
        teach = teacher_of(optim, device, settings.ray.scratch)
        self._updater = Updater(self.network, optim, device, workers, teach)
        self.parallel = self._updater.parallel
        self._launched: _Launched | None = None
        self.progress = Progress()
        # Sum of this rank's losses over the epoch's good steps, on the device.
        self.losses = torch.zeros((), device=device)
        self.plateau = Plateau()

    def step(self, batch: Batch, samples_in_all: int) -> tuple[Tensor, float, Sequence[BadStep]]:
        """Take a step on this rank's share of a batch.

        Returns the mean loss of the epoch's good steps (on the device), the learning rate, and the
        bad steps that have become known. A bad step changes nothing but the progress, on any rank.
        On a GPU the outcome of a step is known after the next one, or after `settle`.
        """
        optim, done = self._settings.optim, self.progress
        rate = learning_rate(
            optim, done.samples, samples_in_all, has_dropped=self.plateau.has_dropped
        )
        set_learning_rate(self._updater.optimizer, rate)
        seen = done.samples + optim.batch_size
        step = self._updater.step(batch, seen)
        self.progress = done = replace(
            done,
            epoch_steps=done.epoch_steps + 1,
            steps=done.steps + 1,
            samples=seen,
        )
        if done.epoch_steps == 1:
            self.losses = torch.zeros_like(self.losses)
        before, outcome = self._launched, LateRead(step.outcome)
        self._launched = _Launched(done.epoch_steps, rate, batch.positions, step.loss, outcome)
        bad = self._judged(before) if self._updater.is_late else self.settle()
        return self.mean_loss(), rate, bad

    def mean_loss(self) -> Tensor:
        """Return the mean loss of the epoch's good steps so far, on the device; NaN without any."""
        known = self.progress.epoch_steps - (self._launched is not None)
        return self.losses / (known - self.progress.epoch_bad_steps)

    def settle(self) -> list[BadStep]:
        """Wait for the last step; return it if it was bad. Every rank must call it."""
        launched, self._launched = self._launched, None
        return self._judged(launched)

    def _judged(self, launched: _Launched | None) -> list[BadStep]:
        """Read the outcome of a step and count it; return it if it was bad."""
        if launched is None:
            return []
        _, norm, *scales = launched.outcome.numbers()
        wrong = ""
        if not math.isfinite(norm):
            overflowed = has_overflowed(norm, *scales)
            wrong = self._what_is_wrong(launched.loss, norm, has_overflowed=overflowed)
        if not wrong:
            self.losses = self.losses + launched.loss
            return []
        done = self.progress
        self.progress = replace(
            done, bad_steps=done.bad_steps + 1, epoch_bad_steps=done.epoch_bad_steps + 1
        )
        number, (step, rate, positions, *_) = self.progress.bad_steps, launched
        return [BadStep(number, step, wrong, rate, positions)]

    def _what_is_wrong(self, loss: Tensor, norm: float, *, has_overflowed: bool) -> str:
        """Describe what is not finite on any rank; "" if only the loss scale was too high."""
        losses = gather_rows(loss.reshape(1), self._workers).ravel().tolist()
        bad = [rank for rank, loss in enumerate(losses) if not math.isfinite(loss)]
        if not bad:
            return "" if has_overflowed else f"the gradients' norm is {norm}"
        if self._workers == 1:
            return f"the loss is {losses[0]}"
        return ", ".join(f"the loss of rank {rank} is {losses[rank]}" for rank in bad)

    def end_epoch(self) -> None:
        self.progress = replace(
            self.progress, epochs=self.progress.epochs + 1, epoch_steps=0, epoch_bad_steps=0
        )

    def judge(self, accuracy: float) -> None:
        """Update the plateau by an epoch's primary metric, the same on every rank."""
        optim = self._settings.optim
        patience = optim.patience if optim.schedule == "plateau" else math.inf
        self.plateau = self.plateau.after(accuracy, patience)

    @property
    def is_over(self) -> bool:
        """Whether all epochs are done, or the run ends early. The same on every rank."""
        return self._settings.optim.is_over(self.progress.epochs, self.plateau.epochs_since)

    def average_statistics(self) -> None:
        """Give every rank the mean BatchNorm statistics, as evaluation needs them.

        Each rank's own cover only its samples. Broadcasting one rank's at every step, as DDP
        would, waits for the slowest rank and uses less data. Every rank must call it.
        """
        all_reduce_mean(self._statistics(), self._workers)

    def network_of(self, weights: Weights) -> nn.Module:
        """Return the network to evaluate. auto: the one that gives the primary metric."""
        if weights == "raw" or self._updater.average is None:
            return self.network
        return self._updater.average.network

    def snapshot(
        self, metrics: dict[str, float], extras: Mapping[str, bytes] | None = None
    ) -> Snapshot | None:
        """Copy everything for a checkpoint on rank 0, which writes it; None on other ranks.

        `extras` are further files by name. The copied weights have the mean of the ranks' BatchNorm
        statistics; each rank's own are kept beside them. Changes no rank's state. Every rank must
        call it.
        """
        assert self._launched is None, "settled before a checkpoint"
        ranks = gather_rows(self._rank_row(), self._workers)
        if self._rank != 0:
            return None
        ranks = ranks.cpu()
        snapshot = take_snapshot(
            self.network,
            CheckpointMetadata(
                settings=self._settings,
                joint_set=self._joint_set,
                progress=self.progress,
                metrics=metrics,
                plateau=self.plateau,
                data=self._checksums,
                crop=self._crop,
            ),
            average=None if self._updater.average is None else self._updater.average.network,
            optimizer=self._updater.optimizer,
            scaler=self._updater.scaler,
            ranks=ranks,
        )
        names = [name for name, b in self.network.named_buffers() if b.is_floating_point()]
        copies = [copy for copy in (snapshot.weights, snapshot.average) if copy is not None]
        spread(ranks.mean(0)[1:], [copy[name] for copy in copies for name in names])
        return replace(snapshot, extras=extras or {})

    def start(self) -> None:
        """Take the weights of `model.start`, if it is set. Raises ValueError as `plan_start`."""
        if not self._settings.model.start:
            return
        folder = find_local(self._settings.model.start, scratch=self._settings.ray.scratch)
        if folder is None:
            raise ValueError(f"model.start={self._settings.model.start!r}: no such checkpoint here")
        start = plan_start(folder, self._settings.model, self._joint_set)
        start.load(self.network)
        if self._updater.average is not None:
            self._updater.average.network.load_state_dict(self.network.state_dict())

    def restore(self, folder: Path) -> CheckpointMetadata:
        """Load a checkpoint and return its metadata.

        If as many workers wrote it, each takes its own BatchNorm statistics; otherwise all take
        the mean. Raises ValueError if it is damaged or does not fit, as `check_resumable`.
        """
        metadata = read_metadata(folder)
        check_resumable(folder, metadata, self._settings, self._joint_set)
        load_weights(folder, self.network)
        if self._updater.average is not None:
            # If the average was turned on since, it starts from the weights.
            load_weights(folder, self._updater.average.network, "auto")
        ranks = load_training(folder, self._updater.optimizer, self._updater.scaler)
        self._updater.restored()
        self._launched = None
        if ranks is not None:
            self.losses.copy_(ranks[:, 0].mean())
            if len(ranks) == self._workers and ranks.shape[1] == len(self._rank_row()):
                self.losses.copy_(ranks[self._rank, 0])
                spread(ranks[self._rank, 1:].to(self._device), self._statistics())
        self.progress, self.plateau = metadata.progress, metadata.plateau
        return metadata

    def _statistics(self) -> list[Tensor]:
        """Return the BatchNorm statistics of this rank: the network's, then the average's."""
        average = self._updater.average
        networks = [self.network] + ([] if average is None else [average.network])
        return [b for network in networks for b in network.buffers() if b.is_floating_point()]

    def _rank_row(self) -> Tensor:
        """Return what differs between ranks as one row: the epoch's loss sum, and statistics."""
        return torch.cat([self.losses.reshape(1)] + [b.ravel() for b in self._statistics()])
