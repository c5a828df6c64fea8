"""A child process that may take only so much more memory than it has."""

import resource
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[1]


def limit_memory(more: int) -> None:
    """Limit this process's memory to what it has and `more` bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def run_limited(program: str, *words: str) -> list[str]:
    """Run a Python program, which calls `limit_memory`; return the lines that it prints."""
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        env={"PYTHONPATH": f"{_ROOT}:{_ROOT / 'tests'}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
