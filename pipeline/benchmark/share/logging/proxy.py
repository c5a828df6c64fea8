"""A server that is far away: a TCP proxy that holds everything back for as long as the way would take."""

import socket
import threading
import time
from contextlib import suppress
from queue import SimpleQueue
from typing import Self

_CHUNK_BYTES = 65_536


class Proxy:
    """Passes TCP connections on to a port of this machine as if it were `round_trip_s` away, until the block ends.

    Connecting takes a round trip, as does a question with its answer; how much
    fits through is not limited.
    """

    def __init__(self, port: int, round_trip_s: float) -> None:
        self._target, self._one_way_s = port, round_trip_s / 2
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._open: list[socket.socket] = []
        self._is_silent = False
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.refuse()

    def refuse(self) -> None:
        """From now on refuse connections, and end those that there are: the server is down."""
        for held in (self._listening, *self._open):
            with suppress(OSError):  # its other end may be gone
                held.shutdown(socket.SHUT_RDWR)
            held.close()

    def fall_silent(self) -> None:
        """From now on take connections and all that comes, and never answer: the server hangs."""
        self._is_silent = True

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:  # refused from now on
                return
            self._open.append(near)
            if not self._is_silent:
                self._connect(near)

    def _connect(self, near: socket.socket) -> None:
        far = socket.create_connection(("127.0.0.1", self._target))
        self._open.append(far)
        for end in (near, far):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # The kernel has taken the connection already: what comes first waits for that too.
        self._pass_on(near, far, late_s=2 * self._one_way_s)
        self._pass_on(far, near, late_s=0.0)

    def _pass_on(self, source: socket.socket, sink: socket.socket, late_s: float) -> None:
        """Read and write on threads of their own: what follows sets out while the first is still on its way."""
        under_way: SimpleQueue[tuple[float, bytes]] = SimpleQueue()
        earliest = time.monotonic() + late_s
        for work in (
            lambda: self._read(source, under_way, earliest),
            lambda: self._write(sink, under_way),
        ):
            threading.Thread(target=work, daemon=True).start()

    def _read(
        self, source: socket.socket, under_way: SimpleQueue[tuple[float, bytes]], earliest: float
    ) -> None:
        content = b"more"
        while content:
            try:
                content = source.recv(_CHUNK_BYTES)
            except OSError:  # cut off
                content = b""
            under_way.put((max(earliest, time.monotonic()) + self._one_way_s, content))

    def _write(self, sink: socket.socket, under_way: SimpleQueue[tuple[float, bytes]]) -> None:
        with suppress(OSError):  # cut off
            while True:
                due, content = under_way.get()
                time.sleep(max(0.0, due - time.monotonic()))
                if self._is_silent:
                    return
                if not content:
                    sink.shutdown(socket.SHUT_WR)
                    return
                sink.sendall(content)
