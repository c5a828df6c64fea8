"""How the ranks find each other: over loopback on one machine, else at their nodes' addresses."""

import os
import socket
from datetime import timedelta
from typing import Any

import ray
import torch.distributed as dist
from ray.train.torch import TorchConfig
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from pipeline.cluster.ray_private import LOOPBACK, TorchBackend
from pipeline.run.system_metrics import interface_of

# Rank 0's store, until the ranks have joined.
_opened: list[TCPStore] = []


class RendezvousConfig(TorchConfig):
    """Ray Train's configuration of the process group, with the rendezvous below."""

    @property
    def backend_cls(self) -> type[TorchBackend]:
        """The class that connects the ranks."""
        return _Rendezvous


class _Rendezvous(TorchBackend):
    """Ray Train's backend, with control over the addresses that the ranks listen on.

    A single rank gets no process group.
    """

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        workers, timeout_s = len(worker_group), backend_config.timeout_s
        if workers == 1:
            return
        # This is Ray Train's controller, on the driver's node.
        if ray.util.get_node_ip_address() != LOOPBACK:
            worker_group.execute(_listen_where_ray_does)
            super().on_start(worker_group, backend_config)
            return
        has_gpu = worker_group.get_resources_per_worker().get("GPU", 0) > 0
        port = worker_group.execute_single(0, _open_store, timeout_s)
        common = "nccl" if has_gpu else "gloo", port, workers, timeout_s
        ray.get(
            [
                worker_group.execute_single_async(rank, _join, rank, *common)
                for rank in range(workers)
            ]
        )


def _listen_where_ray_does() -> None:
    # Gloo would listen on the address of the host's name: on Debian and Ubuntu that is 127.0.1.1,
    # which other machines can't reach. NCCL ignores loopback by itself.
    interface = interface_of(ray.util.get_node_ip_address())
    if interface:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)


def _open_store(timeout_s: int) -> int:
    """Open the store in rank 0's process; return its port."""
    listening = socket.create_server((LOOPBACK, 0))
    port = int(listening.getsockname()[1])
    # Without a socket that is bound already it would listen on all interfaces.
    _opened.append(
        TCPStore(
            LOOPBACK,
            port,
            is_master=True,
            timeout=timedelta(seconds=timeout_s),
            wait_for_workers=False,
            master_listen_fd=listening.detach(),
        )
    )
    return port


def _join(rank: int, backend: str, port: int, workers: int, timeout_s: int) -> None:
    # Ray Train's backend sets these too.
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = LOOPBACK, str(port)
    timeout = timedelta(seconds=timeout_s)
    if rank == 0:
        store = _opened.pop()
    else:
        store = TCPStore(LOOPBACK, port, is_master=False, timeout=timeout)
    dist.init_process_group(backend, store=store, rank=rank, world_size=workers, timeout=timeout)
