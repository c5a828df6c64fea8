"""One training step, and what it needs; knows neither Ray nor MLflow."""

import math
import os
import shutil
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pipeline.network.heatmaps import is_drawn, render, rescale
from pipeline.network.hourglass import Heatmaps, StackedHourglass
from pipeline.network.loss import heatmap_cross_entropy, heatmap_mse
from pipeline.settings import ModelSettings, OptimSettings
from pipeline.shapes import Float, UInt8
from pipeline.shards.batch import Batch

# Environment of training processes. glibc hands large blocks back to the kernel after
# each step; taking them again costs up to half of a step on CPU. Read when a process starts.
KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
    # Memory of its own for each of an epoch's threads would let the process grow with epochs.
    "MALLOC_ARENA_MAX": "1",
}

# Values of ONEDNN_MAX_CPU_ISA, oneDNN's documentation, "CPU Dispatcher Control".
_ISAS_WITHOUT_BF16 = (
    *("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2"),
    *("AVX512_CORE", "AVX512_CORE_VNNI"),
)


def build_network(
    model: ModelSettings, seed: int, device: torch.device, *, zero_heads: bool = True
) -> StackedHourglass:
    """Create the network with the weights that `seed` gives, the same on every worker.

    With `zero_heads` the heads that predict heatmaps start at zero.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = StackedHourglass(model)
    if zero_heads:
        network.start_heads_at_zero()
    return channels_last(network.to(device))


def channels_last(network: StackedHourglass) -> StackedHourglass:
    """Lay the weights out as images come: convolutions then run 1.4-1.7 times as fast on CPU."""
    for parameter in network.parameters():
        if parameter.dim() == 4:
            # Not contiguous(): a 1x1 kernel counts as laid out already, with strides that
            # its gradient won't have, and DDP would copy between the two.
            laid_out = torch.empty_like(parameter.data, memory_format=torch.channels_last)
            parameter.data = laid_out.copy_(parameter.data)
    return network


def compiled(network: nn.Module, device: torch.device, parts: int) -> nn.Module:
    """Return the network to train through torch.compile, with the same weights; `network` stays as it is.

    On a GPU whole passes become CUDA graphs, which start no kernels one by one,
    unless a batch comes in `parts`: gradients that add up would lie in a graph's
    memory, which its next run overwrites. On CPU the code is C++: raises
    ValueError where there is no compiler for it.
    """
    if device.type == "cpu":
        _check_compiler()
        # With them torch 2.13 frees a buffer of the bf16 network's backward pass before its last use.
        made = torch.compile(network, options={"inplace_buffers": False})
    else:
        made = torch.compile(network, mode="reduce-overhead" if parts == 1 else None)
    assert isinstance(made, nn.Module)
    return made


def _check_compiler() -> None:
    # The one that torch takes.
    name = os.environ.get("CXX", "g++")
    if shutil.which(name) is None:
        raise ValueError(
            f"optim.compile must be False on CPU without a C++ compiler: there is no {name!r}"
        )


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


def training_dtype(settings: OptimSettings, device: torch.device) -> torch.dtype:
    """Number format of the network in training; auto: bf16 only where the device multiplies it natively."""
    if settings.precision == "fp32":
        return torch.float32
    if settings.precision == "fp16":
        return torch.float16
    if settings.precision == "bf16" or _multiplies_bf16(device):
        return torch.bfloat16
    return torch.float32


def build_scaler(dtype: torch.dtype, device: torch.device) -> torch.amp.GradScaler:
    """Create what scales the loss, lest small gradients vanish in fp16; in other formats it does nothing."""
    return torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)


def _multiplies_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # oneDNN, which runs the convolutions, may be kept from what the processor has: bf16 then is
    # emulated, 2 to 10 times slower than fp32.
    if os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in _ISAS_WITHOUT_BF16:
        return False
    flags = torch.cpu.get_capabilities()
    return bool(flags.get("avx512_bf16") or flags.get("amx_bf16"))


def network_input(batch: Batch, device: torch.device) -> Float[Tensor, "batch 3 input_px input_px"]:
    """Move images to the device and make them floats 0-1 there, colours varied by the batch's gains."""
    return scaled(batch.images, batch.gains, device)


def scaled(
    images: UInt8[Tensor, "batch input_px input_px 3"],
    gains: Float[Tensor, "batch 3"],
    device: torch.device,
) -> Float[Tensor, "batch 3 input_px input_px"]:
    """Move images to the device and make them floats 0-1 there, their colour channels multiplied by the gains."""
    # Height, width, channel in memory is what channels_last convolutions read.
    floats = images.to(device, non_blocking=True).permute(0, 3, 1, 2).float()
    factors = (gains / 255).to(device, non_blocking=True)[:, :, None, None]
    return (floats * factors).clamp_(0, 1)


def batch_loss(heatmaps: Heatmaps, batch: Batch, settings: OptimSettings) -> Float[Tensor, ""]:
    """Loss of a batch's supervised heatmaps, summed, against targets rendered on their device.

    A Gaussian is as wide in pixels on a smaller heatmap as on the output: any
    narrower it would fall between the pixels.
    """
    device, size = heatmaps.stacks.device, heatmaps.stacks.shape[-1]
    joints = batch.joints.to(device, non_blocking=True)
    annotated = batch.annotated.to(device, non_blocking=True)
    drawn = is_drawn(joints, annotated, size)
    trained = drawn if settings.missing_joints == "mask" else torch.ones_like(drawn)
    loss = heatmap_cross_entropy if settings.loss == "cross-entropy" else heatmap_mse
    losses = []
    for maps in heatmaps.supervised:
        side = maps.shape[-1]
        points = rescale(joints, side / size)
        target = render(points, annotated, side, settings.sigma_px, settings.target_peak)
        losses.append(loss(maps, target, trained))
    return torch.stack(losses).sum()


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
            loss = batch_loss(heatmaps, part, settings) * (share * len(part) / len(batch))
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
