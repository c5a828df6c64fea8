"""Ownership of a run's folder: one driver at a time, and one group of its workers.

Every start claims the next number, its generation, by a file in the folder `owners`. The owner of
the newest claim may write to the folder; all others stop.
"""

import json
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable
from uuid import uuid4

from pipeline.io.console import say
from pipeline.io.inside import read_whole
from pipeline.io.interruption import is_call
from pipeline.io.parsing import fields_of, parse_json, text_of, whole_of
from pipeline.io.processes import STOPPED, send, state_and_start, wait_for_end

# Folder of the claims, in the folder that they are about.
CLAIMS = "owners"
# Seconds between looks for a newer claim, and between signs of life: the times of the owner's file.
_LOOK_S, _SIGN_S = 0.5, 2.0
# Seconds without a sign of life after which an owner on another machine counts as dead.
LEASE_S = 30.0
# Seconds in which an owner that was stopped, and is continued, ends itself.
_WAKE_S = 10.0
_SUPERSEDED = 1


class HeldError(ValueError):
    """Another process owns the folder, and is alive."""


class SupersededError(Exception):
    """A newer start owns the folder, which its former owner must not change any more."""


@dataclass(frozen=True, kw_only=True)
class Owner:
    """A start of a driver: a name of its own, and the process. `ticks` is its start after boot.

    `machine` tells machines and containers apart by boot and process namespace; empty if unknown.
    """

    token: str
    host: str
    machine: str
    pid: int
    ticks: int
    since: str

    def __str__(self) -> str:
        return f"process {self.pid} on host {self.host}, started {self.since}"

    @classmethod
    def of_this_process(cls) -> Self:
        """Return a new owner."""
        pid = os.getpid()
        state = state_and_start(pid)
        return cls(
            token=uuid4().hex,
            host=socket.gethostname(),
            machine=_machine(),
            pid=pid,
            ticks=0 if state is None else state[1],
            since=f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC",
        )


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim's file. Without an owner the folder was released."""

    path: Path
    owner: Owner | None

    @property
    def generation(self) -> int:
        """Number of the claim."""
        return int(self.path.stem)

    @property
    def last_owner(self) -> Owner | None:
        """The owner, or the one that released the folder."""
        before = self.path.with_name(_name(self.generation - 1))
        return self.owner or (_read(before) if before.exists() else None)


@runtime_checkable
class Turns(Protocol):
    """The turns of a driver and its workers to write, where they share no disk."""

    def hand_over(self) -> None:
        """Let the workers write."""

    def take_back(self) -> None:
        """Let the driver write, and the workers no longer."""

    def start_over(self, remove: Callable[[], None]) -> None:
        """Remove what the run has, so that it begins anew."""


class Writer:
    """A writer's right to a folder, as `owner`; a worker's ends with the next generation.

    `generation` is that of a worker's claim; None is a driver, which shares those of its workers.
    It takes `turns` with them where the folder has a copy in a bucket.
    """

    def __init__(self, folder: Path, owner: Owner, generation: int | None = None) -> None:
        self._folder, self.owner, self._generation = folder, owner, generation
        self.turns: Turns | None = None

    @classmethod
    def of_worker(cls, folder: Path, owner: Owner) -> Self:
        """Claim the next generation for a group of the owner's workers.

        Raises SupersededError if the folder has another owner.
        """
        while True:
            generation = cls(folder, owner).check() + 1
            if _create(folder, generation, owner):
                return cls(folder, owner, generation)

    def check(self) -> int:
        """Return the generation to write with. To be called immediately before each change.

        Raises SupersededError if a newer start owns the folder.
        """
        # An NFS client lists a folder from memory for up to a minute, unless it changed it itself.
        # This needs no room on the disk.
        with suppress(OSError):
            os.utime(self._folder / CLAIMS)
        newest = newest_claim(self._folder)
        if newest is None:  # the folder was removed meanwhile
            return self._generation or 0
        name, last = self._folder.name, newest.last_owner
        if last is None or last.token != self.owner.token:
            raise SupersededError(f"{name} was taken over by {last}: nothing more is written here")
        if newest.owner is None:
            raise SupersededError(f"{name} was ended by its driver: nothing more is written")
        if self._generation not in (None, newest.generation):
            raise SupersededError(f"{name} has newer workers: nothing more is written by these")
        return newest.generation

    def is_newest(self) -> bool:
        """Whether this writer may still write."""
        try:
            self.check()
        except SupersededError:
            return False
        return True

    def release(self) -> None:
        """Let others claim the folder at once, unless they have."""
        with suppress(OSError, SupersededError):
            _create(self._folder, self.check() + 1, None)


