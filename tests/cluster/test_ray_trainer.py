"""Which of Ray Train's helpers a run of ours starts."""

import pytest
from ray.train.torch import TorchTrainer

from pipeline.cluster import start as cluster
from pipeline.cluster.ray_trainer import LeanTrainer


def helpers(trainer: TorchTrainer) -> set[str]:
    return {type(one).__name__ for one in trainer._create_default_callbacks()}


def spared() -> set[str]:
    return helpers(TorchTrainer(print)) - helpers(LeanTrainer(print))


def test_nothing_hands_out_datasets_that_no_run_has():
    assert spared() == {"DatasetsCallback"}


def test_on_a_cluster_of_its_own_a_run_frees_nothing_for_others(monkeypatch):
    monkeypatch.setattr(cluster, "_is_for_one_run", True)
    assert spared() == {"DatasetsCallback", "PlacementGroupCleanerCallback"}


@pytest.fixture
def started(monkeypatch):
    """What Ray would have been started with; nothing is."""
    given = {}
    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(cluster.ray, "init", lambda **settings: given.update(settings))
    monkeypatch.setattr(cluster.ray, "shutdown", lambda: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"):
        monkeypatch.setenv(name, "")
    return given


@pytest.mark.parametrize("is_shared", [False, True])
def test_runs_that_share_a_cluster_can_free_what_others_held(started, is_shared):
    with cluster.cluster("local", is_shared=is_shared):
        assert cluster.is_for_one_run() is not is_shared
        # What frees it asks the dashboard.
        assert started["include_dashboard"] is is_shared
    assert not cluster.is_for_one_run()


def test_a_cluster_that_is_joined_is_shared(started):
    with cluster.cluster("192.0.2.1:6379"):
        assert not cluster.is_for_one_run()
