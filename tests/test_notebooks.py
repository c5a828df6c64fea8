"""The notebooks of the documentation: stored without outputs, and executed on small data."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import pytest
from factories import SMALL_CALL
from jupyter_client import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook

FOLDER = Path(__file__).parents[1] / "docs/notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
# Small parameters, in place of a notebook's own.
SMALL = f"scenes, validation_images, pictures = 8, 2, 12\nsettings = {SMALL_CALL!r}\n"
# One cluster for all calls; no name of the notebook's stays.
BEGIN = """
import builtins
from pipeline.cluster.start import cluster
builtins.started = cluster("local")
builtins.started.__enter__()
%reset -f
"""
END = "import builtins; builtins.started.__exit__(None, None, None)"
LONG = """
settings |= {"data.reading": "streaming", "data.epoch_samples": 100_000, "ray.checkpoint_steps": 4}
hg.train("out/people", name="long", settings=settings)
"""


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_outputs(path):
    nbformat.validate(read(path))
    for cell in read(path).cells:
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None)
    assert set(read(path).metadata) == {"kernelspec", "language_info"}


def small(path: Path) -> Iterator[NotebookNode]:
    """Yield the cells of code of a notebook, with parameters for a test."""
    for cell in read(path).cells:
        if cell.cell_type == "code":
            is_replaced = "parameters" in cell.metadata.get("tags", [])
            yield new_code_cell(SMALL if is_replaced else cell.source)


def shown(cell: NotebookNode) -> str:
    """Return the text that a cell prints and returns."""
    texts = [o.get("text") or o.get("data", {}).get("text/plain", "") for o in cell.outputs]
    return "".join(texts)


@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_notebooks_run_and_an_interrupt_stops_training_in_order(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    quickstart, own = (
        list(small(FOLDER / f"{name}.ipynb")) for name in ("quickstart", "own_joints")
    )
    train, long, after = quickstart[2], new_code_cell(LONG), new_code_cell("hg.load('long').name")
    setting = new_code_cell(f"{SMALL}\nimport hourglass_ray as hg")
    resets = [new_code_cell("%reset -f") for _ in range(2)]
    begin, end = new_code_cell(BEGIN), new_code_cell(END)
    cells = [begin, *quickstart, resets[0], *own, resets[1], setting, long, after, end]
    kernel = AsyncKernelManager(kernel_name="python3")
    folder = {"metadata": {"path": str(tmp_path)}}
    client = NotebookClient(new_notebook(cells=cells), km=kernel, timeout=300, resources=folder)

    over = threading.Event()

    def interrupt() -> None:
        """Interrupt the kernel in the midst of an epoch, unless the cells are over before."""
        while not any((tmp_path / "runs/long").glob("epoch_0000+*")):
            if over.wait(0.2):
                return
        asyncio.run(kernel.interrupt_kernel())

    with client.setup_kernel(cleanup_kc=True), ThreadPoolExecutor(1) as pool:
        interrupting = pool.submit(interrupt)
        try:
            for number, cell in enumerate(cells[:-3]):
                client.execute_cell(cell, number)
            assert "epoch 1/1: 100%" in shown(train), "no bar"
            assert "epoch 1/1 evaluated" in shown(train)
            # The name of the error is coloured.
            stopped = r"TrainingError\S*: stopped with a checkpoint after \d+ samples; the same"
            with pytest.raises(CellExecutionError, match=stopped):
                client.execute_cell(long, len(cells) - 3)
            client.execute_cell(after, len(cells) - 2)
            assert shown(after) == "'long'"
        finally:
            over.set()
            # The kernel is then killed, and could not end the cluster.
            client.execute_cell(cells[-1], len(cells) - 1)
            interrupting.result(timeout=60)
