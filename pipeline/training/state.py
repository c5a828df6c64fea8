"""The state of training: the network, its moving average, the optimizer, and progress."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.data.batch import Batch
from pipeline.model.build import build_network, compiled, training_dtype
from pipeline.pose.joint_sets import JointSet
from pipeline.run.checkpoint import Snapshot, Weights, load_training, load_weights, take_snapshot
from pipeline.run.metadata import (
    CheckpointMetadata,
    Plateau,
    Progress,
    check_resumable,
    read_metadata,
)
from pipeline.run.start import plan_start
from pipeline.settings import Settings
from pipeline.settings.packing import CropSettings
from pipeline.training.distributed import all_reduce_mean, gather_rows, parallel
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
            # Only training: evaluation has batches of other sizes.
            self.parallel = compiled(self.parallel, device, optim.accumulate)
        self._running = RunningStatistics(self.network)
        self.progress = Progress()
        # Sum of this rank's losses over the epoch's good steps, on the device.
        self.losses = torch.zeros((), device=device)
        self.plateau = Plateau()

    def step(self, batch: Batch, samples_in_all: int) -> tuple[Tensor, float, str]:
        """Take a step on this rank's share of a batch.

        Returns the mean loss of the epoch's good steps (on the device), the learning rate, and for
        a bad step the reason. A bad step changes nothing but the progress, on any rank.
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
            self._workers,
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
        """Describe what is not finite on any rank; "" if only the loss scale was too high."""
        losses = gather_rows(step.loss.reshape(1), self._workers).ravel().tolist()
        bad = [rank for rank, loss in enumerate(losses) if not math.isfinite(loss)]
        if not bad:
            return "" if step.has_overflowed else f"the gradients' norm is {step.norm}"
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

    def average_statistics(self) -> None:
        """Give every rank the mean BatchNorm statistics, as evaluation needs them.

        Each rank's own cover only its samples. Broadcasting one rank's at every step, as DDP
        would, waits for the slowest rank and uses less data. Every rank must call it.
        """
        all_reduce_mean(self._statistics(), self._workers)

    def network_of(self, weights: Weights) -> nn.Module:
        """Return the network to evaluate. auto: the one that gives the primary metric."""
        if weights == "raw" or self._average is None:
            return self.network
        return self._average.network

    def snapshot(
        self, metrics: dict[str, float], extras: Mapping[str, bytes] | None = None
    ) -> Snapshot:
        """Copy everything for a checkpoint, with `extras` as further files by name.

        The copied weights have the mean of the ranks' BatchNorm statistics; each rank's own are
        kept beside them. Changes no rank's state. Every rank must call it.
        """
        ranks = gather_rows(self._rank_row(), self._workers).cpu()
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
            average=None if self._average is None else self._average.network,
            optimizer=self._optimizer,
            scaler=self._scaler,
            ranks=ranks,
        )
        names = [name for name, b in self.network.named_buffers() if b.is_floating_point()]
        copies = [copy for copy in (snapshot.weights, snapshot.average) if copy is not None]
        _spread(ranks.mean(0)[1:], [copy[name] for copy in copies for name in names])
        return replace(snapshot, extras=extras or {})

    def start(self) -> None:
        """Take the weights of `model.start`, if it is set. Raises ValueError as `plan_start`."""
        folder = self._settings.model.start
        if not folder:
            return
        start = plan_start(Path(folder), self._settings.model, self._joint_set)
        start.load(self.network)
        if self._average is not None:
            self._average.network.load_state_dict(self.network.state_dict())

    def restore(self, folder: Path) -> CheckpointMetadata:
        """Load a checkpoint and return its metadata.

        If as many workers wrote it, each takes its own BatchNorm statistics; otherwise all take
        the mean. Raises ValueError if it is damaged or does not fit, as `check_resumable`.
        """
        metadata = read_metadata(folder)
        check_resumable(folder, metadata, self._settings, self._joint_set)
        load_weights(folder, self.network)
        if self._average is not None:
            # If the average was turned on since, it starts from the weights.
            load_weights(folder, self._average.network, "auto")
        ranks = load_training(folder, self._optimizer, self._scaler)
        if ranks is not None:
            self.losses.copy_(ranks[:, 0].mean())
            if len(ranks) == self._workers and ranks.shape[1] == len(self._rank_row()):
                self.losses.copy_(ranks[self._rank, 0])
                _spread(ranks[self._rank, 1:].to(self._device), self._statistics())
        self.progress, self.plateau = metadata.progress, metadata.plateau
        return metadata

    def _statistics(self) -> list[Tensor]:
        """Return the BatchNorm statistics of this rank: the network's, then the average's."""
        networks = [self.network] + ([] if self._average is None else [self._average.network])
        return [b for network in networks for b in network.buffers() if b.is_floating_point()]

    def _rank_row(self) -> Tensor:
        """Return what differs between ranks as one row: the epoch's loss sum, and statistics."""
        return torch.cat([self.losses.reshape(1)] + [b.ravel() for b in self._statistics()])


def _spread(row: Tensor, tensors: list[Tensor]) -> None:
    """Copy consecutive pieces of a row into tensors."""
    pieces = row.split([tensor.numel() for tensor in tensors])
    for tensor, piece in zip(tensors, pieces, strict=True):
        tensor.copy_(piece.view_as(tensor))


class RunningStatistics:
    """A network's buffers with a copy of them, saved and restored in one sweep over memory.

    A forward pass updates them before its step is known to be good. A NaN would stay in them.
    """

    def __init__(self, network: nn.Module) -> None:
        # Listed once: walking through the modules takes longer than copying. Grouped by dtype,
        # because one sweep handles one.
        by_dtype: dict[torch.dtype, list[Tensor]] = {}
        for buffer in network.buffers():
            by_dtype.setdefault(buffer.dtype, []).append(buffer)
        self._live = list(by_dtype.values())
        self._kept = [[torch.empty_like(buffer) for buffer in group] for group in self._live]

    def keep(self) -> None:
        for kept, live in zip(self._kept, self._live, strict=True):
            torch._foreach_copy_(kept, live)

    def put_back(self) -> None:
        """Restore the buffers to the last `keep`."""
        for kept, live in zip(self._kept, self._live, strict=True):
            torch._foreach_copy_(live, kept)
