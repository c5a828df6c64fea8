"""Every pair of options of the training step works for a step, or is refused with a sentence."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from pairs import OPTIONS, PAIRS, refusal, take_step

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "combinations.md"
HEAD = """# Combinations of options

A test takes one training step with each pair of these options, or expects the sentence that refuses
it, and writes this page. The steps run on a CPU: SyncBatchNorm there is that of a single rank, and
compile is traced into graphs that plain operators run.

"""
# A half-precision step differs from an fp32 one by its rounding, and parts by BatchNorm's batches.
CLOSE = {"fp16": 0.02, "bf16": 0.05, "accumulate": 0.5}


def page() -> str:
    """Return the page for what `refusal` says."""
    rows = [
        ["", *OPTIONS],
        *([f"**{row}**", *(cell(row, column) for column in OPTIONS)] for row in OPTIONS),
    ]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "| --- " * len(rows[0]) + "|")
    notes = [
        textwrap.fill(f"{number}. {text}", 100, subsequent_indent="   ")
        for text, number in numbered().items()
    ]
    return HEAD + "\n".join(lines) + "\n\n" + "\n".join(notes) + "\n"


def numbered() -> dict[str, int]:
    texts = dict.fromkeys(filter(None, map(refusal, PAIRS)))
    return {text: number for number, text in enumerate(texts, start=1)}


def cell(row: str, column: str) -> str:
    if row == column:
        return ""
    pair = (row, column) if (row, column) in PAIRS else (column, row)
    text = refusal(pair)
    return f"refused ({numbered()[text]})" if text else "works"


def test_the_page_says_what_each_pair_does():
    found = page()
    if os.environ.get("WRITE_PAGES"):
        PAGE.write_text(found)
    assert PAGE.read_text() == found, "WRITE_PAGES=1 makes this test write it"
    assert found.count("works") + found.count("refused (") == 2 * len(PAIRS)


def check(pair: tuple[str, ...], step: tuple[float, float]) -> None:
    """Compare a step with the plain one."""
    close = max((CLOSE.get(name, 1e-4) for name in pair), default=0)
    assert step[0] == pytest.approx(take_step(())[0], rel=close), pair


@pytest.mark.parametrize(
    "pair", [pair for pair in PAIRS if "compile" not in pair and not refusal(pair)], ids=" ".join
)
def test_a_pair_that_is_not_refused_takes_a_step(pair):
    check(pair, take_step(pair))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> dict[str, Any]:
    """The steps of pairs with compile, and the codes that networks of two and three stacks take."""
    # In a separate process: torch can't compile code that the hook for shape checks has changed.
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "pairs.py"],
        cwd=tmp_path_factory.mktemp("compiled"),
        env=os.environ | {"PYTHONPATH": str(ROOT), "CXX": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_the_stacks_of_a_network_share_their_compiled_code(compiled):
    # Residuals on 16, 8, 4 and 2 pixels, three halvings, the stem's two parts, and the end of a
    # stack with and without what it feeds back.
    assert compiled["codes"] == [11, 11]


@pytest.mark.slow
def test_a_pair_with_compile_takes_a_step(compiled):
    taken = compiled["taken"]
    pairs = [" ".join(pair) for pair in PAIRS if "compile" in pair and not refusal(pair)]
    assert list(taken) == ["compile", *pairs]
    for name, step in taken.items():
        check(tuple(name.split()), step)
