"""One training step, and what it needs; knows neither Ray nor MLflow."""

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pipeline.data.batch import Batch, network_input
from pipeline.model.loss import batch_loss
from pipeline.model.network import Heatmaps
from pipeline.pose.shapes import Float
from pipeline.settings import OptimSettings


def build_optimizer(network: nn.Module, settings: OptimSettings) -> torch.optim.Optimizer:
    """Create the optimizer that the settings name; AdamW takes one kernel for all weights on a GPU."""
    if settings.optimizer == "adamw":
        on_gpu = next(network.parameters()).is_cuda
        return torch.optim.AdamW(
            _decayed_apart(network, settings.weight_decay),
            lr=settings.learning_rate,
            # On CPU it was measured to gain nothing.
            fused=True if on_gpu else None,
        )
    return torch.optim.RMSprop(
        network.parameters(),
        lr=settings.learning_rate,
        alpha=0.99,
        eps=1e-8,
        weight_decay=settings.weight_decay,
    )


def _decayed_apart(network: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Parameter groups: the kernels of convolutions decay; norms and biases, which hold scales, do not."""
    weights = list(network.parameters())
    if not decay:
        # One group in the network's order is what earlier runs have stored.
        return [{"params": weights, "weight_decay": 0.0}]
    return [
        {"params": [w for w in weights if w.dim() == 4], "weight_decay": decay},
        {"params": [w for w in weights if w.dim() != 4], "weight_decay": 0.0},
    ]


def build_scaler(dtype: torch.dtype, device: torch.device) -> torch.amp.GradScaler:
    """Create what scales the loss, lest small gradients vanish in fp16; in other formats it does nothing."""
    return torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)


class Step(NamedTuple):
    """What came of a step: its loss, on the device, and the norm of all its gradients.

    The weights were moved only if the norm is finite, and it is not where the
    loss is not. `has_overflowed`: no more than the loss was scaled too high,
    which in fp16 is how its scale is found.
    """

    loss: Tensor
    norm: float
    has_overflowed: bool = False

    @property
    def is_taken(self) -> bool:
        """Whether weights and optimizer were moved."""
        return math.isfinite(self.norm)


def train_step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    settings: OptimSettings,
    device: torch.device,
    dtype: torch.dtype,
    scaler: torch.amp.GradScaler | None = None,
    share: float = 1.0,
) -> Step:
    """Take one step on a batch, unless its loss or a gradient is not finite.

    Ranks that train together come to the same norm, and so move or leave their
    weights together, whichever of them had the loss. BatchNorm's statistics
    have moved in any case.

    With `optim.accumulate` the loss is the mean of the parts' losses: the
    batch's own where every joint is trained, else that of as many workers.
    `share` is what the loss counts among those of the ranks, whose gradients are
    averaged: 1 where all have as many samples. `scaler` is needed in fp16.
    """
    scaler = scaler or build_scaler(torch.float32, device)
    optimizer.zero_grad(set_to_none=True)
    losses, size = [], math.ceil(len(batch) / settings.accumulate)
    for start in range(0, len(batch), size):
        part, is_last = batch.rows(slice(start, start + size)), start + size >= len(batch)
        # Ranks need each other's gradients once a step.
        with nullcontext() if is_last else _alone(network):
            # No weight is used twice, so autocast need not hold on to its copies.
            reduced = dtype is not torch.float32
            with torch.autocast(device.type, dtype, enabled=reduced, cache_enabled=False):
                heatmaps: Heatmaps = network(network_input(part, device))
            loss = batch_loss(heatmaps, part.joints, part.annotated, settings) * (
                share * len(part) / len(batch)
            )
            scaler.scale(loss).backward(_nan_unless_finite(loss))
        losses.append(loss.detach())
    scaler.unscale_(optimizer)
    norm = _clipped(optimizer, settings.clip_norm)
    if math.isfinite(norm):
        # Not through the scaler, which would ask the device once more whether all is finite.
        optimizer.step()
        scaler.update()
        return Step(torch.stack(losses).sum(), norm)
    scale = scaler.get_scale()
    scaler.update()
    # Below 1 the loss would be made smaller than it is, and still overflow.
    has_overflowed = scale > scaler.get_scale() >= 1
    return Step(torch.stack(losses).sum(), norm, has_overflowed)


def _nan_unless_finite(loss: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """What the backward pass starts from: 1, but NaN where the loss is not finite.

    So every weight's gradient shows it, on the ranks that average theirs with this one too.
    """
    value = loss.detach()
    return torch.ones_like(value).where(value.isfinite(), torch.nan)


def _clipped(optimizer: torch.optim.Optimizer, longest: float) -> float:
    """Shorten all gradients together to a norm of `longest`, 0: not at all; return the norm that they had."""
    # The optimizer's list: walking through the network's modules takes longer than the norm itself.
    weights = [w for group in optimizer.param_groups for w in group["params"]]
    # One sweep, without torch's own sorting by device, which takes as long again on small networks.
    norm = torch.stack(torch._foreach_norm([w.grad for w in weights if w.grad is not None])).norm()
    if longest:
        nn.utils.clip_grads_with_norm_(weights, longest, norm)
    return float(norm)


def _alone(network: nn.Module) -> AbstractContextManager[None]:
    """Keep a DDP network's gradients to this rank."""
    # A compiled network has the attributes of the one that it wraps, whose type it hides.
    alone: AbstractContextManager[None] = getattr(network, "no_sync", nullcontext)()
    return alone


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate of the next steps."""
    for group in optimizer.param_groups:
        group["lr"] = rate
