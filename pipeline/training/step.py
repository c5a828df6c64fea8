"""One training step, with its optimizer and loss scaler. Knows neither Ray nor MLflow."""

import inspect
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pipeline.data.batch import Batch, network_input
from pipeline.model.arithmetic import arithmetic, fp32_of
from pipeline.model.loss import batch_loss, trained_joints
from pipeline.model.network import Heatmaps
from pipeline.pose.geometry import STRIDE
from pipeline.pose.shapes import Float, Int64
from pipeline.settings import OptimSettings
from pipeline.training.deferred import Backup
from pipeline.training.distributed import start_sum

# Takes images and the student's prediction; returns heatmaps (batch, joint, height, width) as a
# target of the student, without a gradient.
Teach = Callable[[Tensor, Heatmaps], Tensor]


def build_optimizer(network: nn.Module, settings: OptimSettings) -> torch.optim.Optimizer:
    """Create the configured optimizer. On a GPU AdamW is fused: one kernel for all weights."""
    on_gpu = next(network.parameters()).is_cuda
    if settings.optimizer == "adamw":
        return _direct(torch.optim.AdamW)(
            _decayed_apart(network, settings.weight_decay),
            lr=settings.learning_rate,
            # On CPU, fusing measured no faster.
            fused=True if on_gpu else None,
        )
    return _direct(torch.optim.RMSprop)(
        network.parameters(),
        lr=settings.learning_rate,
        alpha=0.99,
        eps=1e-8,
        weight_decay=settings.weight_decay,
        # Counts its steps on the GPU, instead of one by one for each weight on the CPU.
        capturable=on_gpu,
    )


def _direct(kind: type[torch.optim.Optimizer]) -> Any:
    """Return the kind of optimizer with methods that do not load torch's compiler.

    torch wraps them for code that is compiled, which no optimizer is here. The first call of a
    wrapper loads the compiler: two seconds before the first step.
    """
    methods = {
        name: inspect.unwrap(method)
        for name, method in inspect.getmembers(kind, inspect.isfunction)
        if hasattr(method, "__wrapped__")
    }
    methods["step"] = torch.no_grad()(methods["step"])
    return type(kind.__name__, (kind,), methods)


def _decayed_apart(network: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Return parameter groups: convolution kernels decay; norms and biases, as scales, don't."""
    weights = list(network.parameters())
    if not decay:
        # Checkpoints of runs without decay have one group, in the network's order.
        return [{"params": weights, "weight_decay": 0.0}]
    return [
        {"params": [w for w in weights if w.dim() == 4], "weight_decay": decay},
        {"params": [w for w in weights if w.dim() != 4], "weight_decay": 0.0},
    ]


def build_scaler(dtype: torch.dtype, device: torch.device) -> torch.amp.GradScaler:
    """Create the loss scaler, which keeps small gradients in fp16; disabled for other dtypes."""
    return torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)


class Step(NamedTuple):
    """The result of a step, on the device: its loss, and the norm of all gradients.

    The weights were updated only if the norm is finite, which implies a finite loss. `scales` are
    the loss scale before and after. To read a value on a GPU is to wait for the step.
    """

    loss: Tensor
    norm: Tensor
    scales: tuple[Tensor, Tensor] | None = None

    @property
    def outcome(self) -> Tensor:
        """Loss, norm, and the scale before and after, in a row."""
        one = torch.ones_like(self.loss)
        before, after = self.scales or (one, one)
        return torch.stack([self.loss, self.norm.to(one), before.to(one), after.to(one)])

    @property
    def is_taken(self) -> bool:
        """Whether weights and optimizer were updated."""
        return math.isfinite(self.norm)

    @property
    def has_overflowed(self) -> bool:
        """Whether only the loss scale was too high; in fp16 it is found by overflow."""
        return has_overflowed(*self.outcome.tolist()[1:])


def has_overflowed(norm: float, before: float, after: float) -> bool:
    """Return whether a step was left out because the loss scale was too high.

    At a scale below 1 the scaled loss is smaller than the loss and still overflows.
    """
    return not math.isfinite(norm) and before > after >= 1


def train_step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    settings: OptimSettings,
    device: torch.device,
    dtype: torch.dtype,
    scaler: torch.amp.GradScaler | None = None,
    workers: int = 1,
    backup: Backup | None = None,
    teach: Teach | None = None,
) -> Step:
    """Take one step on a batch, unless its loss or a gradient is not finite.

    All ranks compute the same norm and so update or keep their weights together, whichever had the
    bad loss. BatchNorm's statistics change in any case.

    With a `backup` (see `backup_of`) the device decides, and the host does not wait for it.

    The mean over ranks and the sum over the parts of `optim.accumulate` is the loss of the whole
    batch, a mean over its trained joints, however they are divided. `scaler` is required in fp16.
    `teach` returns the heatmaps of the settings' teacher.
    """
    scaler = scaler or build_scaler(torch.float32, device)
    optimizer.zero_grad(set_to_none=True)
    with arithmetic(fp32_of(settings.precision), tries_kernels=True):
        loss = _backward(network, batch, settings, device, dtype, scaler, workers, teach)
    scaler.unscale_(optimizer)
    norm = _clipped(optimizer, settings.clip_norm)
    if backup is not None:
        _update_if(norm.isfinite(), optimizer, backup)
    elif math.isfinite(norm):
        # Not through the scaler, which would check on the device again whether all is finite.
        optimizer.step()
    return Step(loss, norm, _updated_scale(scaler))


