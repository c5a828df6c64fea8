"""How soon a network comes to the same loss on a small fixed task, trained in one way and another."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view

from jobs.benchmark.step.pictures import rendered_people
from jobs.benchmark.step.variants import Runner, Variant, synchronize
from pipeline.data.batch import Batch

PEOPLE = 32
# A batch's loss depends on who is in it: losses are told as means over so many steps.
SMOOTHING = 10
# The losses to reach are the first way's lowest within these parts of its steps.
_PARTS = (0.5, 0.75, 1.0)


def learning_curves(
    ways: Sequence[Variant], device: torch.device, steps: int, seeds: Sequence[int]
) -> dict[str, Any]:
    """Losses of one network on the same batches, trained in each of the ways, from each seed.

    The ways take turns step by step, so that their seconds, which are those of
    training alone, compare. They are compared with the first at several losses
    of its own: `over_first` has medians of how many times fewer steps and
    seconds a way took, 0 where it never came to the loss.
    """
    first, pictures = ways[0], rendered_people(PEOPLE, ways[0].input_px)
    for way in ways:
        # What a device does once, such as choosing its kernels, is no part of learning.
        Runner(way, device).train()
    runs = [_run(ways, device, pictures, steps, seed) for seed in seeds]
    goals = [goal for run in runs for goal in run["goals"]]
    return {
        "task": (
            f"{PEOPLE} rendered people at {first.input_px} px, {first.stacks} stack, "
            f"batch {first.batch}, {steps} steps, {len(seeds)} seeds"
        ),
        "smoothed_over_steps": SMOOTHING,
        "over_first": {
            way.way: {unit: over_first(goals, first.way, way.way, unit) for unit in _UNITS}
            for way in ways[1:]
        },
        "runs": runs,
    }


_UNITS = ("steps", "seconds")


def over_first(goals: Sequence[dict[str, Any]], first: str, way: str, unit: str) -> float:
    """Median over the goals of how many times fewer steps or seconds a way took than the first."""
    return statistics.median(
        goal["reached"][first][unit] / reached[unit] if (reached := goal["reached"][way]) else 0.0
        for goal in goals
    )


@dataclass(kw_only=True)
class Pupil:
    """A network that learns: its loss and its seconds of training after each step."""

    runner: Runner | None = None
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def learn(self, batch: Batch, device: torch.device) -> None:
        """Take a step."""
        assert self.runner is not None
        began = time.perf_counter()
        loss = self.runner.train(batch)
        synchronize(device)
        taken = time.perf_counter() - began
        self.losses.append(float(loss))
        self.seconds.append(taken + (self.seconds[-1] if self.seconds else 0.0))

    def smooth(self) -> list[float]:
        """Mean loss of the last steps, from the first step on that has so many behind it."""
        return sliding_window_view(np.array(self.losses), SMOOTHING).mean(axis=1).tolist()

    def reached(self, goal: float) -> dict[str, float] | None:
        """Steps and seconds until the smooth loss was as low as `goal`; None: never."""
        for index, loss in enumerate(self.smooth()):
            if loss <= goal:
                steps = index + SMOOTHING
                return {"steps": steps, "seconds": self.seconds[steps - 1]}
        return None


def goals_of(pupils: dict[str, Pupil]) -> list[dict[str, Any]]:
    """Losses to reach, and when each pupil did."""
    first = next(iter(pupils.values())).smooth()
    losses = [min(first[: max(1, round(part * len(first)))]) for part in _PARTS]
    return [
        {"loss": loss, "reached": {name: pupil.reached(loss) for name, pupil in pupils.items()}}
        for loss in losses
    ]


def _run(
    ways: Sequence[Variant], device: torch.device, pictures: Batch, steps: int, seed: int
) -> dict[str, Any]:
    pupils = {way.way: Pupil(runner=_runner(way, device, seed)) for way in ways}
    random = np.random.default_rng(seed)
    for step in range(steps):
        batch = pictures.rows(random.permutation(PEOPLE)[: ways[0].batch])
        for pupil in list(pupils.values())[:: -1 if step % 2 else 1]:
            pupil.learn(batch, device)
    return {
        "seed": seed,
        "loss": {name: pupil.losses for name, pupil in pupils.items()},
        "seconds": {name: pupil.seconds for name, pupil in pupils.items()},
        "goals": goals_of(pupils),
    }


def _runner(way: Variant, device: torch.device, seed: int) -> Runner:
    # A peak of 10, since the paper's of 1 may stay with all-zero heatmaps for longer than this takes.
    optim = replace(way.optim, optimizer="adamw", learning_rate=1e-3, target_peak=10.0, seed=seed)
    return Runner(way, device, optim)
