"""Whole families of processes, stopped while others are timed."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from jobs.benchmark.timing import process_cpu_s


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Stop a process and all its descendants for the duration."""
    family = [pid, *descendants(pid)]
    try:
        for member in family:
            _send(member, signal.SIGSTOP)
        yield
    finally:
        for member in family:
            _send(member, signal.SIGCONT)


def descendants(pid: int) -> list[int]:
    """Processes that a process has started, and those that these have."""
    children: dict[int, list[int]] = {}
    for child, parent in _parents():
        children.setdefault(parent, []).append(child)
    found = [pid]
    for parent in found:  # which grows meanwhile
        found += children.get(parent, [])
    return found[1:]


def family_cpu_s(pid: int, but: int) -> float:
    """CPU seconds so far of a process and its descendants, all `but` one."""
    total = 0.0
    for member in {pid, *descendants(pid)} - {but}:
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            total += process_cpu_s(member)
    return total


def _parents() -> Iterator[tuple[int, int]]:
    """Every process of this machine, and the one that started it."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
                # A name in brackets may hold spaces; the parent comes two fields after it.
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                yield int(folder.name), int(fields[1])


def _send(pid: int, what: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, what)
