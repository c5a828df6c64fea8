"""The Ray cluster: joined where there is one, else started on this machine."""

import os

# Read when Ray is imported, by this process and, passed on, by its actors.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Ray Train's default of 2 s would be added to every report and to a run's beginning and end.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.25")
# Ray learns up to 20 s late how many nodes are left, and would wait 60 s for those that an
# elastic run has lost. Where there is room, taking it is a matter of a second.
os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "15")
# Otherwise every line that a worker prints arrives twice.
os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
# Lines of several trials would be taken for repetitions of one another.
os.environ.setdefault("RAY_DEDUP_LOGS", "0")

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import ray
import ray._private.ray_constants as ray_constants

from pipeline.settings import RaySettings

# Samples never pass through the object store; Ray's default of 30 % of memory would only be taken away.
_OBJECT_STORE_BYTES = 256 * 2**20
_LOOPBACK = "127.0.0.1"
# Every process of Ray's would gather and send what only a dashboard shows.
_UNWATCHED = {
    "enable_metrics_collection": False,
    "event_stats": False,
    "task_events_report_interval_ms": 0,
}


# Whether this process has started a cluster that ends with its only run.
_is_for_one_run = False


def is_for_one_run() -> bool:
    """Whether the cluster ends with the run: nothing that it holds needs freeing for others."""
    return _is_for_one_run


@contextmanager
def cluster(address: str, *, is_shared: bool = False) -> Iterator[None]:
    """Join the cluster at `address`, or start one on this machine, for the duration.

    An empty address means RAY_ADDRESS (which a submitted job has), else this machine.
    What a cluster that is started here listens on is bound to loopback. `is_shared`
    says that several training runs will be on it, one of which may end before the others.
    """
    global _is_for_one_run
    if ray.is_initialized():
        yield
        return
    if _exists(address):
        ray.init(address=address or None, logging_level=logging.WARNING)
    else:
        # This machine gets no notice of being taken away.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        with _bound_to_loopback():
            ray.init(
                address="local",
                # Its State API is what frees what a killed run held. For one run it would
                # only be ten processes more to start, and to wake beside training.
                include_dashboard=is_shared,
                _system_config={} if is_shared else _UNWATCHED,
                dashboard_host=_LOOPBACK,
                object_store_memory=_OBJECT_STORE_BYTES,
                logging_level=logging.WARNING,
            )
        _is_for_one_run = not is_shared
    try:
        yield
    finally:
        _is_for_one_run = False
        ray.shutdown()


@contextmanager
def _bound_to_loopback() -> Iterator[None]:
    """Have the cluster that is started within know this machine as 127.0.0.1, and listen there alone.

    Ray does so itself where it has no clusters of several machines, on macOS
    and Windows; it replaces a `_node_ip_address` of 127.0.0.1 by the outer one.
    """
    # For its processes, and the drivers of jobs that are submitted to it.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    # Gloo and NCCL would listen on the interface of the host's name.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
    # This process read its environment when it imported Ray.
    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _exists(address: str) -> bool:
    """Whether a cluster is named, by setting or environment."""
    return address not in ("", "local") or (address == "" and bool(os.environ.get("RAY_ADDRESS")))


def check_capacity(settings: RaySettings) -> None:
    """Raise ValueError if the cluster as it is has too few CPUs or GPUs for the workers."""
    total = ray.cluster_resources()
    for kind, setting, each in (
        ("CPU", "cpus_per_worker", settings.cpus_per_worker),
        ("GPU", "gpus_per_worker", settings.gpus_per_worker),
    ):
        needed, there = settings.fewest_workers * each, total.get(kind, 0)
        if needed > there:
            raise ValueError(
                f"ray.workers={settings.workers} with ray.{setting}={each:g} need {needed:g} "
                f"{kind}s, the cluster has {there:g}"
            )
