"""A web server on loopback that can break connections, stall and return errors."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

# Long enough for several blocks, without repetition.
CONTENT = b"".join(number.to_bytes(4, "big") for number in range(100_000))
SIZE = len(CONTENT)


class WebServer(ThreadingHTTPServer):
    """Server of `files`.

    `served` has the bytes sent per request, without requests of a size. The next connections break
    after `breaks` bytes, and the next answers have `statuses`. After `stalls_after` bytes the
    server stalls. `redirects` are addresses by path, and `authorizations` a header per request.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {"/train-000000.tar": CONTENT}
        self.served: list[int] = []
        self.breaks: list[int] = []
        self.statuses: list[int] = []
        self.redirects: dict[str, str] = {}
        self.authorizations: list[str | None] = []
        self.serves_ranges = True
        self.stalls_after: int | None = None
        self.unblocked = threading.Event()
        self.unblocked.set()
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.shard = f"{self.url}/train-000000.tar"

    def handle_error(self, *_: object) -> None:
        """Ignore clients that hang up."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: WebServer

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.authorizations.append(self.headers.get("Authorization"))
        if target := self.server.redirects.get(path):
            self.send_response(302)
            self.send_header("Location", target)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        if path not in self.server.files or status != 200:
            self.send_error(404 if status == 200 else status)
            return
        content = self.server.files[path]
        body, status = content, 200
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if asked and self.server.serves_ranges:
            start, end = asked.groups()
            body, status = content[int(start) : int(end) + 1], 206
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{end}/{len(content)}")
        self.end_headers()
        if asked and asked[2] == "0":
            self.wfile.write(body[:1])
            self.close_connection = True
        else:
            self.send_body(body)

    def send_body(self, body: bytes) -> None:
        self.server.unblocked.wait(10)
        if self.server.breaks:
            body = body[: self.server.breaks.pop(0)]
            self.close_connection = True
        if self.server.stalls_after is not None:
            self.wfile.write(body[: self.server.stalls_after])
            self.server.unblocked.clear()
            self.server.unblocked.wait(10)
            return
        self.server.served.append(len(body))
        self.wfile.write(body)


@contextmanager
def serving() -> Iterator[WebServer]:
    """Run a web server."""
    server = WebServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.unblocked.set()
        server.shutdown()
        server.server_close()
        thread.join()


def publish(web: WebServer, paths: list[Path]) -> str:
    """Serve a packed folder; return the pattern of its shards, with braces."""
    web.files = {f"/pose/{path.name}": path.read_bytes() for path in paths[0].parent.iterdir()}
    return f"{web.url}/pose/train-{{000000..{len(paths) - 1:06d}}}.tar"
