"""Hosts of their own as far as the network goes: namespaces with an address each, on a switch that only they are plugged into.

Each also has its own name, `/etc/hosts` and `/tmp/ray`. The switch is a bridge
in the first host's namespace, so that nothing of it is seen outside of them.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_SWITCH = "switch"
# What a process is started through: the name as Debian and Ubuntu write it, whose address is no other host's.
_ENTER = """
hostname "$0" && printf '127.0.0.1 localhost\\n127.0.1.1 %s\\n' "$0" > "$1/hosts" &&
mount --bind "$1/hosts" /etc/hosts && mkdir -p /tmp/ray "$1/ray" && mount --bind "$1/ray" /tmp/ray &&
shift && exec "$@"
"""


@dataclass(frozen=True, kw_only=True)
class Host:
    """A host with an address, by name of its namespace; `folder` holds what is its own."""

    name: str
    address: str
    folder: Path

    @contextmanager
    def running(
        self, words: Sequence[str], log: Path, environment: Mapping[str, str]
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Run a program there for the duration, or as long as it takes; what it says goes to `log`."""
        within = ["ip", "netns", "exec", self.name, "unshare", "--uts", "--mount"]
        with log.open("wb") as out:
            program = subprocess.Popen(
                [*within, "sh", "-c", _ENTER, self.name, str(self.folder), *words],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=dict(environment),
            )
        try:
            yield program
        finally:
            program.kill()
            program.wait()

    def processes(self) -> list[int]:
        """All that run there."""
        found = _ip("netns", "pids", self.name)
        return [int(number) for number in found.split()]


def why_not() -> str:
    """What is missing to make hosts; empty: nothing."""
    for tool in ("ip", "unshare", "mount"):
        if shutil.which(tool) is None:
            return f"there is no {tool!r} to make network namespaces with"
    probe = f"probe-{os.getpid()}"
    try:
        _ip("netns", "add", probe)
        _ip("-n", probe, "link", "add", _SWITCH, "type", "bridge")
        _ip("-n", probe, "link", "add", "one", "type", "veth", "peer", "name", "other")
    except subprocess.CalledProcessError as error:
        return f"no right to make network namespaces: {error.stderr.strip()}"
    finally:
        with suppress(subprocess.CalledProcessError):
            _ip("netns", "del", probe)
    return ""


@contextmanager
def hosts(folder: Path, count: int) -> Iterator[list[Host]]:
    """So many hosts, 10.77.0.1 and on, connected; at the end they go with every process that still runs there."""
    made: list[Host] = []
    try:
        for number in range(1, count + 1):
            name = f"host-{os.getpid()}-{number}"
            host = Host(name=name, address=f"10.77.0.{number}", folder=folder / name)
            host.folder.mkdir()
            _ip("netns", "add", name)
            made.append(host)
            _plug_in(host, made[0])
        yield made
    finally:
        for host in made:
            _end(host.processes())
            _ip("netns", "del", host.name)


def cut_off(host: Host, first: Host) -> None:
    """Take its cable out of the switch: nobody hears of it, and no packet arrives any more."""
    _ip("-n", first.name, "link", "set", host.name, "down")


def start_again(host: Host, first: Host) -> None:
    """Have a host that was cut off back, as if it had been off meanwhile: nothing runs there any more."""
    _end(host.processes())
    _ip("-n", first.name, "link", "set", host.name, "up")


def _plug_in(host: Host, first: Host) -> None:
    _ip("-n", host.name, "link", "set", "lo", "up")
    if host is first:
        _ip("-n", host.name, "link", "add", _SWITCH, "type", "bridge")
        device = _SWITCH
    else:
        device = "eth0"
        end = ("type", "veth", "peer", "name", device, "netns", host.name)
        _ip("-n", first.name, "link", "add", host.name, *end)
        _ip("-n", first.name, "link", "set", host.name, "master", _SWITCH, "up")
    _ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", device)
    _ip("-n", host.name, "link", "set", device, "up")


def _end(processes: Sequence[int]) -> None:
    """End processes at once, and wait until they have."""
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    end = time.monotonic() + 30
    while any(_runs(process) for process in processes):
        assert time.monotonic() < end, f"still there: {processes}"
        time.sleep(0.05)


def _runs(process: int) -> bool:
    with suppress(OSError):
        status = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return status[0] not in "ZX"
    return False


def _ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
    return done.stdout
