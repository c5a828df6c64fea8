"""How training samples are varied."""

from dataclasses import dataclass

import numpy as np

from pipeline.settings import DataSettings


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How one sample is varied: frame enlarged by `zoom`, image turned and mirrored, channels multiplied."""

    zoom: float = 1.0
    rotation_deg: float = 0.0
    mirrored: bool = False
    gains: tuple[float, float, float] = (1.0, 1.0, 1.0)


def draw_augmentation(settings: DataSettings, epoch: int, position: int) -> Augmentation:
    """Draw a sample's augmentation, a pure function of seed, epoch and position.

    The distributions are those of the authors' code: 2 to the power of a
    clipped normal for the scale, a clipped normal for the angle.
    """
    random = np.random.default_rng([settings.seed, epoch, position])
    octaves, turn = random.standard_normal(2).clip(-2, 2)
    rotated, flipped = random.random(2) < (settings.rotation_share, settings.flip_share)
    low, high = 1 - settings.color_jitter, 1 + settings.color_jitter
    red, green, blue = random.uniform(low, high, 3).tolist()
    return Augmentation(
        zoom=float(2 ** (octaves * settings.scale_jitter)),
        rotation_deg=float(turn * settings.rotation_deg) if rotated else 0.0,
        mirrored=bool(flipped),
        gains=(red, green, blue),
    )


def reach(settings: DataSettings) -> float:
    """Side of the square around the centre, over the frame's, that augmentation can want pixels of."""
    zoom = 2 ** (2 * settings.scale_jitter)
    turn = np.deg2rad(min(45.0, 2 * settings.rotation_deg) if settings.rotation_share else 0.0)
    return float(zoom * (np.cos(turn) + np.sin(turn)))
