"""Where the ranks of a run listen for one another."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from pipeline.cluster import rendezvous
from pipeline.run.system_metrics import interface_of

ROOT = Path(__file__).resolve().parents[2]
# What its process loads of this repository: callbacks, and the configuration of the process group.
CONTROLLER = [f"pipeline.cluster.{name}" for name in ("failures", "ray_private", "rendezvous")]
HEAVY = {"torch", "mlflow", "matplotlib", "scipy", "cv2"}


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


_JOIN = """
import sys, torch, torch.distributed as dist
from pipeline.cluster import rendezvous
rank, host, port = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
rendezvous._join(rank, "gloo", (host, port), 2, 60)
dist.all_reduce(torch.full((1,), 2.0))
dist.destroy_process_group()
"""


def test_ranks_meet_at_the_address_of_the_first(node, monkeypatch):
    node("127.0.0.2")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    found = rendezvous._open_store(60)
    assert found[0] == "127.0.0.2"
    other = subprocess.Popen([sys.executable, "-c", _JOIN, "1", *map(str, found)], cwd=ROOT)
    try:
        rendezvous._join(0, "gloo", found, 2, 60)
        total = torch.ones(1)
        dist.all_reduce(total)
        assert total == 3
        dist.destroy_process_group()
        assert other.wait(60) == 0
    finally:
        other.kill()
        other.wait()


def test_the_store_listens_on_loopback_alone_where_the_cluster_is_this_machine():
    with rendezvous._listening("127.0.0.1") as alone, rendezvous._listening("192.0.2.1") as reached:
        assert alone.getsockname()[0] == "127.0.0.1"
        assert reached.getsockname()[0] in ("::", "0.0.0.0")


def test_the_controller_of_ray_train_loads_neither_torch_nor_mlflow():
    code = f"import sys, {', '.join(CONTROLLER)}; print(*{HEAVY} & sys.modules.keys())"
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert answer.stdout == "\n"
