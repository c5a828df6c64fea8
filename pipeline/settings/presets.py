"""Named settings: networks and recipes that have been published, by the name that `--preset` knows."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pipeline.io.parsing import did_you_mean
from pipeline.settings import Scalar

# The authors' recipe: Newell, Yang and Deng, ECCV 2016, sections 3.1 and 3.2, and where the paper
# is silent their published Torch code (batch, length, target, colours, share of rotated samples).
NEWELL2016: dict[str, Scalar] = {
    "optim.optimizer": "rmsprop",
    "optim.learning_rate": 2.5e-4,
    "optim.rate_scaling": "none",
    "optim.warmup_samples": 0,
    "optim.weight_decay": 0.0,
    "optim.schedule": "plateau",
    # The paper gives no number.
    "optim.patience": 5,
    "optim.ema_samples": 0,
    "optim.batch_size": 6,
    # 100 times 8,000 steps of 6, in passes over MPII's 22,246 training people.
    "optim.epochs": 216,
    "optim.clip_norm": 0.0,
    "optim.sigma_px": 1.75,
    "optim.loss": "mse",
    "optim.target_peak": 1.0,
    "optim.zero_heads": False,
    "optim.missing_joints": "zero",
    "data.scale_jitter": 0.25,
    "data.rotation_deg": 30.0,
    "data.rotation_share": 0.4,
    "data.flip_share": 0.5,
    "data.color_jitter": 0.4,
    "evaluation.flip_test": True,
    "evaluation.decoding": "quarter",
}

# Findings of later work, combined. Not yet measured on MPII with the paper's network.
MODERN: dict[str, Scalar] = {
    # As RTMPose (Jiang et al., 2023, arXiv 2303.07399) trains: AdamW that spares norms and biases
    # its decay of 0.05, warm-up, a cosine, and an average of the weights.
    "optim.optimizer": "adamw",
    "optim.weight_decay": 0.05,
    "optim.schedule": "cosine",
    "optim.cosine_end": 0.0,
    # Half a pass and four and a half over MPII's 22,246 training people.
    "optim.warmup_samples": 10_000,
    "optim.ema_samples": 100_000,
    "optim.clip_norm": 0.0,
    # A start that is ours, between RTMPose's 4e-3 for 1,024 samples and what small networks take;
    # it follows the batch as Malladi et al. (NeurIPS 2022) derive for Adam.
    "optim.learning_rate": 1e-3,
    "optim.batch_size": 32,
    "optim.reference_batch": 32,
    "optim.rate_scaling": "sqrt",
    # Length, target, mask and rotation of the best plain hourglass on MPII that is published,
    # 90.5 PCKh where the authors' recipe gives 89.1 with the same network.
    "optim.epochs": 140,
    "optim.sigma_px": 2.0,
    "optim.missing_joints": "mask",
    "data.rotation_deg": 30.0,
    "data.rotation_share": 0.6,
    "data.scale_jitter": 0.25,
    # Plain MSE on a peak of 1 was seen to stay at all-zero heatmaps for long; on 10, from heads
    # that start at zero, it learned as fast as any loss that was compared.
    "optim.loss": "mse",
    "optim.target_peak": 10.0,
    "optim.zero_heads": True,
    "data.flip_share": 0.5,
    "data.color_jitter": 0.4,
    "evaluation.flip_test": True,
    # Zhang et al., CVPR 2020.
    "evaluation.decoding": "dark",
}


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Settings by dotted key, and a sentence that says what they are and where they are from."""

    what: str
    settings: dict[str, Any]


def _network(what: str, stacks: int, modules: int, supervision: str) -> Preset:
    return Preset(
        what=what,
        settings={
            "model.stacks": stacks,
            "model.modules": modules,
            "model.supervision": supervision,
        },
    )


# The networks that Newell et al. (ECCV 2016) compare in section 4.3 and figure 8, which spend
# about the same number of parameters on each.
PRESETS: dict[str, Preset] = {
    "paper": _network("the network of Newell et al.: 8 stacks of 1 module", 8, 1, "every-stack"),
    "hg": _network("their HG: 1 stack of 8 modules, supervised at its end", 1, 8, "last-stack"),
    "hg-int": _network("HG-Int: HG, supervised inside the hourglass too", 1, 8, "inside"),
    "hg-stacked": _network(
        "HG-Stacked: 2 stacks of 4 modules, supervised at the end alone", 2, 4, "last-stack"
    ),
    "hg-stacked-int": _network(
        "HG-Stacked-Int: HG-Stacked, supervised after both stacks", 2, 4, "every-stack"
    ),
    "newell2016": Preset(
        what="the recipe of Newell et al.: RMSprop, sigma 1.75, one drop on plateau, their augmentation",
        settings=NEWELL2016,
    ),
    "modern": Preset(
        what="a recipe from later work: AdamW, warm-up, cosine, averaged weights, masked joints, DARK",
        settings=MODERN,
    ),
}


def settings_of(names: Iterable[str]) -> dict[str, Any]:
    """Settings of presets by dotted key, later presets over earlier ones. Raises ValueError for an unknown name."""
    replaced: dict[str, Any] = {}
    for name in names:
        if name not in PRESETS:
            raise ValueError(
                f"--preset: unknown preset {name!r}{did_you_mean(name, PRESETS)}; "
                f"known are {', '.join(PRESETS)}"
            )
        replaced |= PRESETS[name].settings
    return replaced


def preset_help() -> str:
    """What `--help` says of the presets."""
    return "Named settings, replaced before any that are given here; later ones over earlier. " + (
        "; ".join(f"{name}: {preset.what}" for name, preset in PRESETS.items()) + "."
    )
