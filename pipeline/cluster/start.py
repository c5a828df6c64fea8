"""The Ray cluster: an existing one that is joined, or one that is started on this machine."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from pipeline.cluster.ray_private import LOOPBACK, NO_METRICS, bound_to_loopback
from pipeline.settings import RaySettings

# Samples never pass through the object store, whose default is 30% of the memory.
_OBJECT_STORE_BYTES = 256 * 2**20
_is_for_one_run = False


def is_for_one_run() -> bool:
    """Whether this process started a cluster that ends with its only run."""
    return _is_for_one_run


@contextmanager
def cluster(address: str, *, is_shared: bool = False) -> Iterator[None]:
    """Join the cluster at `address`, or start one on this machine, for the context's duration.

    An empty address means RAY_ADDRESS (which a submitted job has), else this machine. A cluster
    that is started here listens on loopback only. `is_shared` says that several training runs will
    use it, one of which may end before the others.
    """
    global _is_for_one_run
    if ray.is_initialized():
        yield
        return
    if _exists(address):
        ray.init(address=address or None, logging_level=logging.WARNING)
    else:
        # This machine gets no preemption notices.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        with bound_to_loopback():
            ray.init(
                address="local",
                # Its State API is needed to free what a killed run held. A single run would only
                # get ten more processes that have to start, and wake beside training.
                include_dashboard=is_shared,
                _system_config={} if is_shared else NO_METRICS,
                dashboard_host=LOOPBACK,
                object_store_memory=_OBJECT_STORE_BYTES,
                logging_level=logging.WARNING,
            )
        _is_for_one_run = not is_shared
    try:
        yield
    finally:
        _is_for_one_run = False
        ray.shutdown()


def _exists(address: str) -> bool:
    """Whether the setting or the environment names a cluster."""
    return address not in ("", "local") or (address == "" and bool(os.environ.get("RAY_ADDRESS")))


def check_capacity(settings: RaySettings) -> None:
    """Raise ValueError if the whole cluster has too few CPUs or GPUs for the workers."""
    total = ray.cluster_resources()
    for kind, setting, each in (
        ("CPU", "cpus_per_worker", settings.cpus_per_worker),
        ("GPU", "gpus_per_worker", settings.gpus_per_worker),
    ):
        needed, available = settings.fewest_workers * each, total.get(kind, 0)
        if needed > available:
            raise ValueError(
                f"ray.workers={settings.workers} with ray.{setting}={each:g} need {needed:g} "
                f"{kind}s, the cluster has {available:g}"
            )
