"""The architecture's floors: a module imports from below, never from above or from a neighbour.

The checker reads sources, so imports within functions count too.
"""

import ast
import graphlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("pipeline", "jobs", "tune")

# A module belongs to the longest of these names that it is or lies within.
FLOORS = {
    # It runs whole trainings.
    "pipeline.benchmark.share": 4,
    "jobs": 5,
    "tune": 5,
    "pipeline.chaos": 4,
    "pipeline.cluster": 4,
    "pipeline.command": 4,
    "pipeline.fleet": 4,
    "pipeline.launch": 4,
    "pipeline.lean_trainer": 4,
    "pipeline.benchmark": 3,
    "pipeline.courier": 3,
    "pipeline.delivery": 3,
    # Above the shards and pictures that it is about, though no part of Ray's worker side.
    "pipeline.inspection": 3,
    "pipeline.lookup": 3,
    "pipeline.loop": 3,
    "pipeline.parcels": 3,
    "pipeline.prediction_plan": 3,
    "pipeline.preparation": 3,
    "pipeline.recording": 3,
    "pipeline.rendezvous": 3,
    "pipeline.reservation": 3,
    "pipeline.stopping": 3,
    "pipeline.tracking": 3,
    "pipeline.worker": 3,
    "pipeline.archive": 2,
    "pipeline.bad_steps": 2,
    "pipeline.bundle": 2,
    "pipeline.check_people": 2,
    "pipeline.checkpoint": 2,
    "pipeline.close_ups": 2,
    "pipeline.comparison": 2,
    "pipeline.conversion": 2,
    "pipeline.delivered": 2,
    "pipeline.ema": 2,
    "pipeline.estimation": 2,
    "pipeline.evaluation": 2,
    "pipeline.example": 2,
    "pipeline.export": 2,
    "pipeline.keeper": 2,
    "pipeline.learner": 2,
    "pipeline.models": 2,
    "pipeline.monitor": 2,
    "pipeline.note": 2,
    "pipeline.notices": 2,
    "pipeline.overlays": 2,
    "pipeline.packing": 2,
    "pipeline.plan": 2,
    "pipeline.prediction": 2,
    "pipeline.progress": 2,
    "pipeline.provenance": 2,
    "pipeline.ranks": 2,
    "pipeline.record": 2,
    "pipeline.schedule": 2,
    "pipeline.serving": 2,
    "pipeline.shards": 2,
    "pipeline.signals": 2,
    "pipeline.trainee": 2,
    "pipeline.training": 2,
    "pipeline.transfer": 2,
    "pipeline.watchdog": 2,
    "pipeline.witness": 2,
    "pipeline.cases": 1,
    "pipeline.data": 1,
    "pipeline.figures": 1,
    "pipeline.geometry": 1,
    "pipeline.image_grid": 1,
    "pipeline.memory": 1,
    "pipeline.metric": 1,
    "pipeline.network": 1,
    "pipeline.statistics": 1,
    "pipeline.shapes": 1,
    "pipeline.sweep_figures": 1,
    "pipeline.system": 1,
    "pipeline.data.people": 0,
    "pipeline.errors": 0,
    "pipeline.heartbeats": 0,
    "pipeline.joint_file": 0,
    "pipeline.joint_set": 0,
    "pipeline.joints": 0,
    "pipeline.journal": 0,
    "pipeline.life": 0,
    "pipeline.pack_settings": 0,
    "pipeline.plain_data": 0,
    "pipeline.presets": 0,
    "pipeline.pulse": 0,
    "pipeline.recipes": 0,
    "pipeline.redaction": 0,
    "pipeline.settings": 0,
    "pipeline.stages": 0,
    "pipeline.whole": 0,
}
# Side by side: they never import each other, though they share a floor and a folder.
APART = (
    ("jobs", "tune"),
    ("pipeline.loop", "pipeline.tracking"),
    ("pipeline.worker", "pipeline.tracking"),
    ("pipeline.inspection", "pipeline.loop"),
    ("pipeline.inspection", "pipeline.tracking"),
)
# Outside libraries and where they may be imported.
HOMES = {
    "aiohttp": ("pipeline.shards.transport",),
    "botocore": ("pipeline.shards.transport",),
    "fsspec": ("pipeline.shards.transport",),
    "gcsfs": ("pipeline.shards.transport",),
    "matplotlib": ("pipeline.figures", "pipeline.sweep_figures"),
    "mlflow": ("pipeline.tracking",),
    "onnx": ("pipeline.export",),
    "onnxruntime": ("pipeline.export",),
    "onnxscript": ("pipeline.export",),
    "optuna": ("tune",),
    "pandas": ("tune", "jobs.compare", "pipeline.example", "pipeline.serving"),
    "playwright": (),
    "psutil": ("pipeline.system",),
    "pynvml": ("pipeline.system",),
    "pyarrow": ("pipeline.data.table_cells",),
    "ray": (
        *("jobs", "tune", "pipeline.benchmark.share", "pipeline.chaos.nodes"),
        *("pipeline.cluster", "pipeline.fleet", "pipeline.launch", "pipeline.lean_trainer"),
        *("pipeline.rendezvous", "pipeline.reservation", "pipeline.worker"),
    ),
    "s3fs": ("pipeline.shards.transport",),
    "simplejpeg": ("pipeline.data.crop", "pipeline.benchmark"),
    "tyro": ("jobs", "tune", "pipeline.command"),
    "webdataset": ("pipeline.shards.write", "pipeline.shards.streaming"),
}
# What a figure is may be said anywhere; drawing one has its home.
ANYWHERE = ("matplotlib.figure.Figure",)
RAY_FROM_FLOOR = 3


