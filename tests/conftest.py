"""Fixtures of all tests, and checks of array shapes while they run."""

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from checking import install_checks
from web_server import WebServer, serving
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

if TYPE_CHECKING:
    from obstore.store import MemoryStore

# Before any test file imports the package, whose annotations are checked while the tests run.
install_checks("pipeline")

# Tests start hundreds of processes, and each would compile the package again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Several tests run at a time, here and in the processes that they start.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

# A shell ignores SIGINT for what it starts in the background, and nohup SIGHUP. The programs that
# tests start would inherit this, and ignore the signals that end them.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

_TESTS = Path(__file__).resolve().parent
_DATA = _TESTS.parents[1] / "shared" / "data"


class Scheduling(LoadScopeScheduling):
    """Scheduler that runs all files that start a Ray cluster in one process.

    Two clusters on a machine disturb each other. Other files go to any process.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "cluster" if _starts_clusters(file) else file


@cache
def _starts_clusters(file: str) -> bool:
    return "pytest.mark.cluster" in (_TESTS.parent / file).read_text()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling:
    """Replace xdist's schedulers, whose groups pytest 9.2 does not know."""
    return Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the slowest tests first, so that the others run beside them."""
    items.sort(key=lambda item: not _starts_clusters(item.nodeid.partition("::")[0]))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Take back the number of threads that a command under test has set in this process."""
    yield
    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)


def _real(name: str) -> Path:
    if not (_DATA / name).is_dir():
        pytest.skip(f"there is no data folder shared/data/{name} beside the repository")
    return _DATA / name


@pytest.fixture(scope="session")
def kuberay_dir() -> Path:
    return _real("kuberay")


@pytest.fixture(scope="session")
def mpii_dir() -> Path:
    """Return the folder with MPII's annotations, published predictions and some photographs."""
    return _real("mpii")


@pytest.fixture(scope="session")
def lsp_dir() -> Path:
    """Return the folder with the joints of Leeds Sports Pose, without its images."""
    return _real("lsp")


@pytest.fixture(scope="session")
def lspet_dir() -> Path:
    """Return the folder with the first 6,000 images of Leeds Sports Pose Extended."""
    return _real("lspet")


@pytest.fixture(scope="session")
def coco_dir() -> Path:
    """Return the folder with four photographs of COCO val2017 and their keypoints."""
    return _real("coco")


@pytest.fixture(scope="session")
def tools_dir() -> Path:
    """Return the folder with genuine files of labelling tools."""
    return _real("tools")


@pytest.fixture(scope="session")
def new_database(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], str]:
    """Return a function that makes an MLflow database at a path, and returns its URI.

    MLflow takes seconds to make one, so all are copies of the first.
    """
    from mlflow import MlflowClient

    first = tmp_path_factory.mktemp("database") / "mlflow.db"
    MlflowClient(f"sqlite:///{first}").search_experiments()

    def made(path: Path) -> str:
        shutil.copy(first, path)
        return f"sqlite:///{path}"

    return made


@pytest.fixture(scope="session")
def faults_dir() -> Path:
    """Return the folder with small inputs that once failed, by number."""
    return _real("faults")


@pytest.fixture(scope="session")
def hostile_dir() -> Path:
    """Return the folder with inputs that were made to harm."""
    return _real("hostile")


@pytest.fixture
def pack(tmp_path: Path) -> Callable[..., list[Path]]:
    """Return a function that packs lists of samples, one per shard, into a folder of tmp_path."""
    from factories import pack_samples

    def packed(*shards: list, folder: str = "packed", **options: object) -> list[Path]:
        return pack_samples(tmp_path / folder, shards, **options)

    return packed


@pytest.fixture
def memory_store(monkeypatch: pytest.MonkeyPatch) -> "MemoryStore":
    """Return a bucket in memory, which all clients of this process reach by any name."""
    from obstore.store import MemoryStore

    from pipeline.io import objects

    store = MemoryStore()
    monkeypatch.setattr(objects, "_store", lambda scheme, bucket: store)
    return store


@pytest.fixture
def web() -> Iterator[WebServer]:
    """Start a web server for the test."""
    with serving() as server:
        yield server
