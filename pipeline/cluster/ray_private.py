"""Private parts of Ray that the pipeline needs, each with its reason.

A release of Ray may remove any of them: tests/cluster/test_ray_private.py then fails with its name.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants
from ray.train.torch import TorchTrainer
from ray.train.torch.config import _TorchBackend
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.callback import RayTrainCallback

LOOPBACK = "127.0.0.1"
# Base of the backend in rendezvous.py. TorchConfig sets neither where the ranks listen nor that a
# single rank needs no process group; `on_start`, with the worker group's `execute*`, can.
TorchBackend = _TorchBackend
# Logger that prints the stack of a worker's error. Errors that users cause, such as a damaged
# sample, need none, and LoggingConfig can't turn it off for some errors.
TRACEBACKS = "ray.train.v2._internal.util"
# `_system_config` of a cluster without a dashboard: every process of Ray would gather and send
# what only the dashboard shows.
NO_METRICS = {
    "enable_metrics_collection": False,
    "event_stats": False,
    "task_events_report_interval_ms": 0,
}
# Actor that shares a cluster's resources among requesters; there is no public way to cancel a
# request of another process.
_COORDINATOR = "AutoscalingCoordinator"
# File in a run's folder: Ray Train's name for the start of the run that made the last request.
_RESERVATION = ".reservation"


class LeanTrainer(TorchTrainer):
    """Ray Train's trainer without helper actors that the run does not need.

    No public setting omits them. Measured on two busy cores: each is a process of 120 MiB that
    wakes 100 times a second and adds 3 to 8 s to a start that takes 18 to 22 s without them.
    """

    def __init__(self, *arguments: Any, is_shared: bool, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        # The first distributes Ray Data's datasets, whereas our ranks read shards. The second frees
        # what a killed run held, for other runs on the cluster. It needs the dashboard, without
        # which it prints an error every second.
        unused = (DatasetsCallback, PlacementGroupCleanerCallback)
        self._omitted = unused[:1] if is_shared else unused

    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        created = super()._create_default_callbacks()
        return [callback for callback in created if not isinstance(callback, self._omitted)]


@contextmanager
def bound_to_loopback() -> Iterator[None]:
    """Make a cluster that is started in this context listen on 127.0.0.1 only.

    Ray does so only where it supports no clusters of several machines, on macOS and Windows; it
    replaces a `_node_ip_address` of 127.0.0.1 by the machine's outer address.
    """
    # For Ray's processes, and for drivers of jobs that are submitted to the cluster.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    # Gloo and NCCL would listen on the interface of the host's name.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
    # This process read the variable when it imported Ray.
    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def take_over(folder: Path, run_id: str) -> None:
    """Cancel the resource request of the previous start of the run in `folder`; note `run_id`.

    Ray Train's controller cancels its request when it ends. If it was killed, Ray keeps the
    request for three minutes, in which an elastic run would find no free resources.
    """
    note = folder / _RESERVATION
    if note.exists():
        _cancel_request(note.read_text().strip())
    folder.mkdir(parents=True, exist_ok=True)
    note.write_text(run_id + "\n")


def _cancel_request(run_id: str) -> None:
    """Cancel a run's resource request, if there is one."""
    try:
        coordinator = ray.get_actor(_COORDINATOR, namespace=_COORDINATOR)
    except ValueError:
        return  # this cluster has had no request yet
    # Not awaited: training starts without it too, only later.
    coordinator.cancel_request.remote(f"train-{run_id}")