def sources() -> dict[str, str]:
    """The source of every module of the packages, by dotted name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = path.read_text()
    return found


def is_within(module: str, name: str) -> bool:
    return module == name or module.startswith(f"{name}.")


def floor_of(module: str) -> int | None:
    """The floor of a module of ours; the package `pipeline` itself holds nothing and lies at the bottom."""
    if module == "pipeline":
        return 0
    names = [name for name in FLOORS if is_within(module, name)]
    return FLOORS[max(names, key=len)] if names else None


def imports(source: str) -> Iterator[str]:
    """Every name that a source imports, dotted: `from a import b` is `a.b`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_module(name: str, modules: Mapping[str, str]) -> str | None:
    """The module of ours that an imported name is or lies in, or None."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name or None


def may_share(importer: str, imported: str) -> bool:
    """Whether two modules of one floor may know each other: one's folder contains the other's.

    So `pipeline.data.crop` may use `pipeline.geometry`, but `pipeline.data` and
    `pipeline.network` are strangers.
    """
    if any({own_side(importer, pair), own_side(imported, pair)} == set(pair) for pair in APART):
        return False
    folders = importer.rpartition(".")[0], imported.rpartition(".")[0]
    return is_within(folders[0], folders[1]) or is_within(folders[1], folders[0])


def own_side(module: str, pair: tuple[str, str]) -> str | None:
    return next((side for side in pair if is_within(module, side)), None)


def violations(modules: Mapping[str, str]) -> list[str]:
    """Everything in the sources that the architecture forbids, a sentence each."""
    found = []
    known = {name: floor_of(name) for name in modules}
    for module, source in modules.items():
        floor = known[module]
        if floor is None:
            found.append(f"{module} has no floor")
            continue
        for name in sorted(set(imports(source))):
            target = own_module(name, modules)
            if target is None:
                found.extend(outside_violations(module, floor, name))
            elif known[target] is None:
                pass  # said once, for the module itself
            elif known[target] > floor:
                found.append(f"{module} (floor {floor}) imports {target} (floor {known[target]})")
            elif known[target] == floor and not may_share(module, target):
                found.append(f"{module} imports its neighbour {target} (floor {floor})")
    return found + cycles(modules)


def outside_violations(module: str, floor: int, name: str) -> Iterator[str]:
    library = name.partition(".")[0]
    if library in PACKAGES:
        yield f"{module} imports {name}, which does not exist"
    elif floor == 0 and library not in sys.stdlib_module_names:
        yield f"{module} (floor 0) imports {library}, which is not the standard library"
    elif library == "ray" and floor < RAY_FROM_FLOOR:
        yield f"{module} (floor {floor}) imports ray"
    elif name not in ANYWHERE and not any(
        is_within(module, home) for home in HOMES.get(library, (module,))
    ):
        yield f"{module} imports {library}, whose home is {' and '.join(HOMES[library])}"


def cycles(modules: Mapping[str, str]) -> list[str]:
    graph = {
        module: {own_module(name, modules) for name in imports(source)} - {None}
        for module, source in modules.items()
    }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return ["imports in a circle: " + " -> ".join(reversed(error.args[1]))]
    return []


def test_modules_import_from_the_floors_below():
    assert violations(sources()) == []


def test_every_floor_that_is_named_is_inhabited():
    modules = sources()
    assert [name for name in FLOORS if not any(is_within(m, name) for m in modules)] == []


@pytest.mark.parametrize(
    ("module", "source", "said"),
    [
        (
            "pipeline.geometry",
            "from pipeline.shards.order import Positions",
            "pipeline.geometry (floor 1) imports pipeline.shards.order (floor 2)",
        ),
        (
            "pipeline.joints",
            "import pipeline.metric",
            "pipeline.joints (floor 0) imports pipeline.metric (floor 1)",
        ),
        (
            "pipeline.joints",
            "def late():\n    from pipeline import metric",
            "pipeline.joints (floor 0) imports pipeline.metric (floor 1)",
        ),
        (
            "pipeline.launch",
            "import tune",
            "pipeline.launch (floor 4) imports tune (floor 5)",
        ),
        (
            "pipeline.data.mpii",
            "from pipeline.network.loss import heatmap_mse",
            "pipeline.data.mpii imports its neighbour pipeline.network.loss (floor 1)",
        ),
        (
            "pipeline.loop",
            "from pipeline.tracking import log",
            "pipeline.loop imports its neighbour pipeline.tracking (floor 3)",
        ),
        (
            "tune.sweep",
            "import jobs.command",
            "tune.sweep imports its neighbour jobs.command (floor 5)",
        ),
        (
            "pipeline.settings",
            "import numpy as np",
            "pipeline.settings (floor 0) imports numpy, which is not the standard library",
        ),
        (
            "pipeline.data.people",
            "def late():\n    import torch",
            "pipeline.data.people (floor 0) imports torch, which is not the standard library",
        ),
        (
            "pipeline.training",
            "from ray.train import report",
            "pipeline.training (floor 2) imports ray",
        ),
        (
            "pipeline.loop",
            "import mlflow",
            "pipeline.loop imports mlflow, whose home is pipeline.tracking",
        ),
        (
            "pipeline.inspection.card",
            "import ray",
            "pipeline.inspection.card imports ray, whose home is jobs and tune and "
            "pipeline.benchmark.share and pipeline.chaos.nodes and pipeline.cluster and "
            "pipeline.fleet and pipeline.launch and pipeline.lean_trainer and pipeline.rendezvous and "
            "pipeline.reservation and pipeline.worker",
        ),
        (
            "pipeline.shards.read",
            "import webdataset as wds",
            "pipeline.shards.read imports webdataset, whose home is pipeline.shards.write and pipeline.shards.streaming",
        ),
        (
            "pipeline.tracking",
            "import matplotlib.pyplot as plt",
            "pipeline.tracking imports matplotlib, whose home is pipeline.figures and pipeline.sweep_figures",
        ),
        (
            "pipeline.launch",
            "import tyro",
            "pipeline.launch imports tyro, whose home is jobs and tune and pipeline.command",
        ),
        ("pipeline.utils", "", "pipeline.utils has no floor"),
        (
            "jobs.pack",
            "from jobs.command import main\nimport tyro\nimport ray\nimport pipeline.launch",
            None,
        ),
        ("pipeline.network.cost", "from pipeline.network.hourglass import Hourglass", None),
        ("pipeline.data.mpii", "from pipeline.data.annotations import Annotations", None),
        ("pipeline.data.crop", "from pipeline.geometry import transform", None),
        ("pipeline.packing", "from pipeline.shards.write import write_shard", None),
        ("pipeline.tracking", "from matplotlib.figure import Figure", None),
        ("tune.sweep", "import ray.tune\nfrom ray.tune import Tuner", None),
    ],
)
def test_the_checker_knows_what_is_forbidden(module, source, said):
    others = (
        "pipeline",
        "pipeline.data.annotations",
        "pipeline.geometry",
        "pipeline.launch",
        "pipeline.metric",
        "pipeline.network.hourglass",
        "pipeline.network.loss",
        "pipeline.shards.order",
        "pipeline.shards.write",
        "pipeline.tracking",
        "jobs.command",
        "tune",
    )
    made = dict.fromkeys(others, "") | {module: source}
    assert violations(made) == ([said] if said else [])


def test_the_checker_finds_a_circle():
    made = {
        "pipeline.data.lsp": "from pipeline.data.coco import read_coco",
        "pipeline.data.coco": "def late():\n    import pipeline.data.lsp",
    }
    [said] = violations(made)
    assert said.startswith("imports in a circle: ")
    assert "pipeline.data.lsp -> pipeline.data.coco" in said