def newest_claim(folder: Path) -> Claim | None:
    """Return the claim with the highest number, if there is one. Raises OSError."""
    try:
        path = max((folder / CLAIMS).glob("*.json"), default=None)
        return None if path is None else Claim(path=path, owner=_read(path))
    except FileNotFoundError:
        return None


def note_claim(folder: Path, generation: int, owner: Owner | None) -> None:
    """Note a claim that was made elsewhere, unless the folder has it or a newer one."""
    newest = newest_claim(folder)
    if newest is not None and newest.generation >= generation:
        return
    if _create(folder, generation, owner):
        # Signs of life of an owner elsewhere do not reach this file: its age must not count as one.
        os.utime(folder / CLAIMS / _name(generation), (0, 0))


def _name(generation: int) -> str:
    return f"{generation:08d}.json"


def _read(path: Path) -> Owner | None:
    """Read a claim; one that is cut off belongs to an unknown process."""
    try:
        content = parse_json(read_whole(path), "claim")
        if content == {}:
            return None
        given = fields_of(content, "claim", required=[item.name for item in fields(Owner)])
        read = {name: whole_of if name in ("pid", "ticks") else text_of for name in given}
        found: dict[str, Any] = {name: read[name](value, name) for name, value in given.items()}
        return Owner(**found)
    except ValueError:
        return Owner(token="", host="unknown", machine="", pid=0, ticks=0, since="unknown")


