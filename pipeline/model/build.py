"""Build the network, lay out its weights, compile it, and choose its number format."""

import os
import shutil

import torch
from torch import nn

from pipeline.model.hourglass import StackedHourglass
from pipeline.settings import ModelSettings, OptimSettings

# Values of ONEDNN_MAX_CPU_ISA without bf16: oneDNN's documentation, "CPU Dispatcher Control".
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


def training_dtype(settings: OptimSettings, device: torch.device) -> torch.dtype:
    """Number format of the network in training; auto: bf16 only where the device multiplies it natively."""
    if settings.precision == "fp32":
        return torch.float32
    if settings.precision == "fp16":
        return torch.float16
    if settings.precision == "bf16" or _multiplies_bf16(device):
        return torch.bfloat16
    return torch.float32


def _multiplies_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # oneDNN, which runs the convolutions, may be restricted to less than the processor has. It
    # then emulates bf16, 2 to 10 times slower than fp32.
    if os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in _ISAS_WITHOUT_BF16:
        return False
    flags = torch.cpu.get_capabilities()
    return bool(flags.get("avx512_bf16") or flags.get("amx_bf16"))
