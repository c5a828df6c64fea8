"""How bytes come from other machines, one attempt at a time: http(s), s3 and gs through fsspec.

Credentials and endpoints are found where the libraries look for them: for s3
the environment and files of AWS's own tools, among them AWS_PROFILE,
AWS_ENDPOINT_URL_S3 and AWS_ENDPOINT_URL. For gs, Google's application default
credentials. Public buckets need none with FSSPEC_S3_ANON=true and
FSSPEC_GS_TOKEN=anon. For http, the proxies of HTTPS_PROXY and the passwords of
~/.netrc.
"""

import errno
import functools
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import BufferedIOBase
from typing import Any

import aiohttp
from fsspec.asyn import get_loop, sync
from fsspec.implementations.http import HTTPFileSystem

from pipeline.io.location import scheme_of
from pipeline.io.redaction import redacted

# Without a byte for so long, a connection counts as dead. Object stores answer
# within a second or two even when they are busy.
STALL_SECONDS = 20.0
# One request of an object store: some 0.3 s at the 50-100 MB/s of a single
# connection, beside which the request's 20-50 ms hardly count.
_CHUNK_BYTES = 16 * 2**20
# aiohttp's 64 KiB would stop and start the connection for every other read.
_BUFFER_BYTES = 2**20
_PACKAGES = {"s3": "s3fs", "gs": "gcsfs"}
# Request timeout, too early, too many requests: by RFC 9110 and 6585 worth another try.
_LATER = (408, 425, 429)
# What s3fs makes of S3's 500 and 503.
_TRANSIENT_ERRORS = (errno.EBUSY, errno.EIO, errno.EREMOTEIO)


class TransferError(Exception):
    """A transfer that failed for a reason that may pass; it says which."""


def find(pattern: str) -> list[str]:
    """Locations in an object store that match a glob. Raises ValueError, or TransferError."""
    return [f"{scheme_of(pattern)}://{path}" for path in _ask(pattern, "glob")]


def size(location: str) -> int:
    """Bytes of a remote file. Raises ValueError if it can't be read, or TransferError."""
    if scheme_of(location) in _PACKAGES:
        return _ask(location, "info")["size"]
    return sync(get_loop(), _http_size, location)


def pour(location: str, start: int, end: int, file: BufferedIOBase, *, may_skip: bool) -> None:
    """Write bytes `start` to `end` of a remote file to `file`.

    Raises ValueError if they can't be read, or TransferError, with what came until
    then written. `may_skip` allows to read and drop the bytes before `start`
    if an http server knows no ranges.
    """
    if scheme_of(location) in _PACKAGES:
        for at in range(start, end, _CHUNK_BYTES):
            stop = min(at + _CHUNK_BYTES, end)
            data = _ask(location, "cat_file", start=at, end=stop)
            file.write(data)
            if len(data) < stop - at:
                raise TransferError(f"it ended after {at + len(data):,} bytes")
    else:
        sync(get_loop(), _http_pour, location, start, end, file, may_skip)


async def _http_pour(
    location: str, start: int, end: int, file: BufferedIOBase, may_skip: bool
) -> None:
    async with _http_reply(location, start, end) as reply:
        position = start if reply.status == 206 else 0
        if position < start and not may_skip:
            raise ValueError(
                f"{redacted(location)}: the server ignores Range requests, expected to get bytes {start:,} "
                f"to {end:,}; whole shards can be read from it"
            )
        async for block in reply.content.iter_any():
            # A server that knows no ranges goes on past the end.
            if position >= end:
                break
            file.write(block[max(start - position, 0) : end - position])
            position += len(block)
    if position < end:
        raise TransferError(f"the server hung up after {position:,} bytes")


async def _http_size(location: str) -> int:
    # Not by HEAD, which signed URLs refuse.
    async with _http_reply(location, 0, 1) as reply:
        total = re.fullmatch(r"bytes .*/(\d+)", reply.headers.get("Content-Range", ""))
        length = int(total[1]) if total else reply.content_length
        if length is None or (reply.status == 206 and not total):
            raise ValueError(f"{redacted(location)}: the server does not say how many bytes it has")
        return length


