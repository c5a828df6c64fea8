"""State that a training step changes: weights, average, optimizer, loss scale and statistics."""

import torch

from pipeline.data.batch import Batch
from pipeline.model.build import compile_training, training_dtype
from pipeline.model.network import PoseNetwork
from pipeline.settings import OptimSettings
from pipeline.training.deferred import Backup
from pipeline.training.distributed import parallel
from pipeline.training.ema import WeightAverage
from pipeline.training.step import Step, Teach, backup_of, build_optimizer, build_scaler, train_step


class Updater:
    """Takes the steps of a network on a device; a bad one changes nothing.

    A GPU would idle while the host reads what became of a step. So it judges its steps itself, from
    the second on, and `is_late` says that the host is to read them after the next one.
    """

    def __init__(
        self,
        network: PoseNetwork,
        settings: OptimSettings,
        device: torch.device,
        workers: int = 1,
        teach: Teach | None = None,
    ) -> None:
        self.network, self._settings, self._teach = network, settings, teach
        self._device, self._workers = device, workers
        if settings.checkpointing:
            network.recompute_residuals()
        self.average = (
            WeightAverage(network, settings.ema_samples) if settings.ema_samples else None
        )
        if settings.compile:
            # After the average was copied, which is only evaluated.
            compile_training(network, device)
        self.optimizer = build_optimizer(network, settings)
        self._dtype = training_dtype(settings, device)
        self.scaler = build_scaler(self._dtype, device)
        self.parallel = parallel(network, device, sync_batchnorm=settings.sync_batchnorm)
        self._running = Backup(network.buffers())
        self.is_late = device.type == "cuda"
        self._backup: Backup | None = None

    def step(self, batch: Batch, samples: int) -> Step:
        """Take a step on this rank's share of a batch, the last of `samples` in all."""
        # The first step of an optimizer makes the state that a backup holds.
        if self.is_late and self._backup is None and self.optimizer.state:
            self._backup = backup_of(self.optimizer)
        self._running.keep()
        step = train_step(
            self.parallel,
            self.optimizer,
            batch,
            self._settings,
            self._device,
            self._dtype,
            self.scaler,
            self._workers,
            self._backup,
            self._teach,
        )
        size = self._settings.batch_size
        if self._backup is not None:
            is_good = step.norm.isfinite()
            self._running.put_back_unless(is_good)
            if self.average is not None:
                self.average.update(size, samples, is_good)
        elif not step.is_taken:
            self._running.put_back()
        elif self.average is not None:
            self.average.update(size, samples)
        return step

    def restored(self) -> None:
        """Note that the optimizer was loaded, whose state are other tensors now."""
        self._backup = None
