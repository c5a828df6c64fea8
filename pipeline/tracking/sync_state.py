"""The state of a journal's sync with MLflow, in two files beside the journal."""

import json
import os
import shlex
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.io.inside import read_whole
from pipeline.io.installation import command
from pipeline.io.own import create_own
from pipeline.io.parsing import fields_of, items_of, parse_json, text_of, whole_of
from pipeline.io.redaction import redacted
from pipeline.io.text import briefly
from pipeline.run.storage import shown

POSITION_NAME = "delivered.json"
REFUSED_NAME = "undeliverable.jsonl"


@dataclass(frozen=True, kw_only=True)
class SyncPosition:
    """How far a run's journals have been sent to a URI.

    MLflow has the journal's entries up to number `seq`, except the artifacts with the numbers in
    `later`, and the entries of the system metrics' journal up to number `system`.
    """

    uri: str
    seq: int = 0
    later: tuple[int, ...] = ()
    system: int = 0
    experiment_id: str = ""
    run_id: str = ""


@dataclass(frozen=True, kw_only=True)
class Backlog:
    """Entries that MLflow does not have yet, by kind, and the number that it refused.

    Falsy if there are none. `str()` is a message with the command that sends them.
    """

    folder: Path
    waiting: Mapping[str, int]
    refused: int
    reason: str = ""

    def __bool__(self) -> bool:
        return bool(self.waiting or self.refused)

    def __str__(self) -> str:
        lines, place = [], shown(self.folder)
        if self.waiting:
            because = f" ({self.reason})" if self.reason else ""
            lines.append(
                f"MLflow lacks {counted(self.waiting)} of {place}{because}; "
                f"to send them: {shlex.join([*command('jobs.deliver'), place])}"
            )
        if self.refused:
            lines.append(f"MLflow refused {self.refused}, listed in {self.folder / REFUSED_NAME}")
        return "\n".join(lines)


def counted(kinds: Mapping[str, int]) -> str:
    """Format entries by kind: `5 entries (4 metrics, 1 end)`."""
    total = sum(kinds.values())
    parts = ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)
    return f"{total} {'entry' if total == 1 else 'entries'}" + (f" ({parts})" if parts else "")


def read_position(folder: Path, uri: str) -> SyncPosition:
    """Read the position of the journal in `folder`; it is the start for any `uri` but the last.

    Raises ValueError naming the file if it is damaged.
    """
    start, position = SyncPosition(uri=redacted(uri)), last_position(folder)
    return position if position and redacted(position.uri) == start.uri else start


def last_position(folder: Path) -> SyncPosition | None:
    """Read the position of the journal in `folder` at the last URI; None if it was never sent.

    Raises ValueError naming the file if it is damaged.
    """
    path = folder / POSITION_NAME
    if not path.exists():
        return None
    try:
        return _position(parse_json(read_whole(path), "it"))
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged: {briefly(error)}; remove it to send everything again, which "
            "stores nothing twice"
        ) from error


def _position(content: Any) -> SyncPosition:
    """Read a position's fields. Raises ValueError naming the field."""
    names = [item.name for item in fields(SyncPosition)]
    given = fields_of(content, "position", required=("uri", "later"), optional=names)
    read: dict[str, Callable[[Any, str], Any]] = {
        **dict.fromkeys(("uri", "experiment_id", "run_id"), text_of),
        **dict.fromkeys(("seq", "system"), whole_of),
        "later": partial(items_of, read=whole_of),
    }
    return SyncPosition(**{name: read[name](value, name) for name, value in given.items()})


def write_position(folder: Path, position: SyncPosition) -> None:
    """Write the position of the journal in `folder`, atomically."""
    # Two threads or processes may send the same run.
    aside = folder / f".{POSITION_NAME}.{os.getpid()}.{threading.get_ident()}"
    create_own(aside)
    with aside.open("w") as file:
        file.write(json.dumps(asdict(position)) + "\n")
        file.flush()
        os.fsync(file.fileno())
    aside.replace(folder / POSITION_NAME)


def note_refusal(folder: Path, seq: int, content: Mapping[str, Any], reason: str) -> None:
    """Record what MLflow refused of the journal's entry `seq`, with the reason."""
    line = json.dumps({"seq": seq, "reason": reason, "content": content}) + "\n"
    with (folder / REFUSED_NAME).open("a") as file:
        file.write(line)


def forget_refusals(folder: Path) -> None:
    """Remove the list of refusals, before everything is sent again."""
    (folder / REFUSED_NAME).unlink(missing_ok=True)


def count_refusals(folder: Path) -> int:
    """Count the distinct refusals of the journal in `folder`."""
    path = folder / REFUSED_NAME
    return len(set(path.read_text().splitlines())) if path.exists() else 0
