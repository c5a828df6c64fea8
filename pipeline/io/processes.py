"""Processes of this machine, as /proc lists them."""

import os
import signal
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

# Added to the name of a process in state T or t.
STOPPED = " (stopped, as by SIGSTOP)"
_CLOCK_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used. Raises OSError if it has ended."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / _CLOCK_TICKS_PER_S


def state_and_start(pid: int) -> tuple[str, int] | None:
    """Return a process's state, and its start in clock ticks after boot; None if it has ended."""
    try:
        fields = _stat(pid)
    except OSError:
        return None
    # Fields 3 and 22 of proc(5).
    state, ticks = fields[0], int(fields[19])
    return None if state in "ZX" else (state, ticks)


def described(pid: int) -> str:
    """Return a process's number, and whether it is stopped."""
    found = state_and_start(pid)
    return f"{pid}{STOPPED if found is not None and found[0] in 'Tt' else ''}"


def lock_holders(path: Path) -> list[int]:
    """Return the processes of this machine that have locked parts of a file for writing."""
    try:
        status = path.stat()
        locks = [line.split()[1:6] for line in Path("/proc/locks").read_text().splitlines()]
    except OSError:
        return []
    # Kind, mode, access, process, and device with inode. Those that wait begin with an arrow;
    # processes of other containers have no number here.
    device = status.st_dev
    file = f"{os.major(device):02x}:{os.minor(device):02x}:{status.st_ino}"
    found = {
        int(process)
        for _, _, access, process, place in locks
        if access == "WRITE" and place == file
    }
    return sorted(pid for pid in found if pid > 0)


def memory_mib(field: str) -> float:
    """Return a memory figure of this process: VmRSS is resident now, VmHWM its peak."""
    status = Path("/proc/self/status").read_text()
    [kib] = [line.split()[1] for line in status.splitlines() if line.startswith(f"{field}:")]
    return int(kib) / 1024


def children(parents: Collection[int]) -> set[int]:
    """Return the running processes whose parent is one of `parents`."""
    found = set()
    for path in Path("/proc").glob("[0-9]*"):
        # A process may end while its file is read.
        with suppress(OSError):
            state, parent = _stat(int(path.name))[:2]
            if int(parent) in parents and state != "Z":
                found.add(int(path.name))
    return found


def descendants(pid: int) -> set[int]:
    """Return the running processes that a process has started, and those that these have."""
    found: set[int] = set()
    latest = {pid}
    while latest := children(latest):
        found |= latest
    return found


def send(processes: Collection[int], number: signal.Signals) -> None:
    """Send a signal to processes; those that have ended are skipped."""
    for pid in processes:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def wait_for_end(processes: Collection[int], patience_s: float) -> bool:
    """Wait until processes have ended; return False if some run past `patience_s`."""
    end = time.monotonic() + patience_s
    while any(map(state_and_start, processes)):
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the name: state, parent and so on."""
    # The name is in brackets and may hold spaces and brackets itself.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
