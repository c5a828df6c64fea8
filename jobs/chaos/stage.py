"""The stage of a soak: cluster, MLflow server and data are set up, and all is taken down whatever happens."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from jobs.chaos.audit import close_books
from jobs.chaos.evidence import Evidence
from jobs.chaos.faults import draws
from jobs.chaos.nodes import Nodes
from jobs.chaos.programs import Server
from jobs.chaos.report import result_of, stood_still_s
from jobs.chaos.soak import NODES, Soak
from jobs.chaos.training import Training, pack
from pipeline.io.console import say
from pipeline.run.journal import JOURNAL_NAME
from pipeline.training.probes import TRACE_FOLDER

_DELIVERY_S = 120.0


def soak(folder: Path, minutes: float, seed: int) -> dict[str, Any]:
    """Run a soak in an empty folder, and return its figures by name. All that it started has ended then.

    Raises OSError where something does not start or end in time.
    """
    load, begun = os.getloadavg()[0], time.monotonic()
    say("rendering and packing people to train on")
    people = pack(folder / "data")
    evidence = Evidence(folder / "trace")
    with _staged(folder, seed) as (training, nodes, server):
        under_way = Soak(training, nodes, server, evidence, draws(seed))
        under_way.run(60 * minutes)
        folders = [training.folder_of(run) for run in training.runs]
        # The last one may have been stopped before it had anything to record.
        started = [folder for folder in folders if (folder / JOURNAL_NAME).exists()]
        training.deliver(*started).wait(_DELIVERY_S)
        books = close_books(training, evidence.takings, people, server.uri)
    return result_of(under_way.faults, books) | {
        "minutes": minutes,
        "seed": seed,
        "seconds": time.monotonic() - begun,
        "load": [load, os.getloadavg()[0]],
        "stood_still_s": stood_still_s(under_way.steps),
        "exits": dict(under_way.exits),
        "delivered_s": under_way.delivered_s,
        "delivered_by_command": under_way.delivered_by_command,
    }


@contextmanager
def _staged(folder: Path, seed: int) -> Iterator[tuple[Training, Nodes, Server]]:
    # Ray's nodes hand it on to the workers.
    os.environ[TRACE_FOLDER] = str(folder / "trace")
    server = Server(folder)
    say(f"starting MLflow and a cluster of {NODES} nodes beside its head")
    nodes = None
    try:
        server.start()
        nodes = Nodes(folder, NODES)
        # Ray's own handler knows of its nodes alone.
        signal.signal(signal.SIGTERM, _terminated)
        server.wait()
        training = Training(folder, folder / "data", nodes.address, server.uri, seed)
        try:
            yield training, nodes, server
        finally:
            training.kill()
    finally:
        server.kill()
        if nodes is not None:
            nodes.close()


def _terminated(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
