"""Copies of runs on this machine's scratch disk, removed when they are no longer needed."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

from pipeline.io.console import say
from pipeline.io.location import STORES
from pipeline.io.objects import StoreError
from pipeline.run.layout import STATE, location_of
from pipeline.run.mirror import Mirror

# Seconds without a change after which no process uses a copy: owners sign every two seconds,
# workers leave heartbeats, and readers touch the folder.
_UNUSED_S = 3600.0


def tidy(root: Path) -> None:
    """Remove copies below `root` that no process uses, and of which the bucket has everything.

    Also those of which it lacks something, if another machine has written to the run since: the
    missing files then no longer count.
    """
    # The trials of a sweep before the sweep.
    copies = [copy for scheme in STORES for copy in _copies(root / scheme)]
    for folder in sorted(copies, key=lambda path: len(path.parts), reverse=True):
        try:
            if not _is_used(folder) and _is_dispensable(folder):
                _remove(folder)
        except FileNotFoundError:
            continue  # a process that has just started uses it
        except (OSError, ValueError) as error:
            say(f"{folder} is not removed: {error}")


def _copies(root: Path) -> Iterator[Path]:
    yield from (path.parent for path in root.rglob(STATE))


def _is_used(folder: Path) -> bool:
    """Whether a file in the folder changed in the last hour, or it holds copies that remain."""
    newest = max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
    return time.time() - newest < _UNUSED_S or len(list(_copies(folder))) > 1


def _remove(folder: Path) -> None:
    """Remove a copy, unless a process has begun to use it meanwhile."""
    with Mirror(folder, location_of(folder)).alone() as is_alone:
        if is_alone and not _is_used(folder):
            # A copy that is removed in part must not be taken for a whole one.
            aside = folder.with_name(f".removed-{uuid4().hex}")
            folder.rename(aside)
            shutil.rmtree(aside)


def _is_dispensable(folder: Path) -> bool:
    mirror = Mirror(folder, location_of(folder))
    try:
        return not mirror.waiting() or mirror.is_behind()
    except StoreError:
        return False
