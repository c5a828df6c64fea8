"""The end of a command by SIGINT, SIGTERM or SIGHUP: orderly, and within seconds."""

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Seconds after a signal at which a thread ends a process whose main thread has not ended it.
WITHIN_S = 4.0
# A shell's status of a program that a signal has ended is this plus the signal's number.
_BY_SIGNAL = 128


class _Interrupt(KeyboardInterrupt):
    """A signal's interrupt.

    Python ends a program with SIGINT, whatever status it asks for, if KeyboardInterrupt itself has
    left the `exec` of a text, as modules do that define dataclasses.
    """


class _Command:
    """The signals that a command has received; `advice` completes the line that it ends with."""

    def __init__(self, advice: str, within_s: float) -> None:
        self.number = signal.SIGTERM
        self.is_ending = False
        # Whether the program lives on after it.
        self.is_call = False
        self.asks: list[Callable[[str], bool]] = []
        self.last_words: list[Callable[[], None]] = []
        self.numbers: tuple[signal.Signals, ...] = ()
        self._advice, self._within_s = advice, within_s
        # Signals that were handled, and the one of them that ends the program.
        self._calls = self._last = 0

    def message(self) -> str:
        """Return the line that the command ends with."""
        return f"error: stopped by {self.number.name}" + "; " * bool(self._advice) + self._advice

    def leave(self) -> None:
        """End the process, by its last exit function, before Python frees every object.

        That takes seconds, in which no other thread runs that could end the process.
        """
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(_BY_SIGNAL + self.number)

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Ask for an orderly stop on a first signal, if someone can be asked; else end."""
        self._calls += 1
        if self.is_ending:
            return
        self.number = signal.Signals(number)
        if self._calls == 1 and any(ask(self.number.name) for ask in reversed(self.asks)):
            return
        self.is_ending, self._last = True, self._calls
        raise _Interrupt

    def watch(self, received: int) -> None:
        """Read the numbers of signals; end the process if the main thread does not.

        Python calls handlers between two instructions of the main thread. A library's call that
        does not return would postpone them.
        """
        count = 0
        with os.fdopen(received, "rb", buffering=0) as pipe:
            while number := pipe.read(1):
                if number[0] not in self.numbers:
                    continue  # a signal that others handle
                count += 1
                threading.Thread(target=self._end, args=(number[0], count), daemon=True).start()

    def _end(self, number: int, count: int) -> None:
        time.sleep(self._within_s)
        is_postponed = self._calls < count and (count > 1 or not self.asks)
        # After the command the interpreter waits for threads of libraries.
        if not ((self.is_ending and count >= self._last) or (is_postponed and self in _commands)):
            return
        self.number = signal.Signals(number)
        if self in _commands:
            for say_last in reversed(self.last_words):
                with suppress(Exception):
                    say_last()
            print(self.message(), file=sys.stderr, flush=True)
        os._exit(_BY_SIGNAL + number)


# The command that the main thread runs, if any.
_commands: list[_Command] = []


def end_by_signals_early(*, is_program: bool = False) -> None:
    """End a program by a signal with one line also before its `main`, while it imports packages.

    To be called first in the package of a command; without effect unless `python -m` imports it, or
    `is_program` says that this process is a command's.
    """
    # That is the name of the program until its module has been found.
    if not is_program and sys.argv[0] != "-m":
        return
    for number in _SIGNALS:
        if signal.getsignal(number) not in (signal.SIG_IGN, None):
            signal.signal(number, _end_early)


def _end_early(number: int, frame: FrameType | None) -> None:
    name = signal.Signals(number).name
    print(f"error: stopped by {name}; give the same command again", file=sys.stderr, flush=True)
    os._exit(_BY_SIGNAL + number)


@contextmanager
def ended_by_signals(advice: str = "", within_s: float = WITHIN_S) -> Iterator[None]:
    """End the program by SIGINT, SIGTERM or SIGHUP with one line, and with a shell's status.

    A signal raises KeyboardInterrupt in the main thread, or asks for an orderly stop while
    `orderly_stop` lasts. Later signals raise it once, and are ignored while the program ends. A
    signal that the parent has told it to ignore, as nohup does, stays ignored. `advice` completes
    the line. A process that does not end within `within_s` seconds is ended from another thread.
    Contexts within this one, and those in other threads, are no-ops.
    """
    if _commands or threading.current_thread() is not threading.main_thread():
        yield
        return
    command = _Command(advice, within_s)
    _commands.append(command)
    received, sent = os.pipe()
    os.set_blocking(sent, False)
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    # Others were set by the parent, or by code that is not Python's.
    before = {number: old for number, old in before.items() if old not in (signal.SIG_IGN, None)}
    wake_up = signal.set_wakeup_fd(sent, warn_on_full_buffer=False)
    threading.Thread(target=command.watch, args=(received,), name="signals", daemon=True).start()
    command.numbers = tuple(before)
    for number in before:
        signal.signal(number, command.handle)
    # Exit functions are called in reverse order.
    atexit.register(command.leave)
    is_stopped = False
    try:
        yield
    except BaseException as error:
        # Libraries turn KeyboardInterrupt into errors of their own.
        is_stopped = command.is_ending or getattr(error, "code", None) == status()
        if not command.is_ending:
            raise
        print(command.message(), file=sys.stderr, flush=True)
        raise SystemExit(status()) from None
    finally:
        if not is_stopped:
            atexit.unregister(command.leave)
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wake_up)
        _commands.remove(command)
        os.close(sent)


@contextmanager
def stopped_by_interrupt() -> Iterator[None]:
    """Ask for an orderly stop by a first SIGINT where one can be asked for; another raises.

    For calls from a program that lives on, such as a notebook: nothing ends the process. A no-op
    within a command and in other threads.
    """
    if _commands or threading.current_thread() is not threading.main_thread():
        yield
        return
    command = _Command("", WITHIN_S)
    command.is_call = True
    _commands.append(command)

    def handle(number: int, frame: FrameType | None) -> None:
        if command.is_ending:
            raise _Interrupt  # what the last one interrupted may hang as it ends
        command.handle(number, frame)

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        _commands.remove(command)
        # Code that is not Python's may have set it.
        signal.signal(signal.SIGINT, signal.default_int_handler if before is None else before)


@contextmanager
def orderly_stop(ask: Callable[[str], bool]) -> Iterator[None]:
    """Call `ask` with the name of a first signal; if it returns true, the signal does no more."""
    with _added(_commands[0].asks if _is_main() else [], ask):
        yield


@contextmanager
def last_words(say_last: Callable[[], None]) -> Iterator[None]:
    """Call `say_last`, from another thread, before a process that can't end itself is ended."""
    with _added(_commands[0].last_words if _is_main() else [], say_last):
        yield


def is_call() -> bool:
    """Whether the main thread runs a call of a program that lives on after it."""
    return any(command.is_call for command in _commands)


def is_ending() -> bool:
    """Whether a signal is ending the program."""
    return any(command.is_ending for command in _commands)


def status() -> int:
    """Return the exit status of a program that the last signal has ended; SIGTERM if none came."""
    return _BY_SIGNAL + (_commands[0].number if _commands else signal.SIGTERM)


def _is_main() -> bool:
    """Whether this is a command's main thread."""
    return bool(_commands) and threading.current_thread() is threading.main_thread()


@contextmanager
def _added(items: list[Any], item: Any) -> Iterator[None]:
    items.append(item)
    try:
        yield
    finally:
        items.remove(item)
