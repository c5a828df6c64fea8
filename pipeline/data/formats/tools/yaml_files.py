"""Small YAML files of projects and datasets, which may come from anybody."""

from pathlib import Path
from typing import Any

from pipeline.data.formats.annotations import reading
from pipeline.io.text import briefly

_MOST_BYTES = 2**22


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file's fields. Raises ValueError naming the file.

    Aliases are refused: a few lines of them can stand for gigabytes.
    """
    import yaml

    with reading(path, "YAML", OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError):
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"{path}: expected at most {_MOST_BYTES:,} bytes of YAML")
        text = path.read_text(encoding="utf-8-sig")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
            raise ValueError(f"{path}: expected YAML without aliases")
        try:
            content = yaml.safe_load(text)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: not readable as YAML: {briefly(error)}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected fields, got {content!r:.80}")
    return {str(name): value for name, value in content.items()}
