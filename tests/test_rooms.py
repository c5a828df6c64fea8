"""The architecture: which room may import which, and where each outside library is at home.

The checker reads sources, so imports within functions count too.
"""

import ast
import graphlib
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from beartype.roar import BeartypeCallHintParamViolation

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("pipeline", "jobs", "tune", "hourglass_ray")
# Above the rooms, and what each may not import.
ABOVE = {
    "jobs": {"jobs", "tune", "hourglass_ray"},
    "tune": {"jobs", "tune", "hourglass_ray"},
    "hourglass_ray": set(),
}

# The rooms of `pipeline`, from the ground up, and the rooms that each may import beside itself.
MAY_IMPORT = {
    "io": set(),
    "settings": {"io"},
    "pose": {"io"},
    "model": {"io", "settings", "pose"},
    "data": {"io", "settings", "pose"},
    "run": {"io", "settings", "pose", "model", "data"},
    "evaluation": {"io", "settings", "pose", "model", "data"},
    "training": {"io", "settings", "pose", "model", "data", "run", "evaluation"},
    "inference": {"io", "settings", "pose", "model", "data", "run"},
    "tracking": {
        *("io", "settings", "pose", "model", "data"),
        *("run", "evaluation", "training", "inference"),
    },
    "cluster": {"io", "settings", "pose", "data", "run", "training", "tracking"},
}
# Outside libraries, and the only modules or packages that may import them.
HOMES = {
    "aiohttp": ("pipeline.io.transport",),
    "botocore": ("pipeline.io.objects", "pipeline.io.transport"),
    "fsspec": ("pipeline.io.transport",),
    "gcsfs": ("pipeline.io.transport",),
    "jinja2": ("pipeline.io.page",),
    "matplotlib": ("pipeline.data.pictures", "pipeline.evaluation.charts", "tune.figures"),
    "mlflow": ("pipeline.tracking",),
    "obstore": ("pipeline.io.objects",),
    "onnx": ("pipeline.inference.export",),
    "onnxruntime": ("pipeline.inference.export",),
    "onnxscript": ("pipeline.inference.export",),
    "optuna": ("tune",),
    "pandas": (
        "pipeline.inference.pyfunc",
        "pipeline.tracking.models",
        "jobs.compare",
        "tune",
        "hourglass_ray",
    ),
    "playwright": (),
    "psutil": ("pipeline.run.system_metrics",),
    "pyarrow": ("pipeline.data.formats.table_cells", "pipeline.inference.request"),
    "pynvml": ("pipeline.run.system_metrics",),
    "ray": ("pipeline.cluster", "pipeline.inference.ray_data", "jobs", "tune"),
    "s3fs": ("pipeline.io.transport",),
    "simplejpeg": ("pipeline.data.shards.crop", "jobs.benchmark"),
    "tqdm": ("pipeline.io.progress",),
    "tyro": ("pipeline.settings.cli", "jobs", "tune"),
    "webdataset": ("pipeline.data.shards.writer", "pipeline.data.shards.streaming"),
}
# A figure may be passed on anywhere; drawing one has its homes.
ANYWHERE = ("matplotlib.figure.Figure",)


