"""How busy the machine is: CPU, memory, disk, network and GPUs, under the names that MLflow's page of system metrics knows."""

import contextlib
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import psutil

from pipeline.io.console import say
from pipeline.run.journal import SYSTEM_NAME, Journal

# Seconds between samples, and samples that make an entry.
_EVERY_S, _SAMPLES = 5.0, 6


try:
    import pynvml
except ModuleNotFoundError:
    pynvml = None


class System:
    """Takes samples of this machine, and sums them up; `folder` exists, on the disk that is watched."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._gpus = _gpus()
        self._samples: list[Mapping[str, float]] = []
        psutil.cpu_percent()  # from now on, not since the machine began
        self._network = psutil.net_io_counters()

    def sample(self) -> None:
        """Take a sample."""
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
        """Means of the samples since the last summary, and what has crossed the network since the beginning, in MB."""
        taken, self._samples = self._samples, []
        network = psutil.net_io_counters()
        means = {
            name: sum(sample[name] for sample in taken) / len(taken)
            for name in (taken[0] if taken else ())
        }
        crossed = {
            "network_receive_megabytes": (network.bytes_recv - self._network.bytes_recv) / 1e6,
            "network_transmit_megabytes": (network.bytes_sent - self._network.bytes_sent) / 1e6,
        }
        return {f"system/{name}": round(value, 1) for name, value in (means | crossed).items()}


def interface_of(address: str) -> str:
    """The network interface that has the IP address; empty where none has it."""
    for name, held in psutil.net_if_addrs().items():
        if address in [one.address for one in held]:
            return name
    return ""


def _gpus() -> list[tuple[int, Any]]:
    """Numbers and handles of the machine's GPUs; none without NVIDIA's library or driver."""
    if pynvml is None:
        return []
    with contextlib.suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
        return [(index, pynvml.nvmlDeviceGetHandleByIndex(index)) for index in range(count)]
    return []


def _gpu_sample(index: int, handle: Any) -> Iterator[tuple[str, float]]:
    """What a GPU says of itself."""
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    yield f"gpu_{index}_memory_usage_megabytes", memory.used / 1e6
    yield f"gpu_{index}_memory_usage_percentage", 100 * memory.used / memory.total
    yield f"gpu_{index}_utilization_percentage", pynvml.nvmlDeviceGetUtilizationRates(handle).gpu
    yield f"gpu_{index}_power_usage_watts", pynvml.nvmlDeviceGetPowerUsage(handle) / 1000


class Monitor:
    """A thread that adds the means of half a minute to the journal of the machine in `folder`, and the rest at the end.

    What goes wrong with it is said, and does not reach the run.
    """

    def __init__(self, folder: Path) -> None:
        self._journal = Journal(folder, SYSTEM_NAME)
        self._system = System(folder)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="monitor", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        try:
            is_over = False
            while not is_over:
                for _ in range(_SAMPLES):
                    is_over = self._over.wait(_EVERY_S)
                    self._system.sample()
                    if is_over:
                        break
                self._enter()
        except Exception as error:
            # A slip of ours, or a driver's: the run is worth more than its machine's figures.
            say(f"the machine is no longer watched: {type(error).__name__}: {error}")

    def _enter(self) -> None:
        """Add an entry, at a step of its own, as MLflow counts them."""
        try:
            self._journal.metrics(self._system.summary(), len(self._journal.entries()) + 1)
        except OSError as error:
            say(f"{self._journal.path}: the last half minute is not recorded: {error}")
