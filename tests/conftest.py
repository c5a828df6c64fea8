"""Fixtures of all tests, and the checking of array shapes while they run."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook
from web_server import WebServer

# Before any test file imports the package, so that its annotations hold while the tests run.
install_import_hook("pipeline", "checking.checked")

torch.set_num_threads(1)

_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.hookimpl(tryfirst=True)  # before xdist looks for the marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep all tests that start a Ray cluster in one process: two clusters on a machine disturb each other."""
    for item in items:
        if item.get_closest_marker("cluster"):
            item.add_marker(pytest.mark.xdist_group("cluster"))


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
