"""How the ranks find each other: on one machine over loopback alone, else at the addresses by which Ray knows their nodes."""

import os
import socket
from datetime import timedelta
from typing import Any
from uuid import uuid4

import ray
import torch.distributed as dist
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from pipeline.run.system_metrics import interface_of

_LOOPBACK = "127.0.0.1"
# Rank 0's, between its opening and the ranks' meeting.
_opened: list[TCPStore] = []


def name_of_start() -> str:
    """What the ranks of this start have in common, and share with no other start."""
    if dist.is_initialized():
        return f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    return uuid4().hex


def torch_config(timeout_s: int) -> TorchConfig:
    """What connects the ranks, which wait for one another up to `timeout_s` seconds.

    On a cluster that knows its machine as 127.0.0.1 alone nothing listens elsewhere.
    """
    is_alone = ray.util.get_node_ip_address() == _LOOPBACK
    return (LoopbackConfig if is_alone else NetworkConfig)(timeout_s=timeout_s)


class NetworkConfig(TorchConfig):
    """As Ray Train's own, for ranks that may be on several machines."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """Who connects them."""
        return _NetworkBackend


class _NetworkBackend(_TorchBackend):
    """Ray Train's own, once every rank's Gloo knows where to listen; a rank that is alone meets nobody."""

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        if len(worker_group) == 1:
            return
        worker_group.execute(_listen_where_ray_does)
        super().on_start(worker_group, backend_config)


def _listen_where_ray_does() -> None:
    # Gloo would listen where the host's name points to: on Debian and Ubuntu that is
    # 127.0.1.1, which on another machine is that machine itself. NCCL passes over loopback.
    interface = interface_of(ray.util.get_node_ip_address())
    if interface:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)


class LoopbackConfig(TorchConfig):
    """As Ray Train's own, for ranks that are all on this machine."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """Who connects them."""
        return _LoopbackBackend


class _LoopbackBackend(_TorchBackend):
    """Ray Train's own but for the meeting of the ranks; one that is alone meets nobody."""

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        workers, timeout_s = len(worker_group), backend_config.timeout_s
        if workers == 1:
            return
        has_gpu = worker_group.get_resources_per_worker().get("GPU", 0) > 0
        backend = "nccl" if has_gpu else "gloo"
        port = worker_group.execute_single(0, _open_store, timeout_s)
        ray.get(
            [
                worker_group.execute_single_async(
                    rank, _join, backend, port, rank, workers, timeout_s
                )
                for rank in range(workers)
            ]
        )


def _open_store(timeout_s: int) -> int:
    """Open the store in rank 0's process; return its port."""
    listening = socket.create_server((_LOOPBACK, 0))
    port = int(listening.getsockname()[1])
    # By itself it would listen on all interfaces.
    _opened.append(
        TCPStore(
            _LOOPBACK,
            port,
            is_master=True,
            timeout=timedelta(seconds=timeout_s),
            wait_for_workers=False,
            master_listen_fd=listening.detach(),
        )
    )
    return port


def _join(backend: str, port: int, rank: int, workers: int, timeout_s: int) -> None:
    # As Ray Train's own does.
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = _LOOPBACK, str(port)
    timeout = timedelta(seconds=timeout_s)
    store = (
        _opened.pop() if rank == 0 else TCPStore(_LOOPBACK, port, is_master=False, timeout=timeout)
    )
    dist.init_process_group(backend, store=store, rank=rank, world_size=workers, timeout=timeout)
