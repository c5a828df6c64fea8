"""Progress: a bar below all other lines on a terminal or in a notebook, lines elsewhere."""

import fcntl
import io
import logging
import os
import pty
import struct
import sys
import termios

import pytest

from pipeline.io.console import say
from pipeline.io.progress import ProgressBar, has_bars
from pipeline.training.console_logger import epoch_bars, line_every_s, step_line
from pipeline.training.trainer import StepReport


class Terminal(io.StringIO):
    """A terminal that keeps what it shows."""

    def isatty(self) -> bool:
        return True

    def lines(self) -> list[str]:
        """The lines as a person sees them, without blanks at their ends."""
        shown = []
        for line in self.getvalue().split("\n"):
            cells: list[str] = []
            for part in line.split("\r"):
                cells[: len(part)] = part
            shown.append("".join(cells).rstrip())
        return shown


class File(Terminal):
    """A file, such as a job's log."""

    def isatty(self) -> bool:
        return False


def shown_on(monkeypatch: pytest.MonkeyPatch, *, is_terminal: bool = True) -> Terminal:
    """Put standard output and error on one terminal, or one file."""
    shown = Terminal() if is_terminal else File()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", shown)
    monkeypatch.setattr(sys, "stderr", shown)
    return shown


def test_a_bar_stays_below_the_lines_of_other_threads_and_libraries(monkeypatch):
    terminal = shown_on(monkeypatch)
    with ProgressBar(40, "people", "packing") as progress:
        assert not has_bars(), "a bar within a bar"
        say("first")
        progress.to(40, "3 skipped")
        print("a part ", end="", file=sys.stderr)
        print("and its end", file=sys.stderr)
        *lines, bar = terminal.lines()
        assert lines == ["first", "a part and its end"]
        assert bar.startswith("packing: 100%")
        assert "40/40" in bar
        assert "3 skipped" in bar
    assert sys.stdout is sys.stderr is terminal
    *lines, bar, last = terminal.lines()
    assert (lines, last) == (["first", "a part and its end"], "")
    assert "40/40" in bar


def test_lines_of_loggers_that_hold_the_stream_go_above_the_bar(monkeypatch):
    terminal = shown_on(monkeypatch)
    handler = logging.StreamHandler(terminal)
    logger = logging.getLogger("a library")
    logger.addHandler(handler)
    try:
        with ProgressBar(2, "people", "packing"):
            logger.warning("a warning")
            *lines, bar = terminal.lines()
            assert (lines, bar[:8]) == (["a warning"], "packing:")
        assert handler.stream is terminal
    finally:
        logger.removeHandler(handler)


@pytest.mark.parametrize(("columns", "width"), [(60, 59), (0, 110)])
def test_a_bar_fits_on_its_terminal_also_on_one_that_has_no_width(columns, width, monkeypatch):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with open(theirs, "w", buffering=1) as out:  # noqa: PTH123
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setenv("TERM", "xterm")
        with ProgressBar(40, "people", "packing") as progress:
            progress.to(20)
            shown = os.read(ours, 4096).decode()
    os.close(ours)
    assert len(shown.split("\r")[1]) == width


def test_a_line_without_an_end_is_not_lost(monkeypatch):
    terminal = shown_on(monkeypatch)
    with ProgressBar(1, "people", "packing"):
        print("no end", end="")
    assert terminal.lines()[-1] == "no end"


def test_an_error_gives_the_streams_back(monkeypatch):
    terminal = shown_on(monkeypatch)
    with pytest.raises(KeyboardInterrupt), ProgressBar(2, "people", "packing"):
        raise KeyboardInterrupt
    assert sys.stdout is terminal


@pytest.mark.parametrize("kind", ["file", "dumb terminal"])
def test_elsewhere_progress_is_lines(kind, monkeypatch):
    terminal = shown_on(monkeypatch, is_terminal=kind != "file")
    if kind != "file":
        monkeypatch.setenv("TERM", "dumb")
    with ProgressBar(40, "pictures", "predicting", every_s=0) as progress:
        progress.to(10, "12 people")
        progress.to(40, "50 people")
    assert terminal.getvalue().splitlines() == [
        "[######..................] 10/40 pictures, 12 people  left 0 s",
        "[########################] 40/40 pictures, 50 people  left 0 s",
    ]


def line_of(number: int) -> str:
    step = StepReport(
        epoch=1,
        step=number,
        steps=8,
        loss=0.25,
        learning_rate=1e-3,
        samples_per_s=0.123,
        input_wait_share=0.5,
    )
    return step_line(step, 3, "PCKh@0.5 40.00  ", "9 s")


def test_lines_of_steps_that_workers_print_become_the_bar_of_their_epoch(monkeypatch):
    terminal = shown_on(monkeypatch)
    assert line_every_s() == 1.0
    with epoch_bars():
        # Ray colours the name of the worker.
        print(f"\x1b[36m(RayTrainWorker pid=7)\x1b[0m {line_of(2)}")
        [bar] = terminal.lines()
        assert bar.startswith("epoch 2/3:  25%")
        assert "2/8" in bar
        assert "loss 0.25  PCKh@0.5 40.00  0.12 samples/s  left 9 s]" in bar
        print("(RayTrainWorker pid=7) rank 0 skipped a sample")
        print(f"(RayTrainWorker pid=7) {line_of(8)}")
        *lines, bar = terminal.lines()
        assert lines == ["(RayTrainWorker pid=7) rank 0 skipped a sample"]
        assert bar.startswith("epoch 2/3: 100%")
        assert "evaluating" in bar
    assert terminal.lines() == ["(RayTrainWorker pid=7) rank 0 skipped a sample", ""]


def test_a_narrow_bar_leaves_out_what_matters_less_than_loss_and_time(monkeypatch):
    terminal = shown_on(monkeypatch)
    monkeypatch.setattr("pipeline.io.progress._COLUMNS", 72)
    with epoch_bars():
        print(line_of(2))
        [bar] = terminal.lines()
    assert bar.startswith("epoch 2/3:  25%|####")
    assert bar.endswith(", loss 0.25  left 9 s]")
    assert len(bar) <= 72


def test_a_job_prints_the_lines_of_steps_as_they_are(monkeypatch):
    terminal = shown_on(monkeypatch, is_terminal=False)
    assert line_every_s() == 5.0
    with epoch_bars():
        say(line_of(8))
    assert terminal.getvalue() == (
        "epoch 2/3  step 8/8  loss 0.25  PCKh@0.5 40.00  0.12 samples/s  input wait 50%  left 9 s\n"
    )
