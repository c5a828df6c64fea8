"""Load of the machine (CPU, memory, disk, network, GPUs), by MLflow's names of system metrics."""

import contextlib
import threading
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self

import psutil
import pynvml

from pipeline.io.console import say
from pipeline.run.journal import SYSTEM_NAME, Journal
from pipeline.run.ownership import SupersededError, Writer

# Seconds between samples, and samples per journal entry.
_EVERY_S, _SAMPLES = 5.0, 6


class Monitor:
    """A thread that adds half-minute means of the load to the system journal in `folder`.

    `folder` must exist. Errors are logged and do not affect the run. It ends when another start of
    the run owns the folder.
    """

    def __init__(self, folder: Path, writer: Writer | None = None) -> None:
        self._folder, self._journal = folder, Journal(folder, SYSTEM_NAME, writer=writer)
        self._gpus = _gpus()
        self._samples: list[Mapping[str, float]] = []
        psutil.cpu_percent()  # from now on, not since the machine booted
        self._network = psutil.net_io_counters()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="monitor", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def sample(self) -> None:
        """Measure the load now."""
        memory, disk = psutil.virtual_memory(), psutil.disk_usage(str(self._folder))
        self._samples.append(
            {
                "cpu_utilization_percentage": psutil.cpu_percent(),
                "system_memory_usage_megabytes": memory.used / 1e6,
                "system_memory_usage_percentage": 100 * memory.used / memory.total,
                "disk_usage_percentage": disk.percent,
                "disk_usage_megabytes": disk.used / 1e6,
                "disk_available_megabytes": disk.free / 1e6,
                **{name: value for gpu in self._gpus for name, value in _gpu_sample(*gpu)},
            }
        )

    def summary(self) -> dict[str, float]:
        """Return means of the samples since the last summary, and all network traffic, in MB."""
        taken, self._samples = self._samples, []
        network = psutil.net_io_counters()
        means = {
            name: sum(sample[name] for sample in taken) / len(taken)
            for name in (taken[0] if taken else ())
            if all(name in sample for sample in taken)
        }
        traffic = {
            "network_receive_megabytes": (network.bytes_recv - self._network.bytes_recv) / 1e6,
            "network_transmit_megabytes": (network.bytes_sent - self._network.bytes_sent) / 1e6,
        }
        return {f"system/{name}": round(value, 1) for name, value in (means | traffic).items()}

    def _watch(self) -> None:
        try:
            is_over = False
            while not is_over:
                for _ in range(_SAMPLES):
                    is_over = self._over.wait(_EVERY_S)
                    self.sample()
                    if is_over:
                        break
                self._enter()
        except SupersededError:
            return
        except Exception as error:
            # Such as an error of a GPU's driver: it must not end the run.
            say(f"system metrics are no longer recorded: {type(error).__name__}: {error}")

    def _enter(self) -> None:
        """Add an entry at the next step, as MLflow numbers them."""
        try:
            self._journal.metrics(self.summary(), len(self._journal.entries()) + 1)
        except OSError as error:
            say(f"{self._journal.path}: the last half minute was not recorded: {error}")


def interface_of(address: str) -> str:
    """Return the network interface with the IP address, or "" if there is none."""
    for name, held in psutil.net_if_addrs().items():
        if address in [one.address for one in held]:
            return name
    return ""


def open_addresses() -> list[str]:
    """Return where this process and its children listen, except on loopback."""
    found = []
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            for held in process.net_connections("inet"):
                # Sockets for both kinds of addresses show 127.0.0.1 like this.
                address = ip_address(held.laddr.ip.removeprefix("::ffff:"))
                if held.status == psutil.CONN_LISTEN and not address.is_loopback:
                    found.append(f"{process.name()} {held.laddr.ip}:{held.laddr.port}")
    return found


def _gpus() -> list[tuple[int, Any]]:
    """Return index and handle of each GPU. There are none without NVIDIA's driver."""
    with contextlib.suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
        return [(index, pynvml.nvmlDeviceGetHandleByIndex(index)) for index in range(count)]
    return []


def _gpu_sample(index: int, handle: Any) -> Iterator[tuple[str, float]]:
    """Yield what the driver tells of a GPU; of a part of one (MIG) it may not tell its load."""
    with contextlib.suppress(pynvml.NVMLError):
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        yield f"gpu_{index}_memory_usage_megabytes", memory.used / 1e6
        yield f"gpu_{index}_memory_usage_percentage", 100 * memory.used / memory.total
    with contextlib.suppress(pynvml.NVMLError):
        load = pynvml.nvmlDeviceGetUtilizationRates(handle).gpu
        yield f"gpu_{index}_utilization_percentage", load
    with contextlib.suppress(pynvml.NVMLError):
        yield f"gpu_{index}_power_usage_watts", pynvml.nvmlDeviceGetPowerUsage(handle) / 1000