@asynccontextmanager
async def _http_reply(location: str, start: int, end: int) -> AsyncIterator[aiohttp.ClientResponse]:
    """The answer to a request for bytes `start` to `end`: status 206, or 200 and the whole file."""
    filesystem = _filesystem("http", os.getpid())
    session = await filesystem.set_session()
    try:
        async with session.get(
            filesystem.encode_url(location),
            # A range of what is compressed on the way would be another one.
            headers={"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"},
            timeout=_timeout(),
        ) as reply:
            answer = f"the server answers {reply.status} {reply.reason}"
            if reply.status in _LATER or reply.status >= 500:
                raise TransferError(answer)
            if reply.status not in (200, 206):
                raise ValueError(
                    f"{redacted(location)}: {answer}, expected a file that may be read"
                )
            yield reply
    except aiohttp.InvalidURL:
        # Unchained: the error is the URL, with its secrets.
        raise ValueError(f"{redacted(location)}: not a URL") from None
    except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
        raise TransferError(redacted(str(error)) or type(error).__name__) from error


def _ask(location: str, method: str, **arguments: Any) -> Any:
    """One call of an object store's file system, whose errors have no base in common."""
    scheme = scheme_of(location)
    try:
        filesystem = _filesystem(scheme, os.getpid())
    except ImportError as error:
        raise ValueError(
            f"{redacted(location)} needs the package {_PACKAGES[scheme]}: pip install 'hourglass-ray[remote]'"
        ) from error
    try:
        return getattr(filesystem, method)(location, **arguments)
    except FileNotFoundError:
        raise ValueError(
            f"{redacted(location)}: no such file, expected one that may be read"
        ) from None
    except Exception as error:
        if _is_transient(scheme, error):
            raise TransferError(redacted(str(error)) or type(error).__name__) from error
        raise ValueError(redacted(f"{location}: can't be read: {error}")) from error


def _is_transient(scheme: str, error: Exception) -> bool:
    if isinstance(error, aiohttp.ClientError | ConnectionError | TimeoutError):
        return True
    if isinstance(error, OSError):
        return error.errno in _TRANSIENT_ERRORS
    if scheme == "s3":
        from botocore.exceptions import ConnectionError as NoConnectionError
        from s3fs.core import S3_RETRYABLE_ERRORS

        return isinstance(error, (*S3_RETRYABLE_ERRORS, NoConnectionError))
    from gcsfs.retry import is_retriable

    return is_retriable(error)


@functools.cache
def _filesystem(scheme: str, process: int) -> Any:
    """The file system of a scheme, one for all threads; a forked process needs its own.

    fsspec's own cache holds one, with connections, for each thread that ever
    asked. Nor may listings be kept: shards are still being packed.
    """
    options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
    if scheme == "http":
        # What is stored compressed stays so: sizes and ranges count those bytes.
        client = {"trust_env": True, "auto_decompress": False, "read_bufsize": _BUFFER_BYTES}
        return HTTPFileSystem(client_kwargs=client, **options)
    if scheme == "gs":
        # The class that fsspec would take asks over gRPC how each bucket is laid
        # out, which reading needs only where buckets are zonal.
        from gcsfs.core import GCSFileSystem

        # It tries everything six times by itself, and can't be told not to.
        return GCSFileSystem(requests_timeout=_timeout(), **options)
    from s3fs import S3FileSystem

    patience = {"connect_timeout": STALL_SECONDS, "read_timeout": STALL_SECONDS}
    once = {"retries": {"total_max_attempts": 1}}
    filesystem = S3FileSystem(config_kwargs=patience | once, **options)
    # Both botocore and s3fs would try again by themselves, 25 times altogether.
    filesystem.retries = 1
    return filesystem


def _timeout() -> aiohttp.ClientTimeout:
    """Any time for a transfer as a whole, as long as it does not stall."""
    return aiohttp.ClientTimeout(total=None, sock_connect=STALL_SECONDS, sock_read=STALL_SECONDS)
