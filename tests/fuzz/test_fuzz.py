"""Readers of outside bytes on mutated files: they read them, or raise one ValueError.

`make fuzz` takes longer than `make test`: FUZZ_SECONDS are shared among the readers, and each
genuine file of another tool is mutated at least 200 times. FUZZ_SEED chooses the mutations. Each
reader runs in a process of its own with a limit on memory, and each case has a limit on CPU time.
"""

import json
import multiprocessing
import os
import resource
import shutil
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from fuzz.readers import READERS, Reader
from hypothesis import HealthCheck, Phase, example, given, seed, settings
from hypothesis import strategies as st

from pipeline.data.formats.registry import SOURCES

SECONDS = float(os.environ.get("FUZZ_SECONDS", "60"))
SEED = int(os.environ.get("FUZZ_SEED", "0"))
# Mutations of a genuine file, whatever the time. `make test` has no time for them.
LEAST = 200 if "FUZZ_SECONDS" in os.environ else 0
# More than a reader of small files needs, and less than a bomb does.
_MEMORY = 2**30
_CASE_S, _WAIT_S = 10.0, 300.0
_ROUND, _FEW = 50, 10
# Characters of an error.
_LONGEST = 8000


@pytest.mark.parametrize("name", READERS)
def test_a_mutated_file_is_read_or_refused_with_one_error(
    tmp_path: Path, name: str, request: pytest.FixtureRequest
) -> None:
    reader = READERS[name]
    if reader.genuine:
        genuine: Path = request.getfixturevalue("tools_dir") / reader.genuine
        # A format may read files beside it.
        shutil.copytree(genuine.parent, tmp_path, dirs_exist_ok=True)
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(reader, tmp_path, SECONDS / len(READERS), theirs))
    process.start()
    theirs.close()
    found: dict[str, Any] = {"failure": "no answer"}
    try:
        # A reader that waits takes no time of the CPU, by which its own limit counts.
        if ours.poll(SECONDS / len(READERS) + _WAIT_S):
            found = ours.recv()
    except EOFError:
        found = {"failure": "the process died"}
    if "failure" in found:
        process.kill()
    process.join(60)
    assert "failure" not in found, found["failure"]
    print(f"\n{name}: {json.dumps(found)}")
    assert not reader.genuine or found["cases"] >= LEAST
    # A slow machine may have had time for few.
    assert found.get("refused") or not reader.refuses or found.get("cases", 0) < _FEW


def test_every_annotation_format_is_fuzzed() -> None:
    assert {reader.format for reader in READERS.values()} - {""} == set(SOURCES)


def _run(reader: Reader, folder: Path, seconds: float, results: Connection) -> None:
    """Try mutations until the time is up, and send the counts, or the first failure."""
    counts: Counter[str] = Counter()
    least = max(1, LEAST * bool(reader.genuine))
    try:
        reader.prepare(folder)
        data = (folder / reader.name).read_bytes()
        reader.read(folder)
        signal.signal(signal.SIGPROF, _too_slow)
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + _MEMORY, resource.RLIM_INFINITY))
        number, until = 0, time.monotonic() + seconds
        while counts["cases"] < least or time.monotonic() < until:
            over = partial(_is_over, counts, least, until)
            _round(reader, folder, data, SEED + number, over, counts)
            number += 1
    except BaseException:
        text = traceback.format_exc()
        # Of a long one the middle is the content of the file.
        results.send({"failure": text if len(text) < 12000 else f"{text[:6000]}...{text[-6000:]}"})
    else:
        results.send(dict(counts))


def _is_over(counts: Counter[str], least: int, until: float) -> bool:
    return counts["cases"] >= least and time.monotonic() > until


def _round(
    reader: Reader,
    folder: Path,
    data: bytes,
    number: int,
    is_over: Callable[[], bool],
    counts: Counter[str],
) -> None:
    mutated = st.one_of([mutation(data) for mutation in reader.mutations])
    named = Path(reader.name).name if reader.names is None else reader.names

    @seed(number)
    @settings(
        max_examples=_ROUND,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @example(b"\xff")
    @given(mutated)
    def holds(content: bytes) -> None:
        if is_over():
            return
        (folder / reader.name).write_bytes(reader.sign(content))
        # The example, which most readers refuse at once, counts for no mutation.
        counts["cases"] += content != b"\xff"
        signal.setitimer(signal.ITIMER_PROF, _CASE_S)
        try:
            reader.read(folder)
        except ValueError as error:
            refusal = str(error)
            counts["refused"] += content != b"\xff"
        else:
            refusal = named
            counts["read"] += content != b"\xff"
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        assert named in refusal
        assert len(refusal) < _LONGEST

    holds()


def _too_slow(*_: object) -> None:
    raise TimeoutError(f"a case took more than {_CASE_S:g} s of CPU")
