"""What of a journal MLflow has: noted in two files beside it."""

import json
import os
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.io.redaction import redacted

POSITION_NAME = "delivered.json"
REFUSED_NAME = "undeliverable.jsonl"


@dataclass(frozen=True, kw_only=True)
class SyncPosition:
    """How far a journal is delivered to a URI: up to `seq`, but for the artifacts `later`; and the machine's journal beside it up to `system`."""

    uri: str
    seq: int = 0
    later: tuple[int, ...] = ()
    # Of the machine's journal.
    system: int = 0
    experiment_id: str = ""
    run_id: str = ""


@dataclass(frozen=True, kw_only=True)
class Backlog:
    """What of the journal in a folder MLflow lacks: entries that wait, by kind, and things that it refused.

    False if there is nothing. As text, a sentence that names it with the command that delivers it.
    """

    folder: Path
    waiting: Mapping[str, int]
    refused: int
    reason: str = ""

    def __bool__(self) -> bool:
        return bool(self.waiting or self.refused)

    def __str__(self) -> str:
        said = []
        if self.waiting:
            because = f" ({self.reason})" if self.reason else ""
            said.append(
                f"MLflow lacks {counted(self.waiting)} of {self.folder}{because}; "
                f"to deliver it: python -m jobs.deliver {self.folder}"
            )
        if self.refused:
            said.append(f"MLflow refused {self.refused}, listed in {self.folder / REFUSED_NAME}")
        return "\n".join(said)


def counted(kinds: Mapping[str, int]) -> str:
    """Entries by kind as text: `5 entries (4 metrics, 1 end)`."""
    total = sum(kinds.values())
    parts = ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)
    return f"{total} {'entry' if total == 1 else 'entries'}" + (f" ({parts})" if parts else "")


def read_position(folder: Path, uri: str) -> SyncPosition:
    """How far the journal in `folder` is delivered to `uri`; to another URI counts as not at all.

    Raises ValueError naming the file if it is damaged.
    """
    path, start = folder / POSITION_NAME, SyncPosition(uri=redacted(uri))
    if not path.exists():
        return start
    try:
        told: dict[str, Any] = json.loads(path.read_text())
        position = SyncPosition(**told | {"later": tuple(told["later"])})
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path} is damaged: {error}; without it all is delivered again, and nothing twice"
        ) from error
    return position if position.uri == start.uri else start


def write_position(folder: Path, position: SyncPosition) -> None:
    """Note how far the journal in `folder` is delivered."""
    # The name is the thread's own: two may deliver the same run, if nobody keeps them from it.
    aside = folder / f".{POSITION_NAME}.{os.getpid()}.{threading.get_ident()}"
    with aside.open("w") as file:
        file.write(json.dumps(asdict(position)) + "\n")
        file.flush()
        os.fsync(file.fileno())
    aside.replace(folder / POSITION_NAME)


def note_refusal(folder: Path, seq: int, content: Mapping[str, Any], reason: str) -> None:
    """Keep what MLflow refused of the journal's entry `seq`, with the reason."""
    line = json.dumps({"seq": seq, "reason": reason, "content": content}) + "\n"
    with (folder / REFUSED_NAME).open("a") as file:
        file.write(line)


def forget_refusals(folder: Path) -> None:
    """Begin anew, where all is to be delivered again."""
    (folder / REFUSED_NAME).unlink(missing_ok=True)


def count_refusals(folder: Path) -> int:
    """How many things of the journal in `folder` MLflow has refused."""
    path = folder / REFUSED_NAME
    return len(set(path.read_text().splitlines())) if path.exists() else 0
