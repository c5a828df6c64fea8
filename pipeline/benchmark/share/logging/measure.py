"""The cost of recording, from settings to a result that is plain JSON."""

import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from pipeline.benchmark.share.data import pack_rendered, settings_for
from pipeline.benchmark.share.logging.arms import drive_recorded, drive_unrecorded, meter_of
from pipeline.benchmark.share.logging.proxy import Proxy
from pipeline.benchmark.share.logging.server import mlflow_server
from pipeline.benchmark.share.logging.shares import (
    ARMS,
    AWAY,
    HANGING,
    RECORDED,
    REFUSED,
    SERVER,
    shares,
)
from pipeline.benchmark.share.rounds import take_turns, wait_for_start
from pipeline.benchmark.share.side import Side
from pipeline.delivery import Delivery
from pipeline.progress import say
from pipeline.settings import Settings
from pipeline.training import KEEP_MEMORY


@dataclass(frozen=True, kw_only=True)
class LoggingBenchmark:
    """What to measure: `rounds` turns of every arm, each an epoch of `steps`; the server is `round_trip_s` away.

    60 steps of 24 people take about ten seconds on one core. Epochs of real
    runs are longer; what is recorded of each is the same.
    """

    rounds: int = 5
    steps: int = 60
    batch_size: int = 24
    round_trip_s: float = 0.05

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"--rounds must be at least 1, got {self.rounds}")


def measure_logging(settings: LoggingBenchmark, folder: Path) -> dict[str, Any]:
    """Measure, with `folder` for files. Raises RuntimeError if an arm fails or does not record what it should."""
    begin, load = time.monotonic(), os.getloadavg()[0]
    say("1/3 render and pack people")
    data = folder / "data"
    pack_rendered(data, settings.steps * settings.batch_size)
    say("2/3 start an MLflow server, and every arm")
    with mlflow_server(folder / "mlflow") as port, ExitStack() as proxies:
        far = {
            name: proxies.enter_context(Proxy(port, settings.round_trip_s))
            for name in (SERVER, *AWAY)
        }
        told = {name: _settings(settings, data, name, far) for name in ARMS}
        with _sides(told, folder) as sides:
            far[REFUSED].refuse()
            far[HANGING].fall_silent()
            say("3/3 the same training loop in turns")
            # The first turn fills caches; the last includes the run's end.
            turns = list(take_turns(sides, settings.rounds + 1))[1:-1]
    check_recorded({name: Settings.from_flat(told[name]) for name in RECORDED})
    return shares(turns, {name: meter_of(folder / name) for name in ARMS}) | {
        "machine": _machine() | {"load_average_before": load},
        "settings": asdict(settings),
        "seconds": time.monotonic() - begin,
    }


def check_recorded(runs: Mapping[str, Settings]) -> None:
    """Raise RuntimeError unless MLflow has all of the runs that could deliver, and not all of the others."""
    for name, settings in runs.items():
        left = Delivery(
            Path(settings.ray.storage) / settings.ray.name, settings.tracking.uri
        ).left()
        if bool(left) != (name in AWAY):
            raise RuntimeError(f"the arm {name} has {left or 'delivered everything'}")


@contextmanager
def _sides(told: Mapping[str, dict[str, Any]], folder: Path) -> Iterator[dict[str, Side]]:
    inherits = {"OMP_NUM_THREADS": "1"} | KEEP_MEMORY
    with ExitStack() as ending:
        sides = {}
        for name, flat in told.items():
            drive = drive_recorded if name in RECORDED else drive_unrecorded
            side = Side(name, drive, flat, folder / name, inherits=inherits)
            sides[name] = ending.enter_context(side)
            # One after another: MLflow has to answer each within seconds.
            wait_for_start({name: side})
        yield sides


def _settings(
    settings: LoggingBenchmark, data: Path, name: str, far: Mapping[str, Proxy]
) -> dict[str, Any]:
    """An arm's settings by dotted key; those that are not `far` have a database beside the data."""
    place = {"tracking.uri": f"http://127.0.0.1:{far[name].port}"} if name in far else {}
    changes = {
        "optim.epochs": settings.rounds + 2,
        "optim.batch_size": settings.batch_size,
        "ray.name": name,
    }
    return settings_for(data, "train-*.tar", changes | place).flat()


def _machine() -> dict[str, Any]:
    return {
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "mlflow": version("mlflow"),
        "torch": torch.__version__,
    }
