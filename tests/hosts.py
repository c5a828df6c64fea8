"""Hosts as network namespaces, each with an address, on a switch of their own.

Each also has its own name, `/etc/hosts` and `/tmp/ray`. The switch is a bridge in the first host's
namespace, invisible from outside.
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
# Prefix of every command on a host. As on Debian and Ubuntu, the host's name is a loopback address,
# which no other host has.
_ENTER = """
hostname "$0" && printf '127.0.0.1 localhost\\n127.0.1.1 %s\\n' "$0" > "$1/hosts" &&
mount --bind "$1/hosts" /etc/hosts && mkdir -p /tmp/ray "$1/ray" &&
mount --bind "$1/ray" /tmp/ray && shift && exec "$@"
"""


@dataclass(frozen=True, kw_only=True)
class Host:
    """Host by the name of its namespace, with an address and a folder for its own files."""

    name: str
    address: str
    folder: Path

    @contextmanager
    def running(
        self, words: Sequence[str], log: Path, environment: Mapping[str, str]
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Run a program on the host and write its output to `log`. At the end it is killed."""
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
        """Return the ids of all processes on the host."""
        found = _ip("netns", "pids", self.name)
        return [int(number) for number in found.split()]


def why_not() -> str:
    """Return why hosts can't be made on this machine; empty if they can."""
    for tool in ("ip", "unshare", "mount"):
        if shutil.which(tool) is None:
            return f"no {tool!r}, which makes network namespaces"
    probe = f"probe-{os.getpid()}"
    try:
        _ip("netns", "add", probe)
        _ip("-n", probe, "link", "add", _SWITCH, "type", "bridge")
        _ip("-n", probe, "link", "add", "one", "type", "veth", "peer", "name", "other")
    except subprocess.CalledProcessError as error:
        return f"no permission to make network namespaces: {error.stderr.strip()}"
    finally:
        with suppress(subprocess.CalledProcessError):
            _ip("netns", "del", probe)
    return ""


@contextmanager
def hosts(folder: Path, count: int) -> Iterator[list[Host]]:
    """Make `count` connected hosts, from 10.77.0.1. At the end remove them and their processes."""
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
    """Disconnect a host from the switch, without notice: packets no longer arrive."""
    _ip("-n", first.name, "link", "set", host.name, "down")


def start_again(host: Host, first: Host) -> None:
    """Kill the processes of a host that was cut off, and reconnect it."""
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
    """Kill processes, and wait until they have ended."""
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    end = time.monotonic() + 30
    while any(_runs(process) for process in processes):
        assert time.monotonic() < end, f"still running: {processes}"
        time.sleep(0.05)


def _runs(process: int) -> bool:
    with suppress(OSError):
        status = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return status[0] not in "ZX"
    return False


def _ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
    return done.stdout
