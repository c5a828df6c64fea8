"""The wheel's layout: the folders of the repository below the package `hourglass_ray`.

`pipeline`, `jobs` and `tune` would otherwise be top-level packages of site-packages, where other
distributions have their own.
"""

import ast
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = "hourglass_ray"
FOLDERS = ("pipeline", "jobs", "tune")
# Manifests, which are for whoever has the repository, but for what `submit` uses.
LEFT_OUT, SUBMITTED = "jobs/cluster", "jobs/cluster/slurm.sbatch"


class WheelLayout(BuildHookInterface):
    """A build hook that adds the folders, with imports that name them below the package."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add every file of the folders; an editable installation imports the repository's."""
        if version == "editable":
            return
        self._folder = tempfile.TemporaryDirectory()
        root = Path(self.root)
        for path in sorted(path for name in FOLDERS for path in (root / name).rglob("*")):
            inside = path.relative_to(root)
            if path.is_dir() or "__pycache__" in inside.parts:
                continue
            if inside.is_relative_to(LEFT_OUT) and inside != Path(SUBMITTED):
                continue
            self._add(path, inside, build_data)
        for path in sorted((root / PACKAGE).glob("*.py")):
            self._add(path, Path(path.name), build_data)

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the copies."""
        if version != "editable":
            self._folder.cleanup()

    def _add(self, path: Path, inside: Path, build_data: dict[str, Any]) -> None:
        if path.suffix == ".py":
            copy = Path(self._folder.name) / inside
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(with_imports_below(path.read_text(), str(path)))
            path = copy
        build_data["force_include"][str(path)] = f"{PACKAGE}/{inside}"


def with_imports_below(source: str, name: str) -> str:
    """Return a source whose imports of the folders name them below the package.

    Lines keep their numbers. Raises ValueError for an import that binds the name of a folder.
    """
    lines = source.splitlines(keepends=True)
    for node in ast.walk(ast.parse(source)):
        at = getattr(node, "lineno", 0) - 1
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FOLDERS:
            lines[at] = lines[at].replace("from ", f"from {PACKAGE}.", 1)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] in FOLDERS:
                    raise ValueError(
                        f"{name}:{node.lineno}: import {alias.name} would be another name in the "
                        "wheel; use from ... import ..."
                    )
    return "".join(lines)
