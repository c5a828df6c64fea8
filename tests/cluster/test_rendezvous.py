"""Where the ranks of a run listen for one another."""

import os

import pytest
import torch.distributed as dist

from pipeline.cluster import rendezvous
from pipeline.run.system_metrics import interface_of


@pytest.fixture
def node(monkeypatch):
    """Return a function that sets this node's address in Ray; no interface is named."""
    # Undoes also what a test sets.
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "")
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    return lambda address: monkeypatch.setattr(
        rendezvous.ray.util, "get_node_ip_address", lambda: address
    )


def test_an_interface_is_found_by_its_address():
    assert interface_of("127.0.0.1") == "lo"
    # Reserved for documentation.
    assert interface_of("192.0.2.1") == ""


def test_gloo_listens_where_ray_knows_the_node(node):
    node("127.0.0.1")
    rendezvous._listen_where_ray_does()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "lo"


def test_an_interface_that_the_user_names_is_kept(node, monkeypatch):
    node("127.0.0.1")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
    rendezvous._listen_where_ray_does()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "eth7"


def test_an_unknown_address_leaves_the_choice_to_gloo(node):
    node("192.0.2.1")
    rendezvous._listen_where_ray_does()
    assert "GLOO_SOCKET_IFNAME" not in os.environ


def test_a_single_rank_gets_no_process_group():
    class Single:
        """A group of one, which is asked to do nothing."""

        def __len__(self) -> int:
            return 1

    config = rendezvous.RendezvousConfig()
    config.backend_cls().on_start(Single(), config)
    assert not dist.is_initialized()


def test_ranks_that_may_be_on_several_nodes_meet_as_in_ray_train(node, monkeypatch):
    calls = []

    class Pair:
        """A group of two, which notes what it is asked to do."""

        def __len__(self) -> int:
            return 2

        def execute(self, function) -> None:
            calls.append(function)

    monkeypatch.setattr(rendezvous.TorchBackend, "on_start", lambda *_: calls.append("Ray Train"))
    node("192.0.2.1")
    config = rendezvous.RendezvousConfig()
    config.backend_cls().on_start(Pair(), config)
    assert calls == [rendezvous._listen_where_ray_does, "Ray Train"]
