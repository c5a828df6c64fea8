"""The part of this package that a module needs, to go with a model to where the package is not installed."""

import ast
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions, version
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_PACKAGE = __package__


def bundle(module: str, into: Path) -> tuple[Path, list[str]]:
    """Copy `module`, and all of the package that it imports, into a folder.

    Returns the package's folder there, and the installed versions of the
    outside libraries that it imports, as pip takes them.
    """
    files, outside = _needed(module)
    for file in files:
        copy = into / file.relative_to(_ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    known = packages_distributions()
    names = sorted({known[name][0] for name in outside})
    # A local version, such as torch's +cpu, is on no index.
    return into / _PACKAGE, [f"{name}=={version(name).partition('+')[0]}" for name in names]


def _needed(module: str) -> tuple[set[Path], set[str]]:
    """Files of the package, and names of outside libraries, that `module` imports in the end."""
    files, outside, todo = set[Path](), set[str](), [_PACKAGE, module]
    while todo:
        file = _file_of(todo.pop())
        if file is None or file in files:
            continue
        files.add(file)
        for name in _imported(file):
            top = name.partition(".")[0]
            if top == _PACKAGE:
                todo += [name, name.rpartition(".")[0]]
            elif top not in sys.stdlib_module_names:
                outside.add(top)
    return files, outside


def _imported(file: Path) -> Iterator[str]:
    """Modules that a file imports, and what it takes from them, which may be modules too."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, "the house has no relative imports"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _file_of(name: str) -> Path | None:
    place = _ROOT / name.replace(".", "/")
    found = (place / "__init__.py", place.with_suffix(".py"))
    return next((file for file in found if file.is_file()), None)
