"""Room for a run's workers on a cluster that others use too: who holds it, and the wait for it."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

import ray
from ray.train import TrainingFailedError
from ray.util import placement_group, remove_placement_group

from pipeline.cluster.ray_private import available_by_node
from pipeline.io.console import Pace, duration, say
from pipeline.io.threads import within
from pipeline.settings import RaySettings, Settings

_LOOK_S = 0.5
# Seconds of a wait before its first line, and between lines.
_SHORT_S, _LINE_EVERY_S = 5.0, 60.0
# Seconds that the cluster's State API may take to answer.
_ANSWER_S = 5.0
# Times that free resources are counted, a second apart: those of workers that have just ended count
# a little later.
_COUNTS = 4
_LONGEST_ENTRYPOINT = 60


def needs(settings: RaySettings) -> dict[str, float]:
    """Return the resources of one worker."""
    gpus = {"GPU": settings.gpus_per_worker} if settings.gpus_per_worker else {}
    return {"CPU": settings.cpus_per_worker or 1.0} | gpus


def fed(settings: Settings) -> tuple[Settings, str]:
    """Choose the CPUs and decode threads of a worker that are not set, for the connected cluster.

    Returns a sentence on what was chosen for a GPU, or on a setting that starves it; "" without.
    """
    nodes = ray.nodes() if settings.ray.gpus_per_worker else []
    return feed(settings, [node["Resources"] for node in nodes if node["Alive"]])


def feed(settings: Settings, nodes: Iterable[Mapping[str, float]]) -> tuple[Settings, str]:
    """Choose as `fed`, for nodes with these resources."""
    cpus, threads = settings.ray.cpus_per_worker, settings.data.threads
    shares = [node.get("CPU", 0) / node["GPU"] for node in nodes if node.get("GPU")]
    gpus = settings.ray.gpus_per_worker
    share = max(1, math.floor(min(shares) * gpus)) if gpus and shares else 1
    chosen = settings.replaced(
        {
            "ray.cpus_per_worker": cpus or share,
            "data.threads": threads or max(1, int(cpus or share) - 1),
        }
        if gpus
        else {"ray.cpus_per_worker": cpus or 1.0, "data.threads": threads or 1}
    )
    if share == 1:
        return chosen, ""
    used = f"{chosen.ray.cpus_per_worker:g} CPUs and {chosen.data.threads} decode threads a GPU"
    if min(chosen.ray.cpus_per_worker, chosen.data.threads + 1) >= share:
        return chosen, used
    return chosen, (
        f"{used}, of the {share} cores that a node has for it: it may wait for its input; "
        "ray.cpus_per_worker=0 and data.threads=0 use them all"
    )


def await_room(
    settings: RaySettings, since: float, is_stopped: Callable[[], bool], label: str = ""
) -> bool:
    """Wait until the fewest workers fit, or the run is stopped; return whether they fit.

    Prints who holds the resources, once a minute, after `label`. Raises TrainingFailedError when
    ray.wait_minutes have passed since the time `since` of the monotonic clock.
    """
    group = placement_group([needs(settings)] * settings.fewest_workers, strategy="PACK")
    start, line = time.monotonic(), Pace(_SHORT_S)
    try:
        while not group.wait(_LOOK_S):
            if is_stopped():
                return False
            left_s = since + 60 * settings.wait_minutes - time.monotonic()
            if left_s <= 0:
                raise TrainingFailedError(
                    f"no room after {settings.wait_minutes:g} min (--ray.wait-minutes): "
                    f"{_shortage(settings)}"
                )
            if line.is_due():
                if time.monotonic() - start >= _SHORT_S:
                    line = Pace(_LINE_EVERY_S)
                name = f"{label}: " if label else ""
                say(
                    f"{name}waiting for room: {_shortage(settings)}; "
                    f"waits {duration(left_s)} more (--ray.wait-minutes)"
                )
    finally:
        remove_placement_group(group)
    return True


def most_that_fit(settings: RaySettings) -> int:
    """Return the most workers to start an elastic run with.

    Ray Train counts resources that other jobs hold as free, and would wait for them. Where it would
    count too many, this is the number that fits now; the run then does not grow beyond.
    """
    most, each = settings.most_workers, needs(settings)
    for _ in range(_COUNTS):
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        counted = min(most, _fitting(nodes, each))
        fits = min(most, _fitting(available_by_node().values(), each))
        if fits >= counted:
            return most
        time.sleep(1)
    return max(fits, settings.fewest_workers)


def _fitting(nodes: Iterable[Mapping[str, float]], each: Mapping[str, float]) -> int:
    return sum(
        int(min(node.get(kind, 0) / amount + 1e-6 for kind, amount in each.items()))
        for node in nodes
    )


def _shortage(settings: RaySettings) -> str:
    """Return what is needed, what is free and who holds the rest."""
    workers, free, total = settings.fewest_workers, ray.available_resources(), []
    everything = ray.cluster_resources()
    for kind, each in needs(settings).items():
        total.append(
            f"{workers * each:g} {kind}s needed, {free.get(kind, 0):g} of "
            f"{everything.get(kind, 0):g} free"
        )
    return f"{', '.join(total)}, held by {_holders(next(reversed(needs(settings))))}"


def _holders(kind: str) -> str:
    """Name the jobs that hold a kind of resource, those that hold most first."""
    held = Counter[str]()
    # Where the cluster has no dashboard, the State API tries for most of a minute.
    with suppress(TimeoutError):
        held = within(_ANSWER_S, lambda: _held(kind))
    return ", ".join(f"{job} ({amount:g})" for job, amount in held.most_common(4)) or "other jobs"


def _held(kind: str) -> Counter[str]:
    """Add up what actors and placement groups of each job hold."""
    from ray.util.state import list_actors, list_jobs, list_placement_groups

    given: dict[str, Any] = {
        "address": ray.get_runtime_context().gcs_address,
        "timeout": int(_ANSWER_S),
        "raise_on_missing_output": False,
    }
    held: Counter[str] = Counter()
    try:
        names = {job.job_id: _cut(job.entrypoint) for job in list_jobs(**given) if job.job_id}
        groups = list_placement_groups(detail=True, filters=[("state", "=", "CREATED")], **given)
        for group in groups:
            amounts = [bundle["unit_resources"].get(kind, 0) for bundle in group.bundles]
            held[names.get(group.creator_job_id, group.creator_job_id)] += sum(amounts)
        for actor in list_actors(detail=True, filters=[("state", "=", "ALIVE")], **given):
            if not actor.placement_group_id:
                amount = (actor.required_resources or {}).get(kind, 0)
                held[names.get(actor.job_id, actor.job_id)] += amount
    except Exception:
        # The names only explain the wait, which an error of the API must not end.
        return Counter()
    return +held


def _cut(entrypoint: str) -> str:
    short = entrypoint[:_LONGEST_ENTRYPOINT]
    return repr(short + "..." * (len(entrypoint) > _LONGEST_ENTRYPOINT))
