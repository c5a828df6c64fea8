"""Fixtures of all tests, and the checking of array shapes while they run."""

import threading
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook
from web_server import WebServer
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

# Before any test file imports the package, so that its annotations hold while the tests run.
install_import_hook("pipeline", "checking.checked")

torch.set_num_threads(1)

_TESTS = Path(__file__).resolve().parent
_DATA = _TESTS.parents[1] / "shared" / "data"


class Scheduling(LoadScopeScheduling):
    """Files with tests that start a Ray cluster go to one process, one after another; each other file to any.

    Two clusters on a machine disturb each other.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "cluster" if _starts_clusters(file) else file


@cache
def _starts_clusters(file: str) -> bool:
    return "pytest.mark.cluster" in (_TESTS.parent / file).read_text()


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling:
    """Take the place of xdist's schedulers, whose groups pytest 9.2 does not know."""
    return Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests first that take longest, so that the others end beside them."""
    items.sort(key=lambda item: not _starts_clusters(item.nodeid.partition("::")[0]))


def _real(name: str) -> Path:
    if not (_DATA / name).is_dir():
        pytest.skip(f"the real data folder shared/data/{name} is not beside the repository")
    return _DATA / name


@pytest.fixture(scope="session")
def mpii_dir() -> Path:
    """Annotations of MPII, published predictions and a few of its photographs."""
    return _real("mpii")


@pytest.fixture(scope="session")
def lspet_dir() -> Path:
    """Leeds Sports Pose Extended: its first 6,000 images."""
    return _real("lspet")


@pytest.fixture(scope="session")
def coco_dir() -> Path:
    """Four photographs of COCO val2017 with their keypoints."""
    return _real("coco")


@pytest.fixture
def pack(tmp_path: Path) -> Callable[..., list[Path]]:
    """Return a function that packs samples into real shards with an index: `factories.pack_samples`.

    It takes a list of samples for each shard, and writes to tmp_path.
    """
    from factories import pack_samples

    def packed(*shards: list, folder: str = "packed", **options: object) -> list[Path]:
        return pack_samples(tmp_path / folder, shards, **options)

    return packed


@pytest.fixture
def web() -> Iterator[WebServer]:
    """A web server of the test's own."""
    server = WebServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.may_go_on.set()
    server.shutdown()
    server.server_close()
    thread.join()
