"""Training on a Ray cluster of this machine: one worker beside two, and a worker that is killed."""

import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file

from jobs.accept.checks import Check, Place, at_most, equal, fact
from jobs.benchmark.rounds.data import pack_rendered, settings_for
from jobs.chaos.evidence import Evidence
from jobs.train import trained
from pipeline.cluster.start import cluster
from pipeline.run.checkpoint_manager import checkpoints
from pipeline.run.metadata import read_metadata
from pipeline.run.plan import plan_training
from pipeline.run.system_metrics import open_addresses
from pipeline.training.probes import TRACE_FOLDER

_KILL_AFTER_STEP = 2


class _Trained(NamedTuple):
    """A run's last epoch: its metrics, and its weights."""

    metrics: dict[str, float]
    weights: torch.Tensor


def refusals(place: Place) -> Iterator[Check]:
    """Ask for what two workers can't have."""
    for name, changes in {
        "half a GPU for each of two workers": {"ray.gpus_per_worker": 0.5, "ray.workers": 2},
        "two GPUs for a worker": {"ray.gpus_per_worker": 2.0},
    }.items():
        try:
            settings_for(Path("people"), "train-*.tar", changes)
            answer = "accepted"
        except ValueError:
            answer = "refused"
        yield equal(name, answer, "refused")


def training(place: Place) -> Iterator[Check]:
    """Train with one worker, with two, and with two of which one is killed.

    Two workers need two GPUs, or none.
    """
    if place.is_gpu and torch.cuda.device_count() < 2:
        yield fact("training with two workers", "not checked: needs two GPUs")
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        pack_rendered(folder / "people", 2000 if place.is_gpu else 60)
        # The ranks, which inherit it, name their processes there.
        os.environ[TRACE_FOLDER] = str(folder / "trace")
        try:
            with cluster("local", is_shared=True):
                yield from _compared(place, folder)
                if place.is_gpu:
                    yield from _matrix(place, folder)
        finally:
            del os.environ[TRACE_FOLDER]


def _compared(place: Place, folder: Path) -> Iterator[Check]:
    one = _train(place, folder, "one", {"ray.workers": 1})
    two = _train(place, folder, "two", {"ray.workers": 2}, _others_listen)
    yield equal("addresses beside loopback that listen", ", ".join(two.found) or "none", "none")
    again = _train(place, folder, "killed", {"ray.workers": 2}, _killed)
    yield equal("processes killed with SIGKILL", len(again.found), 1)
    # Without SyncBatchNorm, which needs GPUs, each worker normalises by its own samples.
    close = 1e-4 if place.is_gpu else 0.3
    name = "loss of an epoch with two workers beside one, relative"
    losses = [each.trained.metrics["train_loss"] for each in (one, two)]
    yield at_most(name, abs(losses[1] / losses[0] - 1), close)
    yield equal("epochs after a worker was killed", again.trained.metrics["epoch"], 2)
    apart = float((again.trained.weights - two.trained.weights).abs().max())
    name = "largest difference of weights after a worker was killed"
    yield at_most(name, apart, 1e-2 if place.is_gpu else 0.0)


def _matrix(place: Place, folder: Path) -> Iterator[Check]:
    """Train an epoch with each combination that is not refused."""
    keys = ("optim.sync_batchnorm", "optim.checkpointing", "optim.accumulate", "optim.compile")
    for number, values in enumerate(product((False, True), (False, True), (1, 2), (False, True))):
        changes: dict[str, Any] = dict(zip(keys, values, strict=True))
        if changes["optim.compile"] and (
            changes["optim.sync_batchnorm"] or changes["optim.checkpointing"]
        ):
            continue
        changes |= {"ray.workers": 2, "optim.epochs": 1, "optim.batch_size": 256}
        run = _train(place, folder, f"matrix-{number}", changes)
        name = ", ".join(f"{key.partition('.')[2]} {value}" for key, value in changes.items())
        yield at_most(f"loss with {name}", run.trained.metrics["train_loss"], 1e3)


class _Run(NamedTuple):
    trained: _Trained
    found: list[str]


# Watches a run's trace until the event; appends what it finds.
_Watch = Callable[[Evidence, threading.Event, list[str]], None]


def _train(
    place: Place,
    folder: Path,
    name: str,
    changes: dict[str, Any],
    watch: _Watch | None = None,
) -> _Run:
    settings = settings_for(
        folder / "people",
        "train-*.tar",
        {
            "optim.epochs": 2,
            "optim.batch_size": 24,
            "optim.precision": "fp32",
            "optim.ema_samples": 100,
            "optim.sync_batchnorm": place.is_gpu and changes["ray.workers"] == 2,
            "ray.gpus_per_worker": 1.0 if place.is_gpu else 0.0,
            "ray.checkpoint_steps": 1,
            "ray.name": name,
        }
        | ({} if place.is_gpu else {"model.features": 16, "model.input_px": 64})
        | changes,
    )
    found: list[str] = []
    over = threading.Event()
    if watch is not None:
        evidence = Evidence(folder / "trace")
        evidence.read_on()
        watcher = threading.Thread(target=watch, args=(evidence, over, found), daemon=True)
        watcher.start()
    try:
        outcome = trained(plan_training(settings))
    finally:
        over.set()
        if watch is not None:
            watcher.join()
    last = checkpoints(outcome.checkpoint.parent)[-1]
    weights = load_file(last / "weights.safetensors")
    flat = torch.cat([tensor.double().ravel() for tensor in weights.values()])
    return _Run(_Trained(read_metadata(last).metrics, flat), found)


def _others_listen(evidence: Evidence, over: threading.Event, found: list[str]) -> None:
    """Note once, while ranks train, which addresses of the cluster's processes are not loopback."""
    while not over.wait(0.2):
        evidence.read_on()
        if evidence.takings:
            found += open_addresses()
            return


def _killed(evidence: Evidence, over: threading.Event, found: list[str]) -> None:
    """Kill the second rank after its second step."""
    while not over.wait(0.05):
        evidence.read_on()
        own = [taking for taking in evidence.takings if taking.rank.run == "killed"]
        if own and max(taking.step for taking in own) >= _KILL_AFTER_STEP:
            pid = evidence.ranks[-1].pid
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                found.append(str(pid))
            return


PARTS = {"refusals": refusals, "training with one worker and two": training}
