"""How a small network learns a fixed task in one precision and another."""

import time
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import torch

from pipeline.settings import ModelSettings, OptimSettings
from pipeline.shards.batch import Batch
from pipeline.training import (
    build_network,
    build_optimizer,
    build_scaler,
    train_step,
    training_dtype,
)

MODEL = ModelSettings(stacks=1, features=32, order=3, joints=4, input_px=64)
_COLOURS = ((255, 60, 60), (60, 255, 60), (60, 60, 255), (255, 255, 60))
_PICTURES, _BATCH = 256, 16
# Losses are told as means over so many steps.
WINDOW = 20


def learning_curves(
    precisions: tuple[str, ...], device: torch.device, windows: int
) -> dict[str, Any]:
    """Losses of the same network on the same batches in each precision, and when each reached one loss.

    That loss is what the first of them has after three quarters of its steps. The
    precisions take turns, so that their seconds compare.
    """
    pictures = discs()
    pupils = {name: _Pupil(name, device) for name in precisions}
    for start in range(0, windows * WINDOW, WINDOW):
        for pupil in pupils.values():
            pupil.learn(pictures, start, device)
    goal = pupils[precisions[0]].losses[max(0, windows * 3 // 4 - 1)]
    return {
        "task": f"{_PICTURES} pictures of {MODEL.input_px} px with {MODEL.joints} discs to find",
        "steps": [(window + 1) * WINDOW for window in range(windows)],
        "loss": {name: pupil.losses for name, pupil in pupils.items()},
        "seconds": {name: pupil.seconds for name, pupil in pupils.items()},
        "goal": goal,
        "reached": {name: pupil.reached(goal) for name, pupil in pupils.items()},
    }


@dataclass
class _Pupil:
    """A network that learns; `seconds` are those of training alone, after each window."""

    precision: str
    device: torch.device
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        settings = {"optimizer": "adamw", "learning_rate": 2e-3, "target_peak": 10.0}
        self._optim = OptimSettings(**settings | {"precision": self.precision})  # type: ignore[arg-type]
        self._network = build_network(MODEL, 0, self.device)
        self._optimizer = build_optimizer(self._network, self._optim)
        self._dtype = training_dtype(self._optim, self.device)
        self._scaler = build_scaler(self._dtype, self.device)

    def learn(self, pictures: Batch, start: int, device: torch.device) -> None:
        began = time.perf_counter()
        losses = []
        for step in range(start, start + WINDOW):
            rows = np.random.default_rng(step).permutation(_PICTURES)[:_BATCH]
            losses.append(
                train_step(
                    self._network,
                    self._optimizer,
                    pictures.rows(rows),
                    self._optim,
                    device,
                    self._dtype,
                    self._scaler,
                ).loss
            )
        self.losses.append(float(torch.stack(losses).mean()))
        before = self.seconds[-1] if self.seconds else 0.0
        self.seconds.append(before + time.perf_counter() - began)

    def reached(self, goal: float) -> dict[str, float] | None:
        """Steps and seconds until the loss was as low as `goal`; None: never."""
        for window, loss in enumerate(self.losses):
            if loss <= goal:
                return {"steps": (window + 1) * WINDOW, "seconds": self.seconds[window]}
        return None


def discs() -> Batch:
    """Pictures of noise with a disc in each joint's colour, whose centre is the joint."""
    random = np.random.default_rng(0)
    side = MODEL.input_px
    pixels = random.integers(0, 200, (_PICTURES, side, side, 3), np.uint8)
    places = random.integers(6, side - 6, (_PICTURES, MODEL.joints, 2))
    for picture, joints in zip(pixels, places.tolist(), strict=True):
        for (x, y), colour in zip(joints, _COLOURS, strict=True):
            cv2.circle(picture, (x, y), 5, colour, thickness=-1)
    heatmap_pixels = (places.astype(np.float32) + 0.5) / 4 - 0.5
    return Batch(
        images=torch.from_numpy(pixels),
        joints=torch.from_numpy(heatmap_pixels),
        annotated=torch.ones(_PICTURES, MODEL.joints, dtype=torch.bool),
        gains=torch.ones(_PICTURES, 3),
        positions=np.arange(_PICTURES),
    )
