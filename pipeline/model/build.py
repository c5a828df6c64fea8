"""Networks: built, laid out in memory, compiled, and run in the number format of a device."""

import os
import shutil
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.model.hourglass import StackedHourglass
from pipeline.model.network import Heatmaps, PoseNetwork
from pipeline.settings import ModelSettings, NormWeights, OptimSettings

# Values of ONEDNN_MAX_CPU_ISA without bf16: oneDNN's documentation, "CPU Dispatcher Control".
_ISAS_WITHOUT_BF16 = (
    *("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2"),
    *("AVX512_CORE", "AVX512_CORE_VNNI"),
)
# Codes that torch.compile may make of one function before it gives up; its own limit is 8.
_CODES = 32
DTYPES = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


def build_network(
    model: ModelSettings,
    seed: int,
    device: torch.device,
    *,
    zero_heads: bool = True,
    norm_weights: NormWeights = "one",
) -> PoseNetwork:
    """Create the network with the weights that `seed` determines, the same on every worker.

    With `zero_heads` it starts with all-zero heatmaps; `norm_weights` is where BatchNorm's weights
    start. On the meta device it has no weights.
    """
    # Weights are drawn on the CPU, so only its generator is saved and seeded: to save a GPU's
    # would create a CUDA context on every GPU of the machine.
    drawn_on = torch.device("meta" if device.type == "meta" else "cpu")
    with torch.random.fork_rng(devices=[]), drawn_on:
        torch.default_generator.manual_seed(seed)
        network: PoseNetwork = StackedHourglass(model)
        if norm_weights == "uniform":
            for module in network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    nn.init.uniform_(module.weight)
    if zero_heads:
        network.start_heads_at_zero()
    network = network.to(device)
    # Laid out as images are: convolutions then run 1.4-1.7 times as fast on CPU.
    for parameter in network.parameters():
        if parameter.dim() == 4:
            # Not contiguous(): a 1x1 kernel counts as laid out already, with strides that
            # its gradient won't have, and DDP would copy between the two.
            laid_out = torch.empty_like(parameter.data, memory_format=torch.channels_last)
            parameter.data = laid_out.copy_(parameter.data)
    return network


def compile_training(network: PoseNetwork, device: torch.device) -> None:
    """Train the network through torch.compile, part by part; evaluation stays as it is.

    On CPU the code is C++. Raises ValueError if there is no compiler for it.
    """
    options: dict[str, Any] = {}
    if device.type == "cpu":
        # The compiler that torch calls.
        name = os.environ.get("CXX", "g++")
        if shutil.which(name) is None:
            raise ValueError(
                f"optim.compile must be False on CPU without a C++ compiler: there is no {name!r}"
            )
        # With them torch 2.13 frees a buffer of the bf16 network's backward pass too early.
        options["inplace_buffers"] = False
    # A residual of each size, and of the smaller last part with optim.accumulate, has its own code.
    torch._dynamo.config.recompile_limit = max(_CODES, torch._dynamo.config.recompile_limit)
    network.compile_parts(options)


def training_dtype(settings: OptimSettings, device: torch.device) -> torch.dtype:
    """Return the number format of training; "auto" is bf16 only where the device multiplies it."""
    if settings.precision == "auto":
        return torch.bfloat16 if _multiplies_bf16(device) else torch.float32
    return DTYPES[settings.precision]


def _multiplies_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # oneDNN, which runs the convolutions, may be restricted to less than the processor has. It
    # then emulates bf16, 2 to 10 times slower than fp32.
    if os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in _ISAS_WITHOUT_BF16:
        return False
    flags = torch.cpu.get_capabilities()
    return bool(flags.get("avx512_bf16") or flags.get("amx_bf16"))


def fastest(network: PoseNetwork, device: torch.device) -> nn.Module:
    """Return the network in its fastest form for prediction, as measured by `jobs.benchmark`.

    The network given is changed; use only the one returned.
    """
    if training_dtype(OptimSettings(precision="auto"), device) is torch.bfloat16:
        return Bf16Network(network)
    return network


class Bf16Network(nn.Module):
    """A network in evaluation mode whose convolutions compute in bf16, except the output head.

    The output head in bf16 would round neighbouring pixels to the same height, and the first of
    them would count as the maximum. Norms keep their statistics in fp32. The network given is
    changed and belongs to this one from then on.
    """

    def __init__(self, network: PoseNetwork) -> None:
        super().__init__()
        head = network.output_head()
        for module in network.modules():
            if isinstance(module, nn.Conv2d) and module is not head:
                module.to(torch.bfloat16)
        head.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))
        self.network = network.eval()

    def forward(self, images: Tensor) -> Heatmaps:
        heatmaps: Heatmaps = self.network(images.bfloat16())
        return heatmaps
