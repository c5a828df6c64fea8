"""How the ranks find each other: over loopback on one machine, else at their nodes' addresses.

Ray Train's controller imports this file, so it imports no torch, which takes seconds to load.
"""

import os
import socket
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import ray
from ray.train.backend import Backend, BackendConfig

from pipeline.cluster.ray_private import LOOPBACK
from pipeline.run.system_metrics import interface_of

if TYPE_CHECKING:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

# Rank 0's store, until the ranks have joined.
_opened: "list[TCPStore]" = []


@dataclass
class RendezvousConfig(BackendConfig):
    """Ray Train's configuration of the process group, whose operations end after `timeout_s`."""

    timeout_s: int = 1800

    @property
    def backend_cls(self) -> type[Backend]:
        """The class that connects the ranks."""
        return _Rendezvous


class _Rendezvous(Backend):
    """Connects the ranks by a store that rank 0 opens. A single rank gets no process group.

    Ray Train's own backend for torch leaves a port free for a moment before rank 0 takes it, and
    listens on all interfaces also where the cluster is this machine. It also waits for hung ranks
    to leave the group before it ends their processes; these are ended at once.
    """

    # For transfers between the GPUs of a node.
    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: RendezvousConfig) -> None:
        workers, timeout_s = len(worker_group), backend_config.timeout_s
        if workers == 1:
            return
        has_gpu = worker_group.get_resources_per_worker().get("GPU", 0) > 0
        address = worker_group.execute_single(0, _open_store, timeout_s)
        common = "nccl" if has_gpu else "gloo", address, workers, timeout_s
        ray.get(
            [
                worker_group.execute_single_async(rank, _join, rank, *common)
                for rank in range(workers)
            ]
        )


def _open_store(timeout_s: int) -> tuple[str, int]:
    """Open the store in rank 0's process; return its address and port."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    address = ray.util.get_node_ip_address()
    listening = _listening(address)
    port = int(listening.getsockname()[1])
    # Without a socket that is bound already it would listen on all interfaces.
    _opened.append(
        TCPStore(
            address,
            port,
            is_master=True,
            timeout=timedelta(seconds=timeout_s),
            wait_for_workers=False,
            master_listen_fd=listening.detach(),
        )
    )
    return address, port


def _listening(address: str) -> socket.socket:
    """Return a socket that the ranks on other nodes reach at `address`, if there are any."""
    if address == LOOPBACK:
        return socket.create_server((LOOPBACK, 0))
    # A node's address may be that of a host whose ports are forwarded to it.
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", 0))


def _join(rank: int, backend: str, address: tuple[str, int], workers: int, timeout_s: int) -> None:
    """Join the process group as this rank."""
    import torch.distributed as dist
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    _listen_where_ray_does()
    host, port = address
    timeout = timedelta(seconds=timeout_s)
    store = _opened.pop() if rank == 0 else TCPStore(host, port, is_master=False, timeout=timeout)
    dist.init_process_group(backend, store=store, rank=rank, world_size=workers, timeout=timeout)


def _listen_where_ray_does() -> None:
    # Gloo would listen on the address of the host's name: on Debian and Ubuntu that is 127.0.1.1,
    # which other machines can't reach. NCCL ignores loopback by itself.
    interface = interface_of(ray.util.get_node_ip_address())
    if interface:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
