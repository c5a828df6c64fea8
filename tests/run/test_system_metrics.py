"""Load of the machine: means of samples, entered at steps of their own."""

from types import SimpleNamespace

import pytest

from pipeline.run import system_metrics as system
from pipeline.run.journal import Journal
from pipeline.run.system_metrics import Monitor


@pytest.fixture
def machine(monkeypatch):
    """A CPU at 0%, 10%, 30% in successive samples, with 1 MB sent and 2 MB received between."""
    busy, network = iter((0.0, 10.0, 30.0)), iter(range(10))

    def counters():
        number = next(network)
        return SimpleNamespace(bytes_recv=2e6 * number + 7, bytes_sent=1e6 * number)

    monkeypatch.setattr(system.psutil, "cpu_percent", lambda: next(busy))
    monkeypatch.setattr(system.psutil, "net_io_counters", counters)
    memory = SimpleNamespace(used=3e9, total=12e9)
    monkeypatch.setattr(system.psutil, "virtual_memory", lambda: memory)
    disk = SimpleNamespace(used=4e9, free=1e9, percent=80.0)
    monkeypatch.setattr(system.psutil, "disk_usage", lambda folder: disk)
    monkeypatch.setattr(system, "_gpus", lambda: [])


def test_a_summary_has_the_means_of_its_samples_and_all_network_traffic(machine, tmp_path):
    monitor = Monitor(tmp_path)
    monitor.sample()
    monitor.sample()
    assert monitor.summary() == {
        "system/cpu_utilization_percentage": 20.0,
        "system/system_memory_usage_megabytes": 3000.0,
        "system/system_memory_usage_percentage": 25.0,
        "system/disk_usage_percentage": 80.0,
        "system/disk_usage_megabytes": 4000.0,
        "system/disk_available_megabytes": 1000.0,
        "system/network_receive_megabytes": 2.0,
        "system/network_transmit_megabytes": 1.0,
    }
    # Without samples there are no means; network traffic keeps counting.
    assert monitor.summary() == {
        "system/network_receive_megabytes": 4.0,
        "system/network_transmit_megabytes": 2.0,
    }


def test_a_run_of_any_length_has_an_entry_and_a_resumed_one_continues_the_steps(tmp_path):
    for _ in range(2):
        with Monitor(tmp_path):
            pass
    entries = Journal(tmp_path, "system.jsonl").entries()
    assert [(entry.kind, entry.content["step"]) for entry in entries] == [
        ("metrics", 1),
        ("metrics", 2),
    ]
    assert 0 <= entries[0].content["values"]["system/cpu_utilization_percentage"] <= 100


def test_an_error_of_the_disk_is_logged_and_does_not_reach_the_run(tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError("no space left")

    monkeypatch.setattr(Journal, "metrics", refuse)
    with Monitor(tmp_path):
        pass
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path}/system.jsonl: the last half minute was not recorded: no space left"
    ]


def test_an_error_of_a_driver_is_logged_and_does_not_reach_the_run(tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise RuntimeError("GPU is lost")

    monkeypatch.setattr(Monitor, "sample", fail)
    with Monitor(tmp_path):
        pass
    assert capsys.readouterr().out.splitlines() == [
        "system metrics are no longer recorded: RuntimeError: GPU is lost"
    ]


def test_what_the_driver_does_not_tell_of_a_part_of_a_gpu_is_left_out(
    machine, monkeypatch, tmp_path
):
    def refuse(_):
        raise system.pynvml.NVMLError(system.pynvml.NVML_ERROR_NOT_SUPPORTED)

    monkeypatch.setattr(system, "_gpus", lambda: [(0, "part")])
    held = SimpleNamespace(used=5e9, total=20e9)
    monkeypatch.setattr(system.pynvml, "nvmlDeviceGetMemoryInfo", lambda _: held)
    monkeypatch.setattr(system.pynvml, "nvmlDeviceGetUtilizationRates", refuse)
    monkeypatch.setattr(system.pynvml, "nvmlDeviceGetPowerUsage", lambda _: 70_000)
    monitor = Monitor(tmp_path)
    monitor.sample()
    shown = {name: value for name, value in monitor.summary().items() if "gpu" in name}
    assert shown == {
        "system/gpu_0_memory_usage_megabytes": 5000.0,
        "system/gpu_0_memory_usage_percentage": 25.0,
        "system/gpu_0_power_usage_watts": 70.0,
    }
