"""The wait for room on a cluster: who is named, how often, and its end."""

from types import SimpleNamespace

import pytest
from ray.train import TrainingFailedError

from pipeline.cluster import room
from pipeline.settings import RaySettings, Settings


class Group:
    """A placement group that is ready after some looks, each of which takes ten seconds."""

    def __init__(self, clock: SimpleNamespace, looks: int) -> None:
        self._clock, self._looks = clock, looks
        self.is_removed = False

    def wait(self, timeout_s: float) -> bool:
        self._clock.now += 10
        self._looks -= 1
        return self._looks < 0


@pytest.fixture
def clock(monkeypatch) -> SimpleNamespace:
    """The time that room.py sees; no time passes while it sleeps."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(room.time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(room.time, "sleep", lambda seconds: None)
    return clock


@pytest.fixture
def cluster(monkeypatch, clock):
    """Return a function that describes a cluster of six CPUs: looks until a group is ready."""
    asked: list[dict[str, float]] = []

    def describe(looks: int) -> tuple[Group, list[dict[str, float]]]:
        group = Group(clock, looks)

        def made(bundles, strategy):
            asked.extend(bundles)
            return group

        monkeypatch.setattr(room, "placement_group", made)
        monkeypatch.setattr(
            room, "remove_placement_group", lambda other: setattr(other, "is_removed", True)
        )
        monkeypatch.setattr(room.ray, "available_resources", lambda: {"CPU": 1.5})
        monkeypatch.setattr(room.ray, "cluster_resources", lambda: {"CPU": 6.0})
        monkeypatch.setattr(
            room, "_held", lambda kind: room.Counter({"'sweep'": 4, "05000000": 0.5})
        )
        return group, asked

    return describe


@pytest.fixture(autouse=True)
def pace(monkeypatch, clock) -> None:
    """Let lines be due by the same clock."""
    whole = room.Pace
    monkeypatch.setattr(room, "Pace", lambda every_s: whole(every_s, lambda: clock.now))


def test_where_there_is_room_nothing_is_printed(cluster, capsys):
    group, asked = cluster(looks=0)
    assert room.await_room(RaySettings(workers="2:4"), 1000.0, lambda: False)
    assert group.is_removed
    assert asked == [{"CPU": 1.0}, {"CPU": 1.0}], "the fewest workers of an elastic run"
    assert capsys.readouterr().out == ""


def test_a_line_a_minute_tells_what_is_missing_who_holds_it_and_how_long_it_waits(cluster, capsys):
    cluster(looks=14)
    assert room.await_room(RaySettings(workers=2), 1000.0, lambda: False, "trial-1")
    # After 10 s, and then at 70 s and 130 s of 10 minutes.
    assert capsys.readouterr().out.splitlines() == [
        "trial-1: waiting for room: 2 CPUs needed, 1.5 of 6 free, held by 'sweep' (4), "
        f"05000000 (0.5); waits {left} more (--ray.wait-minutes)"
        for left in ("9 min 50 s", "8 min 50 s", "7 min 50 s")
    ]


def test_after_the_time_it_is_an_error_that_tells_the_same(cluster):
    group, _ = cluster(looks=100)
    with pytest.raises(
        TrainingFailedError,
        match=r"^no room after 2 min \(--ray.wait-minutes\): 2 CPUs needed, 1.5 of 6 free, held by",
    ):
        room.await_room(RaySettings(workers=2, wait_minutes=2), 950.0, lambda: False)
    assert group.is_removed


def test_the_wait_ends_when_the_run_is_asked_to_stop(cluster):
    group, _ = cluster(looks=100)
    assert not room.await_room(RaySettings(), 1000.0, lambda: True)
    assert group.is_removed


def test_jobs_that_can_not_be_named_are_others(cluster, monkeypatch, capsys):
    cluster(looks=1)

    def unknown(kind: str) -> room.Counter:
        return room.Counter()

    monkeypatch.setattr(room, "_held", unknown)
    assert room.await_room(RaySettings(), 1000.0, lambda: False)
    assert "1.5 of 6 free, held by other jobs; waits" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("free", "most"),
    [
        # Nodes of 3 and 2 CPUs have room for 1 and 1 workers of 2 CPUs.
        ([3, 2], 4),  # whatever more comes later
        ([1, 2], 1),
        ([1.9, 1.9], 1),  # no node has room, but one worker is the fewest
    ],
)
def test_an_elastic_run_does_not_wait_for_what_others_hold(monkeypatch, clock, free, most):
    nodes = [{"Resources": {"CPU": cpus}, "Alive": True} for cpus in (3.0, 2.0)]
    nodes.append({"Resources": {"CPU": 64.0}, "Alive": False})
    monkeypatch.setattr(room.ray, "nodes", lambda: nodes)
    free_by_node = {str(number): {"CPU": cpus} for number, cpus in enumerate(free)}
    monkeypatch.setattr(room, "available_by_node", lambda: free_by_node)
    assert room.most_that_fit(RaySettings(workers="1:4", cpus_per_worker=2)) == most


def node(cpus: float, gpus: float) -> dict[str, float]:
    return {"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus}


@pytest.mark.parametrize(
    ("changes", "nodes", "cpus", "threads"),
    [
        ({}, [node(64, 0)], 1, 1),
        ({"ray.cpus_per_worker": 4.0}, [node(64, 8)], 4, 1),
        ({"ray.gpus_per_worker": 1.0}, [node(64, 8)], 8, 7),
        # The node with the fewest cores a GPU decides; one without a GPU does not.
        ({"ray.gpus_per_worker": 1.0}, [node(64, 8), node(13, 2), node(2, 0)], 6, 5),
        ({"ray.gpus_per_worker": 0.5}, [node(16, 1)], 8, 7),
        ({"ray.gpus_per_worker": 1.0}, [node(1, 1)], 1, 1),
        # None has started yet.
        ({"ray.gpus_per_worker": 1.0}, [node(8, 0)], 1, 1),
        ({"ray.gpus_per_worker": 1.0, "ray.cpus_per_worker": 4.0}, [node(64, 8)], 4, 3),
        ({"ray.gpus_per_worker": 1.0, "data.threads": 2}, [node(64, 8)], 8, 2),
    ],
)
def test_a_worker_with_a_gpu_gets_the_cores_of_its_node_that_are_for_it(
    changes, nodes, cpus, threads
):
    chosen, _ = room.feed(Settings.from_flat(changes), nodes)
    assert (chosen.ray.cpus_per_worker, chosen.data.threads) == (cpus, threads)


def test_a_setting_that_starves_a_gpu_is_named():
    gpu = {"ray.gpus_per_worker": 1.0}
    said = {
        name: room.feed(Settings.from_flat(gpu | changes), [node(64, 8)])[1]
        for name, changes in {
            "chosen": {},
            "threads": {"data.threads": 1},
            "cpus": {"ray.cpus_per_worker": 2.0},
        }.items()
    }
    assert said["chosen"] == "8 CPUs and 7 decode threads a GPU"
    assert said["threads"] == (
        "8 CPUs and 1 decode threads a GPU, of the 8 cores that a node has for it: it may wait for "
        "its input; ray.cpus_per_worker=0 and data.threads=0 use them all"
    )
    assert said["cpus"].startswith("2 CPUs and 1 decode threads a GPU, of the 8 cores")
    assert room.feed(Settings(), [node(64, 8)])[1] == ""
