"""Programs that a signal ends: one line, a shell's status, and no longer than seconds."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from pipeline.io.console import clear_errors
from pipeline.io.interruption import is_ending, last_words, orderly_stop, status

# Prefix of the programs: `here` tells the test that a signal may come.
HEAD = """
    import threading, time
    from pipeline.io.console import clear_errors
    from pipeline.io.interruption import last_words, orderly_stop, status
    def here():
        print("here", flush=True)
"""


def started(program: str, folder: Path | None = None, **options: object) -> subprocess.Popen[str]:
    """Start a program, as a module in `folder` if one is given."""
    text, arguments = textwrap.dedent(HEAD) + textwrap.dedent(program), ["-m", "program"]
    if folder is None:
        arguments = ["-c", text]
    else:
        (folder / "program.py").write_text(text)
        options |= {"env": os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}}
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
    assert process.stdout.readline() == "here\n"
    return process


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.parametrize(
    ("number", "exit_status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_ends_a_program_with_one_line_and_the_status_of_a_shell(number, exit_status):
    process = started(
        """
        with clear_errors("the same command resumes"):
            try:
                here()
                time.sleep(60)
            finally:
                print("closed", flush=True)
        """
    )
    process.send_signal(number)
    line = f"error: stopped by {number.name}; the same command resumes\n"
    assert ended(process) == (exit_status, "closed\n", line)


@pytest.mark.parametrize("package", ["jobs", "tune"])
@pytest.mark.parametrize(("argv", "status"), [("-m", 130), ("worker.py", 1)])
def test_a_signal_ends_a_command_with_one_line_while_its_packages_are_imported(
    package, argv, status
):
    # The interpreter's name of a program that `-m` starts, until its module has been found.
    program = f"""
        import os, signal, sys
        sys.argv[0] = {argv!r}
        import {package}
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            raise SystemExit("default") from None
        """
    run = [sys.executable, "-c", textwrap.dedent(program)]
    ended = subprocess.run(run, capture_output=True, text=True, timeout=60)
    line = "error: stopped by SIGINT; give the same command again" if argv == "-m" else "default"
    assert (ended.returncode, ended.stdout, ended.stderr) == (status, "", line + "\n")


def test_what_a_library_makes_of_the_interrupt_does_not_change_the_end():
    process = started(
        """
        with clear_errors():
            try:
                here()
                time.sleep(60)
            except KeyboardInterrupt:
                raise RuntimeError("a task was cancelled")
        """
    )
    process.send_signal(signal.SIGTERM)
    assert ended(process) == (143, "", "error: stopped by SIGTERM\n")


def test_a_program_ends_before_python_frees_its_objects_but_after_its_exit_functions():
    process = started(
        """
        import atexit, sys
        class Slow:
            def __del__(self):
                print("freed", flush=True)
        sys.slow = Slow()
        with clear_errors():
            atexit.register(print, "cleaned")
            here()
            time.sleep(60)
        """
    )
    process.send_signal(signal.SIGTERM)
    assert ended(process) == (143, "cleaned\n", "error: stopped by SIGTERM\n")


def test_code_that_is_executed_from_a_text_does_not_change_the_status(tmp_path):
    # Of a module, as the commands are.
    process = started(
        """
        with clear_errors():
            exec("here(); time.sleep(60)")
        """,
        tmp_path,
    )
    process.send_signal(signal.SIGTERM)
    assert ended(process) == (143, "", "error: stopped by SIGTERM\n")


def test_a_first_signal_asks_for_an_orderly_stop_and_a_second_ends_at_once():
    process = started(
        """
        def ask(name):
            print("asked by", name, flush=True)
            return True
        with clear_errors(), orderly_stop(ask):
            here()
            time.sleep(60)
        """
    )
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "asked by SIGTERM\n"
    process.send_signal(signal.SIGINT)
    assert ended(process) == (130, "", "error: stopped by SIGINT\n")


def test_an_orderly_stop_keeps_the_status_of_the_signal():
    process = started(
        """
        asked = threading.Event()
        def ask(name):
            asked.set()
            return True
        with clear_errors(), orderly_stop(ask):
            here()
            asked.wait()
            raise SystemExit(status())
        """
    )
    process.send_signal(signal.SIGHUP)
    assert ended(process)[0] == 129


def test_a_signal_ends_at_once_if_an_orderly_stop_is_not_possible_now():
    process = started(
        """
        with clear_errors(), orderly_stop(lambda name: False):
            here()
            time.sleep(60)
        """
    )
    process.send_signal(signal.SIGINT)
    assert ended(process) == (130, "", "error: stopped by SIGINT\n")


def test_further_signals_do_not_disturb_the_end():
    process = started(
        """
        with clear_errors():
            try:
                here()
                time.sleep(60)
            finally:
                print("closing", flush=True)
                time.sleep(1)
                print("closed", flush=True)
        """
    )
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "closing\n"
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    assert ended(process) == (130, "closed\n", "error: stopped by SIGINT\n")


@pytest.mark.parametrize("is_closing", [False, True])
def test_a_call_that_does_not_return_can_not_keep_the_program(is_closing):
    process = started(
        f"""
        import ctypes
        mutex, lock = ctypes.create_string_buffer(64), ctypes.CDLL(None).pthread_mutex_lock
        lock(mutex)
        with clear_errors(within_s=0.5), last_words(lambda: print("recorded", flush=True)):
            try:
                here()
                time.sleep(60 if {is_closing} else 0)
            finally:
                lock(mutex)  # no signal interrupts it
        """
    )
    process.send_signal(signal.SIGTERM)
    assert ended(process) == (143, "recorded\n", "error: stopped by SIGTERM\n")


def test_a_thread_that_a_library_left_behind_can_not_keep_the_program():
    process = started(
        """
        threading.Thread(target=threading.Event().wait, daemon=False).start()
        with clear_errors(within_s=0.5):
            here()
            time.sleep(60)
        """
    )
    process.send_signal(signal.SIGINT)
    assert ended(process) == (130, "", "error: stopped by SIGINT\n")


def test_a_signal_that_the_parent_ignores_stays_ignored():
    # As under nohup.
    process = started(
        """
        with clear_errors():
            here()
            time.sleep(1)
        print("done")
        """,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    process.send_signal(signal.SIGHUP)
    assert ended(process) == (0, "done\n", "")


def test_after_a_command_the_handlers_are_those_of_before():
    before = signal.getsignal(signal.SIGTERM)
    with clear_errors(), clear_errors():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) is before
    assert not is_ending()


def test_in_other_threads_and_outside_of_commands_the_contexts_do_nothing():
    def ask(name: str) -> bool:
        raise AssertionError("not called")

    def work() -> None:
        with clear_errors(), orderly_stop(ask), last_words(lambda: ask("")):
            done.append(status())

    done: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [143]
    assert signal.getsignal(signal.SIGINT) is before
