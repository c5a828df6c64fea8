"""Bounds of answers to MLflow's HTTP client, which has no setting for them."""

import os
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import mlflow.utils.request_utils
import requests
from mlflow.utils.request_utils import TCPKeepAliveHTTPAdapter
from urllib3 import BaseHTTPResponse

from pipeline.io.threads import within

# Bytes of an answer, unpacked: of a list of a thousand runs, and of a file. A checkpoint of 8
# stacks has some 300 MB.
_MOST_BYTES, _MOST_FILE_BYTES = 2**26, 2**33
# Seconds for an answer, and the pace below which no network is.
_PATIENCE_S, _LEAST_BYTES_PER_S = 600.0, 2**13
_BLOCK = 2**16


class BoundedAdapter(TCPKeepAliveHTTPAdapter):
    """Transport that gives an answer up past a number of bytes, or if it takes too long."""

    def send(
        self, request: requests.PreparedRequest, stream: bool = False, *args: Any, **options: Any
    ) -> requests.Response:
        """Send a request. It and reading the answer may raise requests.ConnectionError."""
        sent = int(request.headers.get("Content-Length", 0))
        patience_s = _PATIENCE_S + sent / _LEAST_BYTES_PER_S
        call = partial(super().send, request, stream, *args, **options)
        # Other limits are for each part of an answer's head, which may come byte by byte.
        try:
            answer: requests.Response = within(patience_s, call)
        except TimeoutError as error:
            raise requests.ConnectionError(str(error)) from None
        most = _MOST_FILE_BYTES if stream else _MOST_BYTES
        # requests reads all answers by this method.
        answer.raw.stream = partial(_blocks, answer.raw, most)
        return answer


def bound_answers() -> None:
    """Let MLflow's later sessions of this process bound their answers."""
    # Parts of a file come from where the server says, one of 100 MB at a time.
    os.environ.setdefault("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "false")
    mlflow.utils.request_utils.TCPKeepAliveHTTPAdapter = BoundedAdapter  # type: ignore[misc]


def _blocks(
    answer: BaseHTTPResponse, most: int, _size: int = 0, decode_content: bool | None = None
) -> Iterator[bytes]:
    """Yield an answer's content as it arrives."""
    size, begin, fault = 0, time.monotonic(), ""
    # `read` would wait for a whole block, which a server can send byte by byte.
    while not fault and (block := answer.read1(_BLOCK, decode_content=decode_content)):
        size += len(block)
        if size > most:
            fault = f"an answer of more than the {most:,} bytes expected"
        elif time.monotonic() - begin > _PATIENCE_S + size / _LEAST_BYTES_PER_S:
            fault = f"an answer of {size:,} bytes that takes too long"
        else:
            yield block
    if fault:
        answer.close()
        raise requests.ConnectionError(fault)