def _create(folder: Path, generation: int, owner: Owner | None) -> bool:
    """Create a claim with all its content; return whether no other process was faster."""
    path = folder / CLAIMS / _name(generation)
    content = json.dumps({} if owner is None else asdict(owner)) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, aside = tempfile.mkstemp(prefix=".claim-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(aside).chmod(0o644)
        try:
            os.link(aside, path)
        except FileExistsError:
            return False
        except OSError:
            # A disk without links: a reader may meet the file before its content.
            with suppress(FileExistsError), path.open("x") as file:
                file.write(content)
                return True
            return False
    finally:
        Path(aside).unlink()
    return True


@contextmanager
def own(
    folder: Path,
    what: str,
    *,
    take_over: bool = False,
    lost: Callable[[SupersededError], None] | None = None,
) -> Iterator[Writer]:
    """Own a folder while the context lasts; `what` names it in messages.

    An owner that died is replaced: at once on the same machine, elsewhere after 30 seconds without
    a sign of life. `take_over` replaces a living one too. `lost` is called on a thread when another
    start takes this one over; None ends the process. Raises HeldError, before anything is written,
    if another owner is alive.
    """
    writer = Writer(folder, _claim(folder, what, take_over))
    over = threading.Event()
    arguments = writer, folder, over, lost or _end_process
    keeping = threading.Thread(target=_keep, args=arguments, name="ownership", daemon=True)
    keeping.start()
    try:
        yield writer
    finally:
        over.set()
        keeping.join()
        writer.release()


def _claim(folder: Path, what: str, take_over: bool) -> Owner:
    """Claim the next generation, once no other owner is alive."""
    owner = Owner.of_this_process()
    while True:
        newest = newest_claim(folder)
        if newest is not None and newest.owner is not None and not take_over:
            _wait_for_end(folder, newest, newest.owner, what)
        if _create(folder, 1 if newest is None else newest.generation + 1, owner):
            if newest is not None and newest.owner is not None:
                _end_if_stopped(newest.owner)
            return owner


def check_free(folder: Path, what: str) -> None:
    """Raise HeldError if a process of this machine owns the folder, and is alive."""
    newest = newest_claim(folder)
    if newest is not None and newest.owner is not None:
        has_ended(newest.owner, what, lambda: _claim_age_s(newest))


def has_ended(owner: Owner, what: str, age_s: Callable[[], float]) -> bool:
    """Whether an owner on this machine has ended; on another machine it may be alive.

    Raises HeldError with the age of its sign of life if it is alive.
    """
    state = _state(owner)
    if not state:
        return state is not None
    raise held(what, owner, age_s(), STOPPED if state in "Tt" else "")


def _claim_age_s(claim: Claim) -> float:
    with tempfile.NamedTemporaryFile(dir=claim.path.parent, prefix=".probe-") as probe:
        return _age_s(probe.name, _sign_of_life(claim))


def _state(owner: Owner) -> str | None:
    """Return the state of an owner on this machine, empty if it has ended; None elsewhere."""
    if not owner.machine or owner.machine != _machine():
        return None
    process = state_and_start(owner.pid)
    return process[0] if process is not None and process[1] == owner.ticks else ""


def _end_if_stopped(owner: Owner) -> None:
    """Let a former owner that is stopped on this machine end itself, as a running one does.

    It could hold a lock on MLflow's database, and a GPU's memory, for ever.
    """
    if _state(owner) not in ("T", "t"):
        return
    with suppress(PermissionError):
        send([owner.pid], signal.SIGCONT)
    if not wait_for_end([owner.pid], _WAKE_S):
        say(
            f"{owner}, is stopped and did not end within {_WAKE_S:g} s of a SIGCONT: nothing of it "
            "is recorded any more, but it may hold memory and locks"
        )


def _wait_for_end(folder: Path, claim: Claim, owner: Owner, what: str) -> None:
    """Return when the owner of the newest claim is dead, or has released it.

    Raises HeldError if it is alive.
    """
    if has_ended(owner, what, lambda: _claim_age_s(claim)):
        return

    def sign() -> float | None:
        newest = newest_claim(folder)
        is_newest = newest is not None and newest.generation == claim.generation
        return _sign_of_life(claim) if is_newest else None

    with tempfile.NamedTemporaryFile(dir=folder / CLAIMS, prefix=".probe-") as probe:
        first = _sign_of_life(claim)
        outlive_lease(owner, what, first, sign, lambda: _age_s(probe.name, first), _LOOK_S)


def outlive_lease(
    owner: Owner,
    what: str,
    first: float,
    sign: Callable[[], float | None],
    age_s: Callable[[], float],
    look_s: float,
) -> bool:
    """Wait until the `first` sign of life of an owner elsewhere, of `age_s`, is older than a lease.

    Looks for a newer one every `look_s` seconds: `sign` returns the time of the last one, or None
    once there is another claim. Returns whether the lease is over; False if there is another claim.
    Raises HeldError if the owner is alive.
    """
    is_said = False
    while (age := age_s()) < LEASE_S:
        last = sign()
        if last is None:
            return False
        if last > first:
            raise held(what, owner, 0.0)
        if not is_said:
            say(
                f"{what}: waiting for at most {LEASE_S - age:.0f} s, to see whether its "
                f"last owner is alive: {owner}, last sign of life {age:.0f} s ago"
            )
        is_said = True
        time.sleep(look_s)
    return True


def held(what: str, owner: Owner, age_s: float, state: str = "") -> HeldError:
    """Return the error for something that a living owner holds."""
    return HeldError(
        f"{what} is held by {owner}{state}, last sign of life {age_s:.0f} s ago: wait until it "
        "ends, stop it, or give --ray.take-over true to go on in its place"
    )


def _sign_of_life(claim: Claim) -> float:
    """Return the time of a claim's file. NFS asks the server for it when the file is opened."""
    with claim.path.open("rb") as file:
        return os.fstat(file.fileno()).st_mtime


def _age_s(probe: str, time_s: float) -> float:
    """Return the age of a file's time by the clock of its disk, since clocks of hosts differ."""
    os.utime(probe)
    return Path(probe).stat().st_mtime - time_s


def _keep(
    writer: Writer,
    folder: Path,
    over: threading.Event,
    lost: Callable[[SupersededError], None],
) -> None:
    """Give signs of life, which need no room on the disk, until another start owns the folder."""
    signed = time.monotonic()
    while not over.wait(_LOOK_S):
        try:
            writer.check()
            if time.monotonic() - signed >= _SIGN_S:
                claim = newest_claim(folder)
                if claim is not None:
                    os.utime(claim.path)
                signed = time.monotonic()
        except OSError:
            continue  # the disk is away: others take over, or it comes back
        except SupersededError as error:
            lost(error)
            return


def _end_process(error: SupersededError) -> None:
    """End this process at once: its threads wait for Ray or MLflow, and must not write any more.

    Of a program that lives on, such as a notebook, only the call is interrupted.
    """
    print(f"error: {error}", file=sys.stderr, flush=True)
    if is_call():
        # Waits of the main thread end by a signal that comes from outside alone.
        os.kill(os.getpid(), signal.SIGINT)
        return
    sys.stdout.flush()
    os._exit(_SUPERSEDED)


def _machine() -> str:
    """Return what only processes of this machine, or of this container, have in common."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""
