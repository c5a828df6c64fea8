"""Single attempts to read over http(s), s3 and gs, through fsspec.

The libraries find credentials and endpoints. s3: the environment and files of AWS's own tools,
among them AWS_PROFILE, AWS_ENDPOINT_URL_S3 and AWS_ENDPOINT_URL. gs: Google's application default
credentials. Public buckets need none with FSSPEC_S3_ANON=true and FSSPEC_GS_TOKEN=anon. http: the
proxies of HTTPS_PROXY and the passwords of ~/.netrc, which no redirect takes to another server.
"""

import asyncio
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
from yarl import URL

from pipeline.io.location import scheme_of
from pipeline.io.redaction import redacted
from pipeline.io.text import briefly

# Seconds without a byte after which a connection counts as dead. Object stores answer within a
# second or two even when they are busy.
STALL_SECONDS = 20.0
# Bytes per request of an object store: about 0.3 s at the 50-100 MB/s of one connection, so that
# the request's own 20-50 ms hardly count.
_CHUNK_BYTES = 16 * 2**20
# With aiohttp's 64 KiB the connection would pause at every other read.
_BUFFER_BYTES = 2**20
# Seconds in which a server has to state a size.
_SIZE_SECONDS = 60.0
# The bytes of an answer, and of the whole file: RFC 9110, 14.4. No file has more digits.
_RANGE = re.compile(r"bytes (\d{1,20})-(\d{1,20})/(\d{1,20}|\*)")
_PACKAGES = {"s3": "s3fs", "gs": "gcsfs"}
# Request timeout, too early, too many requests: RFC 9110, 8470 and 6585 allow a retry.
_LATER = (408, 425, 429)
_REDIRECTS, _MOST_REDIRECTS = (301, 302, 303, 307, 308), 10
# s3fs's translations of S3's 500 and 503.
_TRANSIENT_ERRORS = (errno.EBUSY, errno.EIO, errno.EREMOTEIO)


class TransferError(Exception):
    """Failure of a transfer that is worth a retry."""


def find(pattern: str) -> list[str]:
    """List the objects that match a glob. Raises ValueError, or TransferError."""
    return [f"{scheme_of(pattern)}://{path}" for path in _ask(pattern, "glob")]


def size(location: str) -> int:
    """Return a file's size in bytes. Raises ValueError if it can't be read, or TransferError."""
    if scheme_of(location) in _PACKAGES:
        return _ask(location, "info")["size"]
    return sync(get_loop(), _http_size, location)


def pour(
    location: str, start: int, end: int, file: BufferedIOBase, *, may_skip: bool, seconds: float
) -> None:
    """Write bytes `start` to `end` of a remote file to `file`, and never more.

    Raises ValueError if they can't be read or others are sent, or TransferError after writing the
    bytes received until then, by http within `seconds`. With `may_skip` it reads and drops the
    bytes before `start` if an http server ignores Range requests.
    """
    if scheme_of(location) in _PACKAGES:
        for at in range(start, end, _CHUNK_BYTES):
            stop = min(at + _CHUNK_BYTES, end)
            data = _ask(location, "cat_file", start=at, end=stop)
            if len(data) > stop - at:
                raise ValueError(
                    f"{redacted(location)}: {len(data):,} bytes are sent, expected {stop - at:,}"
                )
            file.write(data)
            if len(data) < stop - at:
                raise TransferError(f"it ended after {at + len(data):,} bytes")
    else:
        sync(get_loop(), _http_pour, location, start, end, file, may_skip, seconds)


async def _http_pour(
    location: str, start: int, end: int, file: BufferedIOBase, may_skip: bool, seconds: float
) -> None:
    async with _http_reply(location, start, end, seconds) as reply:
        position = 0
        if reply.status == 206:
            _check_range(location, start, end, reply)
            position = start
        if position < start and not may_skip:
            raise ValueError(
                f"{redacted(location)}: the server ignores Range requests, expected to get bytes "
                f"{start:,} to {end:,}; whole shards can be read from it"
            )
        async for block in reply.content.iter_any():
            # A server that ignores Range requests sends more than was asked for.
            if position >= end:
                break
            file.write(block[max(start - position, 0) : end - position])
            position += len(block)
    if position < end:
        raise TransferError(f"the server hung up after {position:,} bytes")


async def _http_size(location: str) -> int:
    # Signed URLs refuse HEAD requests.
    async with _http_reply(location, 0, 1, _SIZE_SECONDS) as reply:
        stated = _RANGE.fullmatch(reply.headers.get("Content-Range", ""))
        length = reply.content_length if reply.status == 200 else None
        if stated and stated[3] != "*":
            length = int(stated[3])
        if length is None:
            raise ValueError(f"{redacted(location)}: the server does not say how many bytes it has")
        return length


def _check_range(location: str, start: int, end: int, reply: aiohttp.ClientResponse) -> None:
    """Raise ValueError if a reply is of other bytes than `start` to `end`, or of more."""
    got = reply.headers.get("Content-Range", "")
    stated = _RANGE.fullmatch(got)
    if stated is None or int(stated[1]) != start or int(stated[2]) >= end:
        raise ValueError(
            f"{redacted(location)}: the server sends the range {got!r:.80}, expected bytes "
            f"{start}-{end - 1}"
        )


