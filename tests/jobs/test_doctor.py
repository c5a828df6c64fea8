"""`jobs.doctor`: what it finds, and which findings end it with status 1."""

import socket
from contextlib import suppress

import pytest

from jobs import doctor


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """Keep the tests' folder of runs and database apart from those of the repository."""
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "TMPDIR", "RAY_TMPDIR"):
        monkeypatch.delenv(name, raising=False)


def findings(capsys, *words: str) -> dict[str, tuple[str, str]]:
    """Return mark and text of each check by its name."""
    with suppress(SystemExit):
        doctor.main(list(words))
    lines = capsys.readouterr().out.splitlines()
    return {line[6:19].strip(): (line[:4].strip(), line[21:]) for line in lines}


def test_a_sound_machine_passes_every_check_and_nothing_is_written(capsys, tmp_path):
    found = findings(capsys)
    assert list(found) == list(doctor.CHECKS)
    assert {mark for mark, _ in found.values()} <= {"ok", "note"}
    assert found["MLflow store"] == ("ok", f"the first run makes {tmp_path / 'mlflow.db'}")
    assert not list(tmp_path.iterdir())


def test_what_would_fail_is_named_and_ends_with_status_1(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as end:
        doctor.main(
            [
                *("--ray.address", "127.0.0.1:1", "--ray.storage", str(tmp_path / "file")),
                *("--tracking.uri", "http://127.0.0.1:1"),
            ]
        )
    output = capsys.readouterr()
    assert end.value.code == 1
    assert "checks failed: Ray, TMPDIR, disk, MLflow store" in output.err
    assert f"FAIL  TMPDIR         TMPDIR={tmp_path / 'nowhere'} must be a folder" in output.out


def test_a_damaged_database_fails(capsys, tmp_path):
    (tmp_path / "mlflow.db").write_text("this is no database, but it is longer than a header")
    mark, text = findings(capsys)["MLflow store"]
    assert mark == "FAIL"
    assert "mlflow.db" in text


def test_a_port_in_use_is_a_note(capsys, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setattr(doctor, "_PORTS", {port: "the MLflow UI"})
        mark, text = findings(capsys)["ports"]
    assert (mark, text.startswith(f"in use: {port} (the MLflow UI)")) == ("note", True)


def test_a_driver_that_torch_cannot_use_fails(capsys, monkeypatch, tmp_path):
    driver = tmp_path / "version"
    driver.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86\nGCC version: 12\n")
    monkeypatch.setattr(doctor, "_DRIVER", driver)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    mark, text = findings(capsys)["GPU"]
    assert mark == "FAIL"
    assert "NVIDIA UNIX x86_64 Kernel Module  570.86" in text


def test_little_shared_memory_is_a_note(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "_OBJECT_STORE_MIB", 2**40)
    mark, text = findings(capsys)["shared memory"]
    assert mark == "note"
    assert "--shm-size" in text


def test_a_full_disk_fails(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "_LEAST_GB", 1e9)
    found = findings(capsys)
    assert found["disk"][0] == found["TMPDIR"][0] == "FAIL"
    assert "expected at least" in found["disk"][1]


def test_a_library_of_another_version_fails(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "requires", lambda name: ["numpy>=99", "nothing-like-it"])
    mark, text = findings(capsys)["libraries"]
    assert mark == "FAIL"
    assert "expected >=99; nothing-like-it none" in text
    assert text.endswith("to mend it: pip install 'numpy>=99' nothing-like-it")
