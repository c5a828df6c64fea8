"""A soak from start to clean-up: cluster, MLflow server, data, faults and the final audit."""

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jobs.chaos.books import audit
from jobs.chaos.evidence import Evidence
from jobs.chaos.faults import draws
from jobs.chaos.nodes import Nodes
from jobs.chaos.programs import Server
from jobs.chaos.report import result_of, stalled_s
from jobs.chaos.soak import NODES, Soak
from jobs.chaos.store import BUCKET, Store
from jobs.chaos.training import Training, pack
from pipeline.io.console import say
from pipeline.io.processes import descendants, wait_for_end
from pipeline.run.journal import JOURNAL_NAME
from pipeline.training.probes import TRACE_FOLDER

_DELIVERY_S = 120.0
# How long processes that were killed, and the removal of their files, are waited for.
_CLEAN_UP_S = 20.0


def soak(folder: Path, minutes: float, seed: int, *, in_bucket: bool = False) -> dict[str, Any]:
    """Run a soak in an empty folder and return its figures by name.

    Runs lie there, or `in_bucket` of an S3 server, and then each node and the driver have a disk of
    their own.
    Ends all processes that it has started. Raises OSError where a process does
    not start or end in time.
    """
    load, begin = os.getloadavg()[0], time.monotonic()
    say("rendering and packing people to train on")
    people = pack(folder / "data")
    evidence = Evidence(folder / "trace")
    with _staged(folder, seed, in_bucket) as (training, nodes, server, store):
        faults = draws(seed, has_store=in_bucket)
        running = Soak(training, nodes, server, evidence, faults, store)
        running.run(60 * minutes)
        if in_bucket:
            training.fetch()
        folders = [training.folder_of(run) for run in training.runs]
        # The last run may have been stopped before it had anything to record.
        started = [folder for folder in folders if (folder / JOURNAL_NAME).exists()]
        training.deliver(*started).wait(_DELIVERY_S)
        totals = audit(training, evidence.takings, people, server.uri)
    return result_of(running.faults, totals) | {
        "minutes": minutes,
        "seed": seed,
        "storage": "s3" if in_bucket else "disk",
        "seconds": time.monotonic() - begin,
        "load": [load, os.getloadavg()[0]],
        "stalled_s": stalled_s(running.steps),
        "exits": dict(running.exits),
        "delivered_s": running.delivered_s,
        "delivered_by_command": running.delivered_by_command,
    }


def remove_folder(folder: Path) -> None:
    """Remove a folder, and try again while ending processes still write there.

    A folder that cannot be removed in time is left, and named in one line.
    """
    end = time.monotonic() + _CLEAN_UP_S
    while folder.exists():
        try:
            shutil.rmtree(folder)
        except OSError as error:
            if time.monotonic() > end:
                say(f"could not remove {folder}: {error.strerror or error}")
                return
            time.sleep(0.2)


@contextmanager
def _staged(
    folder: Path, seed: int, in_bucket: bool
) -> Iterator[tuple[Training, Nodes, Server, Store | None]]:
    # Ray's nodes pass it on to the workers.
    os.environ[TRACE_FOLDER] = str(folder / "trace")
    server = Server(folder)
    say(f"starting MLflow and a cluster of {NODES} nodes beside its head")
    nodes, store = None, Store(folder) if in_bucket else None
    try:
        server.start()
        if store is not None:
            os.environ.update(store.environment)
            store.start()
            store.wait()
        nodes = Nodes(folder, NODES, has_disks=in_bucket)
        # Ray's handler ends only its nodes.
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
        server.wait()
        storage = f"s3://{BUCKET}/runs" if in_bucket else ""
        training = Training(folder, folder / "data", nodes.address, server.uri, seed, storage)
        try:
            yield training, nodes, server, store
        finally:
            training.kill()
    finally:
        started = descendants(os.getpid())
        server.kill()
        if nodes is not None:
            nodes.close()
        if store is not None:
            store.close()
        # Until they have ended they may write to the folder, which is removed next.
        wait_for_end(started, _CLEAN_UP_S)