@cache
def sources() -> dict[str, str]:
    """Return the source of every module of the packages, by dotted name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = path.read_text()
    return found


def is_within(module: str, name: str) -> bool:
    return module == name or module.startswith(f"{name}.")


def room_of(module: str) -> str | None:
    """Return the room that a module of `pipeline` lies in; other packages are their own."""
    package, _, rest = module.partition(".")
    return rest.partition(".")[0] if package == "pipeline" else package


def imports(source: str) -> Iterator[str]:
    """Yield every name that a source imports, dotted: `from a import b` is `a.b`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_module(name: str, modules: Mapping[str, str]) -> str | None:
    """Return the module of ours that an imported name is or lies in, or None."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name or None


def violations(modules: Mapping[str, str]) -> list[str]:
    """Return everything in the sources that the architecture forbids, a sentence each."""
    found = []
    for module, source in modules.items():
        if module == "pipeline":
            continue
        room = room_of(module)
        if module.startswith("pipeline.") and room not in MAY_IMPORT:
            found.append(f"{module} lies in no room")
            continue
        for name in sorted(set(imports(source))):
            target = own_module(name, modules)
            if target is None:
                found.extend(outside_violations(module, name))
            elif not may_import(module, target):
                found.append(f"{module} imports {target}, which {room} may not")
    return found + cycles(modules)


def may_import(module: str, target: str) -> bool:
    room, other = room_of(module), room_of(target)
    if room == other or target == "pipeline":
        return True
    if room in ABOVE:
        return other not in ABOVE[room]
    return other in MAY_IMPORT[room]


def outside_violations(module: str, name: str) -> Iterator[str]:
    library = name.partition(".")[0]
    if library in PACKAGES:
        yield f"{module} imports {name}, which does not exist"
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


def reached(module: str, modules: Mapping[str, str]) -> set[str]:
    """Return all modules of ours that importing a module loads, its imports in functions aside."""
    found, todo = set(), [module]
    while todo:
        name = todo.pop()
        if name in found:
            continue
        found.add(name)
        for imported in imports_at_top(modules[name]):
            target = own_module(imported, modules)
            if target is not None:
                todo.append(target)
    return found


def imports_at_top(source: str) -> Iterator[str]:
    """Yield what a source imports when it is loaded: not in functions, not for type checkers."""
    tree = ast.parse(source)
    tree.body = [node for node in tree.body if "TYPE_CHECKING" not in ast.dump(node)[:80]]
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield from imports(ast.unparse(node))


def test_modules_import_what_their_room_may():
    assert violations(sources()) == []


def test_every_room_has_modules_and_none_lies_outside_the_rooms():
    inside = [name for name in sources() if name.startswith("pipeline.")]
    assert {room_of(name) for name in inside} == set(MAY_IMPORT)
    assert [path.name for path in (ROOT / "pipeline").glob("*.py")] == ["__init__.py"]


def test_arrows_between_rooms_point_down():
    rooms = list(MAY_IMPORT)
    for number, room in enumerate(rooms):
        assert MAY_IMPORT[room] <= set(rooms[:number])


def test_settings_need_the_standard_library_alone_but_for_the_command_line():
    for module, source in sources().items():
        if is_within(module, "pipeline.settings") and module != "pipeline.settings.cli":
            outside = {name.partition(".")[0] for name in imports(source)}
            assert outside <= sys.stdlib_module_names | {"pipeline"}, module


def test_a_training_step_needs_little_more_than_torch():
    outside = set()
    for module in reached("pipeline.training.step", sources()):
        outside |= {name.partition(".")[0] for name in imports_at_top(sources()[module])}
    # jaxtyping only where it is installed.
    known = {"pipeline", "torch", "numpy", "cv2", "jaxtyping"}
    assert outside <= sys.stdlib_module_names | known


def test_one_module_builds_networks():
    calls = [
        module
        for module, source in sources().items()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and "StackedHourglass" in (getattr(node.func, "id", ""), getattr(node.func, "attr", ""))
    ]
    assert calls == ["pipeline.model.build"]


def test_the_training_loop_imports_neither_ray_nor_mlflow():
    rooms = {room_of(module) for module in reached("pipeline.training.loop", sources())}
    assert rooms <= MAY_IMPORT["training"] | {"training", ""}


@pytest.mark.parametrize(
    ("module", "source", "sentence"),
    [
        (
            "pipeline.pose.geometry",
            "from pipeline.data.sampler import epoch_order",
            "pipeline.pose.geometry imports pipeline.data.sampler, which pose may not",
        ),
        (
            "pipeline.pose.joint_sets",
            "def late():\n    from pipeline.evaluation import metrics",
            "pipeline.pose.joint_sets imports pipeline.evaluation.metrics, which pose may not",
        ),
        (
            "pipeline.cluster.launch",
            "import tune",
            "pipeline.cluster.launch imports tune, which cluster may not",
        ),
        (
            "pipeline.data.formats.mpii",
            "from pipeline.model.loss import heatmap_mse",
            "pipeline.data.formats.mpii imports pipeline.model.loss, which data may not",
        ),
        (
            "pipeline.training.loop",
            "from pipeline.tracking import runs",
            "pipeline.training.loop imports pipeline.tracking, which training may not",
        ),
        (
            "tune.sweep",
            "import jobs.train",
            "tune.sweep imports jobs.train, which tune may not",
        ),
        (
            "jobs.pack",
            "from hourglass_ray import train",
            "jobs.pack imports hourglass_ray, which jobs may not",
        ),
        (
            "pipeline.training.loop",
            "from ray.train import report",
            "pipeline.training.loop imports ray, whose home is pipeline.cluster and "
            "pipeline.inference.ray_data and jobs and tune",
        ),
        (
            "pipeline.training.loop",
            "import mlflow",
            "pipeline.training.loop imports mlflow, whose home is pipeline.tracking",
        ),
        (
            "pipeline.data.shards.reader",
            "import webdataset as wds",
            "pipeline.data.shards.reader imports webdataset, whose home is "
            "pipeline.data.shards.writer and pipeline.data.shards.streaming",
        ),
        (
            "pipeline.run.plan",
            "import jobs.nowhere",
            "pipeline.run.plan imports jobs.nowhere, which does not exist",
        ),
        ("pipeline.utils", "", "pipeline.utils lies in no room"),
        ("jobs.pack", "import tyro\nimport ray\nimport pipeline.cluster.launch", None),
        ("pipeline.model.cost", "from pipeline.model.hourglass import Hourglass", None),
        ("pipeline.data.packing", "from pipeline.data.shards.writer import write_shard", None),
        ("pipeline.tracking.runs", "from matplotlib.figure import Figure", None),
        ("tune.sweep", "import ray.tune\nfrom ray.tune import Tuner", None),
        ("hourglass_ray.api", "from tune import sweep\nfrom jobs.train import run", None),
    ],
)
def test_the_checker_finds_forbidden_imports(module, source, sentence):
    others = (
        "pipeline",
        "pipeline.cluster.launch",
        "pipeline.data.sampler",
        "pipeline.data.shards.writer",
        "pipeline.evaluation.metrics",
        "pipeline.model.hourglass",
        "pipeline.model.loss",
        "pipeline.tracking",
        "jobs.train",
        "tune",
        "hourglass_ray",
    )
    modules = dict.fromkeys(others, "") | {module: source}
    assert violations(modules) == ([sentence] if sentence else [])


def test_the_checker_finds_a_circle():
    modules = {
        "pipeline.data.lsp": "from pipeline.data.coco import read_coco",
        "pipeline.data.coco": "def late():\n    import pipeline.data.lsp",
    }
    [sentence] = violations(modules)
    assert sentence.startswith("imports in a circle: ")
    assert "pipeline.data.lsp -> pipeline.data.coco" in sentence


def test_axes_of_arguments_are_compared_while_the_tests_run():
    from pipeline.evaluation.metrics import normalised_errors

    joints, annotated = np.zeros((3, 16, 2)), np.ones((3, 16), bool)
    assert normalised_errors(joints, joints, annotated, np.ones(3)).shape == (3, 16)
    with pytest.raises(BeartypeCallHintParamViolation, match=r"dimension person is 4 .* 3"):
        normalised_errors(joints, joints, annotated, np.ones(4))
