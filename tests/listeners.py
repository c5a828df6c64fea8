"""The TCP addresses that processes listen on, from Linux's /proc."""

import contextlib
import threading
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

_LISTENING = "0A"
_PROC = Path("/proc")


def descendants(root: int) -> set[int]:
    """Return a process and all its descendants."""
    children: dict[int, list[int]] = {}
    for folder in _PROC.iterdir():
        # Processes may end meanwhile.
        with contextlib.suppress(OSError):
            if folder.name.isdigit():
                status = (folder / "stat").read_text().rpartition(")")[2].split()
                children.setdefault(int(status[1]), []).append(int(folder.name))
    found, todo = set(), [root]
    while todo:
        found.add(process := todo.pop())
        todo += children.get(process, [])
    return found


def addresses(processes: set[int]) -> set[tuple[str, IPv4Address | IPv6Address]]:
    """Return process name and address of every TCP socket that `processes` listen on."""
    listening = _listening()
    found = set()
    for process in processes:
        with contextlib.suppress(OSError):
            name = (_PROC / str(process) / "cmdline").read_text().split("\0")[0]
            for link in (_PROC / str(process) / "fd").iterdir():
                with contextlib.suppress(OSError):
                    socket = str(link.readlink()).removeprefix("socket:[").rstrip("]")
                    if socket in listening:
                        found.add((name.rpartition("/")[2], listening[socket]))
    return found


def _listening() -> dict[str, IPv4Address | IPv6Address]:
    """Return the addresses of all listening sockets by inode."""
    found = {}
    for table in ("tcp", "tcp6"):
        for line in (_PROC / "net" / table).read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == _LISTENING:
                # Words of four bytes, little-endian.
                packed = bytes.fromhex(local.partition(":")[0])
                words = [packed[at : at + 4][::-1] for at in range(0, len(packed), 4)]
                found[inode] = ip_address(b"".join(words))
    return found


def is_loopback(address: IPv4Address | IPv6Address) -> bool:
    """Tell whether an address is reachable from this machine only."""
    inner = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (inner or address).is_loopback


@contextlib.contextmanager
def watched(root: int) -> Iterator[set[tuple[str, IPv4Address | IPv6Address]]]:
    """Collect the addresses that `root` and its descendants listen on during the block."""
    seen: set[tuple[str, IPv4Address | IPv6Address]] = set()
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            seen.update(addresses(descendants(root)))
            done.wait(0.1)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield seen
    finally:
        done.set()
        watcher.join()
