"""A Ray cluster of several nodes on this machine; nodes are added and removed."""

import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster

from jobs.chaos.programs import free_port
from pipeline.io.processes import children, send

_STORE_BYTES = 80 * 2**20
# Loopback, which no other machine reaches. Ray's clients replace 127.0.0.1 by the outer address.
_ADDRESS = "127.0.0.2"


class Nodes:
    """A head without CPUs, where drivers connect, and nodes of one CPU. Main thread only.

    With disks each node has a folder of temporary files of its own, which is lost with it.
    """

    def __init__(self, folder: Path, count: int, *, has_disks: bool = False) -> None:
        # Ray's files and the address of its last cluster, which other programs here may join.
        os.environ["RAY_TMPDIR"] = str(folder)
        self._common: dict[str, Any] = {
            "node_ip_address": _ADDRESS,
            "object_store_memory": _STORE_BYTES,
        }
        head = self._common | {
            "num_cpus": 0,
            # Its State API frees the resources of a run whose driver was killed.
            "include_dashboard": True,
            "dashboard_port": free_port(),
        }
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self._nodes: list[Any] = []
        self._folder, self._disk_of = folder if has_disks else None, dict[Any, Path]()
        for _ in range(count):
            self.add()

    def __len__(self) -> int:
        return len(self._nodes)

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def add(self) -> None:
        """Add a node, and wait until the cluster knows it."""
        if self._folder is None:
            self._nodes.append(self._cluster.add_node(num_cpus=1, **self._common))
            return
        disk = Path(tempfile.mkdtemp(prefix="disk-", dir=self._folder))
        options = self._common | {"env_vars": {"TMPDIR": str(disk)}}
        self._nodes.append(self._cluster.add_node(num_cpus=1, **options))
        self._disk_of[self._nodes[-1]] = disk

    def remove(self, choice: float) -> set[int]:
        """Kill a node, chosen by `choice` (0-1), as a lost machine; return its worker processes."""
        node = self._nodes.pop(int(choice * len(self._nodes)))
        workers = children([_raylet(node)])
        send([_raylet(node), *workers], signal.SIGKILL)
        self._cluster.remove_node(node, allow_graceful=False)
        if node in self._disk_of:
            shutil.rmtree(self._disk_of.pop(node), ignore_errors=True)
        return workers

    def workers(self) -> set[int]:
        """Return the processes that run tasks and actors on the nodes."""
        return children([_raylet(node) for node in self._nodes])

    def close(self) -> None:
        nodes = self._cluster.list_all_nodes()
        # A signal may come while one is lost.
        raylets = [_raylet(node) for node in nodes if "raylet" in node.all_processes]
        send([*raylets, *children(raylets)], signal.SIGKILL)
        self._cluster.shutdown()


def _raylet(node: Any) -> int:
    """Return the process number of a node's raylet, whose children are its workers."""
    return int(node.all_processes["raylet"][0].process.pid)
