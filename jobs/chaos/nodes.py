"""A Ray cluster of several nodes on this machine, which come and go."""

import os
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster

from jobs.chaos.programs import children, free_port, kill

_STORE_BYTES = 80 * 2**20
# Nobody outside can reach it. Of 127.0.0.1 Ray's clients would make the machine's other address.
_ADDRESS = "127.0.0.2"


class Nodes:
    """A head without CPUs, where drivers connect, and nodes of one CPU.

    Nodes can be added and removed in the main thread alone.
    """

    def __init__(self, folder: Path, count: int) -> None:
        # Where Ray keeps its files and the address of its last cluster, which other programs here may join.
        os.environ["RAY_TMPDIR"] = str(folder)
        self._common: dict[str, Any] = {
            "node_ip_address": _ADDRESS,
            "object_store_memory": _STORE_BYTES,
        }
        head = self._common | {
            "num_cpus": 0,
            # Its State API frees what a training leaves whose driver was killed.
            "include_dashboard": True,
            "dashboard_port": free_port(),
        }
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self._nodes: list[Any] = []
        for _ in range(count):
            self.add()

    def __len__(self) -> int:
        return len(self._nodes)

    @property
    def address(self) -> str:
        """Where to join the cluster."""
        return str(self._cluster.address)

    def add(self) -> None:
        """Add a node, and wait until the cluster knows it."""
        self._nodes.append(self._cluster.add_node(num_cpus=1, **self._common))

    def remove(self, choice: float) -> set[int]:
        """Take a node away without notice, as when its machine dies; `choice` (0-1) says which. Returns the workers it had."""
        node = self._nodes.pop(int(choice * len(self._nodes)))
        workers = children([_raylet(node)])
        kill([_raylet(node), *workers])
        self._cluster.remove_node(node, allow_graceful=False)
        return workers

    def workers(self) -> set[int]:
        """Processes that run tasks and actors on the nodes."""
        return children([_raylet(node) for node in self._nodes])

    def close(self) -> None:
        """End the cluster and every process of it."""
        raylets = [_raylet(node) for node in self._cluster.list_all_nodes()]
        kill([*raylets, *children(raylets)])
        self._cluster.shutdown()


def _raylet(node: Any) -> int:
    """Process of a node's raylet, whose children are its workers."""
    return int(node.all_processes["raylet"][0].process.pid)