@asynccontextmanager
async def _http_reply(
    location: str, start: int, end: int, seconds: float
) -> AsyncIterator[aiohttp.ClientResponse]:
    """Request bytes `start` to `end`; the response has status 206, or 200 and the whole file.

    All of it has to come within `seconds`.
    """
    filesystem = _filesystem("http", os.getpid())
    session = await filesystem.set_session()
    try:
        async with asyncio.timeout(seconds):
            first = url = _url(filesystem, location)
            for _ in range(_MOST_REDIRECTS):
                async with session.get(
                    url,
                    # With a compressed transfer the range would be one of compressed bytes.
                    headers={"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"},
                    timeout=_timeout(),
                    allow_redirects=False,
                    middlewares=() if _is_same_server(first, url) else (_without_password,),
                ) as reply:
                    if reply.status in _REDIRECTS:
                        url = _next(first, url, reply.headers.get("Location", ""), location)
                        continue
                    answer = f"the server answers {reply.status} {reply.reason}"
                    if reply.status in _LATER or reply.status >= 500:
                        raise TransferError(answer)
                    if reply.status not in (200, 206):
                        raise ValueError(
                            f"{redacted(location)}: {answer}, expected a file that may be read"
                        )
                    yield reply
                    return
            raise ValueError(f"{redacted(location)}: more than {_MOST_REDIRECTS} redirects")
    except aiohttp.InvalidURL:
        # Not chained: the error's text is the URL, with its secrets.
        raise ValueError(f"{redacted(location)}: not a URL") from None
    except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
        raise TransferError(redacted(str(error)) or type(error).__name__) from error


def _url(filesystem: HTTPFileSystem, location: str) -> URL:
    try:
        return filesystem.encode_url(location)
    except ValueError:
        # Not chained, as below.
        raise ValueError(f"{redacted(location)}: not a URL") from None


def _next(first: URL, url: URL, target: str, location: str) -> URL:
    """Return where a redirect leads. Raises ValueError unless it is a server, reached as safely."""
    try:
        found = url.join(URL(target))
    except ValueError:
        found = URL()
    if found.scheme not in ("http", "https") or not found.host:
        raise ValueError(
            f"{redacted(location)}: the server redirects to {redacted(str(found))!r:.200}, "
            "expected an address of http or https"
        )
    if (url.scheme, found.scheme) == ("https", "http"):
        raise ValueError(
            f"{redacted(location)}: the server redirects from https to http, to {found.host}; "
            "expected an address of https, or give the address of http itself"
        )
    found = found.with_user(None)
    if _is_same_server(first, found) and first.user is not None:
        return found.with_user(first.user).with_password(first.password)
    return found


def _is_same_server(first: URL, url: URL) -> bool:
    """Whether a redirect may get the password: the same server, or its https."""
    to_https = (first.scheme, url.scheme) == ("http", "https")
    ports = first.is_default_port() and url.is_default_port()
    return url.host == first.host and (url.origin() == first.origin() or (to_https and ports))


async def _without_password(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Send a request without the password that ~/.netrc has for its host."""
    request.headers.pop("Authorization", None)
    return await handler(request)


def _ask(location: str, method: str, **arguments: Any) -> Any:
    """Call a method of an object store's file system, whose errors have no common base class."""
    scheme = scheme_of(location)
    try:
        filesystem = _filesystem(scheme, os.getpid())
    except ImportError as error:
        raise ValueError(
            f"{redacted(location)} needs the package {_PACKAGES[scheme]}: "
            "pip install 'hourglass-ray[remote]'"
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
        raise ValueError(redacted(f"{location}: can't be read: {briefly(error)}")) from error


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
    """Return a scheme's file system, shared by all threads of a process.

    fsspec's own cache would keep one, with connections, per thread. Listings are not cached, since
    a pack may still add shards.
    """
    options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
    if scheme == "http":
        # Compressed files stay compressed: sizes and ranges count the stored bytes.
        client = {"trust_env": True, "auto_decompress": False, "read_bufsize": _BUFFER_BYTES}
        return HTTPFileSystem(client_kwargs=client, **options)
    if scheme == "gs":
        # fsspec's own choice of class asks over gRPC for each bucket's layout, which only zonal
        # buckets need.
        from gcsfs.core import GCSFileSystem

        # It has no option against its own six attempts.
        return GCSFileSystem(requests_timeout=_timeout(), **options)
    from s3fs import S3FileSystem

    patience = {"connect_timeout": STALL_SECONDS, "read_timeout": STALL_SECONDS}
    once = {"retries": {"total_max_attempts": 1}}
    filesystem = S3FileSystem(config_kwargs=patience | once, **options)
    # Without this botocore and s3fs would retry too, 25 times in total.
    filesystem.retries = 1
    return filesystem


def _timeout() -> aiohttp.ClientTimeout:
    """Limit the time without progress, but not that of a whole transfer."""
    return aiohttp.ClientTimeout(total=None, sock_connect=STALL_SECONDS, sock_read=STALL_SECONDS)