def _backward(
    network: nn.Module,
    batch: Batch,
    settings: OptimSettings,
    device: torch.device,
    dtype: torch.dtype,
    scaler: torch.amp.GradScaler,
    workers: int,
    teach: Teach | None,
) -> Tensor:
    """Compute the gradients of a batch, part by part, and return its loss."""
    trained = _trained(batch, settings, device, is_taught=teach is not None)
    # On its way while the network computes.
    total = start_sum(trained.sum(), workers)
    losses, size = [], math.ceil(len(batch) / settings.accumulate)
    for start in range(0, len(batch), size):
        part, is_last = batch.rows(slice(start, start + size)), start + size >= len(batch)
        # Ranks exchange gradients once a step.
        with nullcontext() if is_last else without_exchange(network):
            # No weight is used twice, so autocast need not cache casts.
            reduced = dtype is not torch.float32
            with torch.autocast(device.type, dtype, enabled=reduced, cache_enabled=False):
                images = network_input(part, device)
                heatmaps: Heatmaps = network(images)
                taught = None if teach is None else teach(images, heatmaps)
            mean = batch_loss(heatmaps, part.joints, part.annotated, settings, taught)
            share = trained[start : start + size].sum() / total().clamp(min=1)
            loss = mean * share * workers
            # As backward()'s argument it would load torch's compiler, to have its shape checked.
            (scaler.scale(loss) * _nan_unless_finite(loss)).backward()
        losses.append(loss.detach())
    return torch.stack(losses).sum()


def backup_of(optimizer: torch.optim.Optimizer) -> Backup:
    """Return the backup that `train_step` needs, once the optimizer has its state.

    It is empty for a fused optimizer, which leaves out a bad step by itself.
    """
    if _is_fused(optimizer):
        return Backup(())
    weights = [w for group in optimizer.param_groups for w in group["params"]]
    moments = [value for state in optimizer.state.values() for value in state.values()]
    return Backup([*weights, *(value for value in moments if isinstance(value, Tensor))])


def _update_if(is_good: Tensor, optimizer: torch.optim.Optimizer, backup: Backup) -> None:
    """Update the weights if the device finds `is_good`; the host does not wait for it."""
    if _is_fused(optimizer):
        # Its kernel reads this, and changes nothing unless it is 0.
        optimizer.found_inf = (~is_good).float()  # type: ignore[attr-defined]
    backup.keep()
    optimizer.step()
    backup.put_back_unless(is_good)


def _is_fused(optimizer: torch.optim.Optimizer) -> bool:
    return all(group.get("fused") for group in optimizer.param_groups)


def _updated_scale(scaler: torch.amp.GradScaler) -> tuple[Tensor, Tensor] | None:
    """Update the loss scale; return it before and after, None if the loss is not scaled."""
    if not scaler.is_enabled():
        return None
    before = scaler._get_scale_async()
    assert before is not None
    before = before.clone()
    scaler.update()
    after = scaler._get_scale_async()
    assert after is not None
    return before, after.clone()


def _trained(
    batch: Batch, settings: OptimSettings, device: torch.device, *, is_taught: bool
) -> Int64[Tensor, " sample"]:
    """Return how many joints of each sample enter the loss, on the device."""
    joints = batch.joints.to(device, non_blocking=True)
    annotated = batch.annotated.to(device, non_blocking=True)
    size = batch.images.shape[1] // STRIDE
    return trained_joints(joints, annotated, size, settings, is_taught=is_taught).sum(dim=1)


def _nan_unless_finite(loss: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Return the initial gradient: 1, or NaN if the loss is not finite.

    NaN spreads to every weight's gradient, and by averaging to all ranks.
    """
    value = loss.detach()
    return torch.ones_like(value).where(value.isfinite(), torch.nan)


def _clipped(optimizer: torch.optim.Optimizer, longest: float) -> Float[Tensor, ""]:
    """Clip the norm of all gradients to `longest`, if not 0; return the norm before."""
    # From the optimizer: walking through the network's modules takes longer than the norm.
    weights = [w for group in optimizer.param_groups for w in group["params"]]
    # One sweep. Sorting by device, as torch's own does, doubles the time on small networks.
    norm = torch.stack(torch._foreach_norm([w.grad for w in weights if w.grad is not None])).norm()
    if longest:
        nn.utils.clip_grads_with_norm_(weights, longest, norm)
    return norm


def without_exchange(network: nn.Module) -> AbstractContextManager[None]:
    """Suspend the exchange of a DDP network's gradients; any other network has none."""
    suspended: AbstractContextManager[None] = getattr(network, "no_sync", nullcontext)()
    return suspended


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of the next steps."""
    for group in optimizer.param_groups:
        group["lr"] = rate
