"""Named settings: networks and recipes that have been published, by the name that `--preset` knows."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pipeline.plain_data import did_you_mean
from pipeline.recipes import MODERN, NEWELL2016


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
        settings=dict(NEWELL2016),
    ),
    "modern": Preset(
        what="a recipe from later work: AdamW, warm-up, cosine, averaged weights, masked joints, DARK",
        settings=dict(MODERN),
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
