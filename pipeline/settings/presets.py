"""Presets: published networks and recipes, by the names that `--preset` accepts.

A recipe sets everything but the network, the data and the machine. It also names settings that
have their defaults, so that it overrides a recipe before it.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

from pipeline.io.parsing import did_you_mean
from pipeline.settings import Scalar, Supervision

# The recipe of Newell, Yang and Deng, ECCV 2016, sections 3.1 and 3.2. Where the paper is silent,
# their Torch code decides: batch size, epochs, target, colours, share of rotated samples.
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
    # Their 100 epochs of 8,000 steps of 6, as passes over MPII's 22,246 training people.
    "optim.epochs": 216,
    "optim.clip_norm": 0.0,
    "optim.loss": "mse",
    "optim.sigma_px": 1.75,
    "optim.target_px": 7,
    "optim.target_peak": 1.0,
    "optim.norm_weights": "uniform",
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
    # From RTMPose (Jiang et al., 2023, arXiv 2303.07399): AdamW without decay of norms and biases,
    # warm-up, a cosine, and an average of the weights.
    "optim.optimizer": "adamw",
    "optim.weight_decay": 0.05,
    "optim.schedule": "cosine",
    "optim.cosine_end": 0.0,
    # Half a pass, and four and a half passes, over MPII's 22,246 training people.
    "optim.warmup_samples": 10_000,
    "optim.ema_samples": 100_000,
    "optim.clip_norm": 0.0,
    # Our own choice, between RTMPose's 4e-3 for 1,024 samples and the rates of small networks. The
    # root is the scaling that Malladi et al. (NeurIPS 2022) derive for Adam.
    "optim.learning_rate": 1e-3,
    "optim.batch_size": 32,
    "optim.reference_batch": 32,
    "optim.rate_scaling": "sqrt",
    # Epochs, target, mask and rotation of the best published plain hourglass on MPII: 90.5 PCKh,
    # where the authors' recipe reaches 89.1 with the same network.
    "optim.epochs": 140,
    "optim.sigma_px": 2.0,
    "optim.missing_joints": "mask",
    "data.rotation_deg": 30.0,
    "data.rotation_share": 0.6,
    "data.scale_jitter": 0.25,
    # MSE with a peak of 1 can stay at all-zero heatmaps for long. With a peak of 10 and heads that
    # start at zero it learned as fast as any other loss in our comparison.
    "optim.loss": "mse",
    "optim.target_px": 0,
    "optim.target_peak": 10.0,
    "optim.norm_weights": "one",
    "optim.zero_heads": True,
    "data.flip_share": 0.5,
    "data.color_jitter": 0.4,
    "evaluation.flip_test": True,
    # Zhang et al., CVPR 2020.
    "evaluation.decoding": "dark",
}


class Preset(NamedTuple):
    """Settings by dotted key, and a phrase for `--help`."""

    summary: str
    settings: dict[str, Scalar]


def _network(stacks: int, modules: int, supervision: Supervision) -> dict[str, Scalar]:
    return {"model.stacks": stacks, "model.modules": modules, "model.supervision": supervision}


PRESETS = {
    # The networks that Newell et al. compare in section 4.3 and figure 8, with about the same
    # number of parameters each.
    "paper": Preset("the paper's network, 8 stacks of 1 module", _network(8, 1, "every-stack")),
    "hg": Preset("1 stack of 8 modules, supervised at its end", _network(1, 8, "last-stack")),
    "hg-int": Preset("hg, also supervised inside the hourglass", _network(1, 8, "inside")),
    "hg-stacked": Preset(
        "2 stacks of 4 modules, supervised at the end only", _network(2, 4, "last-stack")
    ),
    "hg-stacked-int": Preset(
        "hg-stacked, supervised after both stacks", _network(2, 4, "every-stack")
    ),
    "newell2016": Preset(
        "the paper's recipe: RMSprop, sigma 1.75 px, one drop on a plateau, their augmentation",
        NEWELL2016,
    ),
    "modern": Preset(
        "a recipe from later work: AdamW, warm-up, cosine, averaged weights, masked joints, DARK",
        MODERN,
    ),
}


# The presets that set everything but the network.
RECIPES = ("newell2016", "modern")


def settings_of(names: Iterable[str]) -> dict[str, Any]:
    """Return the settings of presets by dotted key, where later presets win.

    Raises ValueError for an unknown name.
    """
    settings: dict[str, Any] = {}
    for name in names:
        if name not in PRESETS:
            raise ValueError(
                f"--preset: unknown preset {name!r}{did_you_mean(name, PRESETS)}; "
                f"known are {', '.join(PRESETS)}"
            )
        settings |= PRESETS[name].settings
    return settings


def preset_help() -> str:
    """Return the help text of `--preset`."""
    presets = "; ".join(f"{name}: {preset.summary}" for name, preset in PRESETS.items())
    return f"Named settings; later presets and explicit settings win. {presets}."
