"""Learning curves: how soon each variant reaches the same loss on a small fixed task."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view

from jobs.benchmark.step.variants import Runner, Variant, synchronize
from jobs.benchmark.timing import order
from pipeline.data.batch import Batch
from pipeline.data.synthetic.scene import render_scene
from pipeline.pose.geometry import heatmap_from_input, input_from_original, transform
from pipeline.pose.person import Visibility

PEOPLE = 32
# A batch's loss depends on who is in it, so losses are means over this many steps.
SMOOTHING = 10
# The losses to reach are the first variant's lowest within these parts of its steps.
_PARTS = (0.5, 0.75, 1.0)
_UNITS = ("steps", "seconds")


def learning_curves(
    variants: Sequence[Variant], device: torch.device, steps: int, seeds: Sequence[int]
) -> dict[str, Any]:
    """Train one network on the same batches as each of the variants, from each seed.

    The variants alternate step by step, so that their seconds, which count training alone, compare.
    Each is compared with the first at several of the first one's losses: `over_first` has medians
    of how many times fewer steps and seconds it took, 0 where it never reached the loss.
    """
    first, pictures = variants[0], rendered_people(PEOPLE, variants[0].input_px)
    for variant in variants:
        # Warm up: what a device does once, such as choosing kernels, is not learning.
        Runner(variant, device).train()
    runs = [_run(variants, device, pictures, steps, seed) for seed in seeds]
    goals = [goal for run in runs for goal in run["goals"]]
    return {
        "task": (
            f"{PEOPLE} rendered people at {first.input_px} px, {first.stacks} stack, "
            f"batch {first.batch}, {steps} steps, {len(seeds)} seeds"
        ),
        "smoothed_over_steps": SMOOTHING,
        "over_first": {
            other.method: {
                unit: over_first(goals, first.method, other.method, unit) for unit in _UNITS
            }
            for other in variants[1:]
        },
        "runs": runs,
    }


def over_first(goals: Sequence[dict[str, Any]], first: str, other: str, unit: str) -> float:
    """Return the median over goals of how many times fewer steps or seconds than the first."""
    return statistics.median(
        goal["reached"][first][unit] / reached[unit] if (reached := goal["reached"][other]) else 0.0
        for goal in goals
    )


@dataclass(kw_only=True)
class Pupil:
    """A network in training: its loss, and its seconds of training, after each step."""

    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def learn(self, runner: Runner, batch: Batch, device: torch.device) -> None:
        began = time.perf_counter()
        loss = runner.train(batch)
        synchronize(device)
        taken = time.perf_counter() - began
        self.losses.append(float(loss))
        self.seconds.append(taken + (self.seconds[-1] if self.seconds else 0.0))

    def smooth(self) -> list[float]:
        """Return the mean loss of the last SMOOTHING steps, from step SMOOTHING on."""
        return sliding_window_view(np.array(self.losses), SMOOTHING).mean(axis=1).tolist()

    def reached(self, goal: float) -> dict[str, float] | None:
        """Return steps and seconds until the smooth loss was as low as `goal`; None if never."""
        for index, loss in enumerate(self.smooth()):
            if loss <= goal:
                steps = index + SMOOTHING
                return {"steps": steps, "seconds": self.seconds[steps - 1]}
        return None


def goals_of(pupils: dict[str, Pupil]) -> list[dict[str, Any]]:
    """Return the losses to reach, and when each pupil reached them."""
    first = next(iter(pupils.values())).smooth()
    losses = [min(first[: max(1, round(part * len(first)))]) for part in _PARTS]
    return [
        {"loss": loss, "reached": {name: pupil.reached(loss) for name, pupil in pupils.items()}}
        for loss in losses
    ]


def rendered_people(number: int, input_px: int) -> Batch:
    """Return the first person of each rendered scene, framed as in training, not augmented."""
    images, joints, annotated = [], [], []
    for index in range(number):
        scene, [person, *_] = render_scene(0, index)
        matrix = input_from_original(person.center, person.scale, input_px)
        images.append(cv2.warpAffine(scene, matrix[:2], (input_px, input_px)))
        joints.append(transform(np.array(person.joints), heatmap_from_input() @ matrix))
        annotated.append([state is not Visibility.MISSING for state in person.visibility])
    return Batch(
        images=torch.from_numpy(np.stack(images)),
        joints=torch.from_numpy(np.stack(joints).astype(np.float32)),
        annotated=torch.tensor(annotated),
        gains=torch.ones(number, 3),
        positions=np.arange(number),
    )


def _run(
    variants: Sequence[Variant], device: torch.device, pictures: Batch, steps: int, seed: int
) -> dict[str, Any]:
    # A peak of 10: at the paper's peak of 1 all-zero heatmaps may last longer than this training.
    changes: dict[str, Any] = {"learning_rate": 1e-3, "target_peak": 10.0, "seed": seed}
    runners = {
        variant.method: Runner(
            variant, device, replace(variant.optim, optimizer="adamw", **changes)
        )
        for variant in variants
    }
    pupils = {name: Pupil() for name in runners}
    random = np.random.default_rng(seed)
    for step in range(steps):
        batch = pictures.rows(random.permutation(PEOPLE)[: variants[0].batch])
        for name in order(pupils, step):
            pupils[name].learn(runners[name], batch, device)
    return {
        "seed": seed,
        "loss": {name: pupil.losses for name, pupil in pupils.items()},
        "seconds": {name: pupil.seconds for name, pupil in pupils.items()},
        "goals": goals_of(pupils),
    }
