"""Check this machine before training on it: `python -m jobs.doctor --help`."""

import os
import platform
import shlex
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Annotated

import tyro

from jobs.options import Address
from pipeline.io.console import fail, say
from pipeline.settings.cli import clear_errors, parse

_DISTRIBUTION = "hourglass-ray"
_OLDEST_PYTHON = (3, 11)
_DRIVER = Path("/proc/driver/nvidia/version")
_SHARED_MEMORY = Path("/dev/shm")
# Ray's object store, as `pipeline.cluster.start` sizes it, in MiB.
_OBJECT_STORE_MIB = 256
# The least for a run of a small network, and for some checkpoints of the paper's, in GB (1e9).
_LEAST_GB, _ROOM_GB = 0.1, 5.0
# The MLflow UI's port in the documentation, and that of Ray's dashboard.
_PORTS = {5000: "the MLflow UI", 8265: "Ray's dashboard"}
_ANSWER_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Check Python, libraries, GPU, Ray, ports, memory, folders, MLflow's store and the browser.

    Exits with status 1 if something would fail. Starts nothing and changes nothing.
    """

    address: Address = ""
    storage: Annotated[str, tyro.conf.arg(name="ray.storage", metavar="DIR")] = ""
    """Folder of runs; empty: ./runs."""
    uri: Annotated[str, tyro.conf.arg(name="tracking.uri", metavar="URI")] = ""
    """MLflow tracking URI; empty: MLFLOW_TRACKING_URI, else ./mlflow.db."""


class Note(str):
    """A finding that a user should know of, with which training still works."""


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    arguments = parse(Arguments, None, argv)
    with clear_errors():
        failed = examine(arguments)
    if failed:
        fail(f"{len(failed)} of {len(CHECKS)} checks failed: {', '.join(failed)}")


def examine(arguments: Arguments) -> list[str]:
    """Print what each check finds. Return the names of those that failed."""
    failed = []
    for name, check in CHECKS.items():
        try:
            found = check(arguments)
            mark = "note" if isinstance(found, Note) else "ok"
        except (ValueError, OSError, ImportError, RuntimeError) as error:
            found, mark = str(error) or type(error).__name__, "FAIL"
            failed.append(name)
        say(f"{mark:4}  {name:13}  {found}")
    return failed


def _python(arguments: Arguments) -> str:
    found = f"Python {platform.python_version()} in {sys.prefix}"
    if sys.version_info < _OLDEST_PYTHON:
        raise ValueError(f"{found}; expected {'.'.join(map(str, _OLDEST_PYTHON))} or newer")
    return f"{found}, {len(os.sched_getaffinity(0))} CPU cores"


def _libraries(arguments: Arguments) -> str:
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(text) for text in requires(_DISTRIBUTION) or ()]
    except PackageNotFoundError:
        return Note(f"{_DISTRIBUTION} is not installed, so versions can't be checked")
    needed = [one for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    wrong = []
    for one in needed:
        try:
            has = version(one.name)
        except PackageNotFoundError:
            has = "none"
        if has == "none" or not one.specifier.contains(has, prereleases=True):
            wrong.append((one, has))
    if wrong:
        found = "; ".join(f"{one.name} {has}, expected {one.specifier}" for one, has in wrong)
        mend = shlex.join(["pip", "install", *(f"{one.name}{one.specifier}" for one, _ in wrong)])
        raise ValueError(f"{found}; to mend it: {mend}")
    return f"all {len(needed)} of {_DISTRIBUTION} {version(_DISTRIBUTION)} in expected versions"


def _torch(arguments: Arguments) -> str:
    import torch

    return f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()} on CPU"


def _gpu(arguments: Arguments) -> str:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
        return f"{len(names)}: {', '.join(names)}; CUDA {torch.version.cuda}"
    if not _DRIVER.exists():
        return "none: no NVIDIA driver is loaded; training runs on CPU"
    driver = _DRIVER.read_text().partition("\n")[0].partition(": ")[2].strip()
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU alone"
    raise ValueError(
        f"torch is built for {built} and finds no GPU, though a driver is loaded ({driver}); "
        "install torch for a CUDA version that this driver supports, or make the GPUs visible "
        "to this process (CUDA_VISIBLE_DEVICES, docker run --gpus all)"
    )


def _ray(arguments: Arguments) -> str:
    from pipeline.cluster.address import check_answer, named_cluster

    named, origin = named_cluster(arguments.address)
    check_answer(arguments.address)
    where = f"the cluster of {origin} answers" if named else "clusters start on this machine"
    return f"Ray {version('ray')}; {where}"


def _ports(arguments: Arguments) -> str:
    with socket.create_server(("127.0.0.1", 0)):
        pass
    taken = [f"{port} ({what})" for port, what in _PORTS.items() if _is_taken(port)]
    if taken:
        return Note(
            f"in use: {', '.join(taken)}; if that is another program, the UI needs another --port"
        )
    return f"programs can listen on 127.0.0.1; {' and '.join(map(str, _PORTS))} are free"


def _is_taken(port: int) -> bool:
    with socket.socket() as client:
        client.settimeout(1.0)
        return client.connect_ex(("127.0.0.1", port)) == 0


def _shared_memory(arguments: Arguments) -> str:
    if not _SHARED_MEMORY.is_dir():
        return Note(f"no {_SHARED_MEMORY}: Ray keeps objects on disk, which is slower")
    free = shutil.disk_usage(_SHARED_MEMORY).free / 2**20
    if free < _OBJECT_STORE_MIB:
        return Note(
            f"{free:,.0f} MiB free in {_SHARED_MEMORY}, Ray wants {_OBJECT_STORE_MIB}: it keeps "
            "objects on disk, which is slower (docker run --shm-size=1g)"
        )
    return f"{free:,.0f} MiB free in {_SHARED_MEMORY}"


def _temporary(arguments: Arguments) -> str:
    given = [name for name in ("TMPDIR", "RAY_TMPDIR") if os.environ.get(name)]
    for name in given:
        folder = Path(os.environ[name])
        if not os.access(folder, os.W_OK | os.X_OK):
            raise ValueError(f"{name}={folder} must be a folder that this user can write to")
    folder = Path(tempfile.gettempdir())
    _check_room("the temporary folder", folder)
    set_by = f", set by {' and '.join(given)}" if given else ""
    return f"{folder}{set_by}, {_free_gb(folder):,.1f} GB free"


def _storage(arguments: Arguments) -> str:
    from pipeline.run.plan import check_storage, resolved_storage

    setting, folder = check_storage(resolved_storage(arguments.storage), "")
    there = next(above for above in (folder, *folder.parents) if above.exists())
    _check_room(f"{setting}={folder}", there)
    free = _free_gb(there)
    text = f"{free:,.1f} GB free for runs in {folder}"
    if free < _ROOM_GB:
        return Note(f"{text}; a checkpoint of the paper's network takes about 0.4 GB")
    return text


def _check_room(name: str, folder: Path) -> None:
    free = _free_gb(folder)
    if free < _LEAST_GB:
        raise ValueError(f"{name}: {free:.2f} GB free, expected at least {_LEAST_GB:g}")


def _free_gb(folder: Path) -> float:
    return shutil.disk_usage(folder).free / 1e9


def _mlflow(arguments: Arguments) -> str:
    from pipeline.run.plan import check_writable, tracking_uri
    from pipeline.tracking.client import mlflow_client, reach

    uri = tracking_uri(arguments.uri)
    scheme, _, path = uri.partition(":///")
    database = Path(path.partition("?")[0])
    if scheme == "sqlite":
        check_writable("tracking.uri", database.parent)
        if not database.exists():
            return f"the first run makes {database}"
        if not os.access(database, os.W_OK):
            raise ValueError(f"tracking.uri: {database} can't be written")
    reach(uri, _ANSWER_S)
    with mlflow_client(uri) as client:
        client.search_experiments(max_results=1)
    return f"MLflow {version('mlflow')}; {uri} answers"


def _browser(arguments: Arguments) -> str:
    import webbrowser

    try:
        return f"{webbrowser.get().name} opens links"
    except webbrowser.Error:
        return Note("none opens from here: open the links that commands print elsewhere")


CHECKS: dict[str, Callable[[Arguments], str]] = {
    "Python": _python,
    "libraries": _libraries,
    "torch": _torch,
    "GPU": _gpu,
    "Ray": _ray,
    "ports": _ports,
    "shared memory": _shared_memory,
    "TMPDIR": _temporary,
    "disk": _storage,
    "MLflow store": _mlflow,
    "browser": _browser,
}


if __name__ == "__main__":
    main()
