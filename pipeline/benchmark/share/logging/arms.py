"""The arms of the comparison: the same training, recorded nowhere or, as by jobs.train, on disk and in MLflow."""

import json
import signal
import sys
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from pipeline.benchmark.share.logging.meter import (
    DrawingLearner,
    Meter,
    MeteredKeeper,
    SilentKeeper,
)
from pipeline.benchmark.share.turns import Turns, write
from pipeline.launch import task_of
from pipeline.loop import Host, train
from pipeline.plan import plan_training
from pipeline.recording import recording
from pipeline.settings import Settings


def drive_unrecorded(settings: dict[str, Any], folder: Path) -> None:
    """Train in a process beside this one; nothing is recorded."""
    _train_beside(settings, folder, is_recorded=False)


def drive_recorded(settings: dict[str, Any], folder: Path) -> None:
    """Train in a process beside this one, which delivers the journal meanwhile, as a run's driver does."""
    plan = plan_training(Settings.from_flat(settings))
    with recording(plan) as record:
        record.begin()
        _train_beside(settings, folder, is_recorded=True)


def meter_of(folder: Path) -> Meter:
    """What an arm measured of itself, once it has ended."""
    return Meter(**json.loads(_meter_path(folder).read_text()))


def _train_beside(settings: dict[str, Any], folder: Path, *, is_recorded: bool) -> None:
    # The process that trains ends with this one, if this one ends in order.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    process = get_context("spawn").Process(
        target=_train, args=(settings, folder, is_recorded), daemon=True
    )
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"training ended with status {process.exitcode}")


def _train(settings: dict[str, Any], folder: Path, is_recorded: bool) -> None:
    plan = plan_training(Settings.from_flat(settings))
    learner = DrawingLearner(Turns(folder), task_of(plan), 0, 1, torch.device("cpu"))
    kind = MeteredKeeper if is_recorded else SilentKeeper
    with kind(learner, plan.folder) as keeper:
        train(learner, keeper, Host(), plan.settings.ray.name)
    write(_meter_path(folder), asdict(keeper.meter))


def _meter_path(folder: Path) -> Path:
    return folder / "meter.json"
