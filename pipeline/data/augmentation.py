"""Augmentation of training samples, drawn from seed, epoch and position."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, UInt64

from pipeline.pose.shapes import Positions
from pipeline.settings import DataSettings

# SplitMix64's step, the golden ratio's digits.
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """One sample's augmentation: the frame's zoom, the image's turn, mirroring and colour gains."""

    zoom: float = 1.0
    rotation_deg: float = 0.0
    mirrored: bool = False
    gains: tuple[float, float, float] = (1.0, 1.0, 1.0)


def draw_augmentations(
    settings: DataSettings, epoch: int, positions: Positions
) -> list[Augmentation]:
    """Draw each sample's augmentation, a pure function of seed, epoch and its position.

    The distributions are those of the authors' code: 2 to the power of a clipped normal for the
    scale, a clipped normal for the angle.
    """
    first, second, rotated, flipped, *channels = _uniforms(settings.seed, epoch, positions, 7)
    # Box and Muller (1958): two normals of two uniforms, the first above 0.
    radius, angle = np.sqrt(-2 * np.log(1 - first)), 2 * np.pi * second
    octaves, turns = (radius * part(angle) for part in (np.cos, np.sin))
    zooms = 2 ** (octaves.clip(-2, 2) * settings.scale_jitter)
    rotations = turns.clip(-2, 2) * settings.rotation_deg * (rotated < settings.rotation_share)
    gains = 1 + settings.color_jitter * (2 * np.stack(channels, axis=1) - 1)
    return [
        Augmentation(zoom=zoom, rotation_deg=rotation, mirrored=mirrored, gains=(red, green, blue))
        for zoom, rotation, mirrored, (red, green, blue) in zip(
            zooms.tolist(),
            rotations.tolist(),
            (flipped < settings.flip_share).tolist(),
            gains.tolist(),
            strict=True,
        )
    ]


def _uniforms(
    seed: int, epoch: int, positions: Positions, count: int
) -> Float64[np.ndarray, "draw _sample"]:
    """Draw `count` numbers from 0 up to 1 for each position.

    SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) draws all at once: a NumPy generator for each
    sample would take a fortieth of its time to load.
    """
    state = np.array([seed], np.uint64)
    for part in (np.array([epoch]), positions):
        state = _mixed(state + _GOLDEN) + part.astype(np.uint64)
    draws = np.arange(1, count + 1, dtype=np.uint64)[:, None] * _GOLDEN
    return (_mixed(_mixed(state + _GOLDEN) + draws) >> np.uint64(11)) * 2.0**-53


def _mixed(z: UInt64[np.ndarray, "*rest"]) -> UInt64[np.ndarray, "*rest"]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def reach(settings: DataSettings) -> float:
    """Return the side of the square that augmentation can read from, over the frame's side."""
    zoom = 2 ** (2 * settings.scale_jitter)
    turn = np.deg2rad(min(45.0, 2 * settings.rotation_deg) if settings.rotation_share else 0.0)
    return float(zoom * (np.cos(turn) + np.sin(turn)))
