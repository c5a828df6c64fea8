"""A server that states what it does not have, sends what was not asked for, or never ends."""

import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler

import pytest
from answering_server import Answer, Server, answering

from pipeline.io import remote, transport
from pipeline.io.files import content_of, open_stream
from pipeline.io.remote import fetch, read_all, read_range, size_of


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(remote, "sleep", lambda seconds: None)
    transport._filesystem.cache_clear()
    with answering() as server:
        yield server
    transport._filesystem.cache_clear()


def test_an_address_with_an_impossible_port_is_named_without_its_password():
    with pytest.raises(ValueError, match=r"^http://\*\*\*@h/a\.tar: not a URL$"):
        size_of("http://u:pa/SECRET@h/a.tar")


def url(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_port}/index.json"


def ranged(stated: str, body: bytes, *, repeats: bool = False) -> Answer:
    """Answer with a Content-Range and a body, which is sent again and again if it `repeats`."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(206)
        handler.send_header("Content-Range", stated)
        handler.end_headers()
        with suppress(OSError):
            handler.wfile.write(body)
            while repeats:
                handler.wfile.write(body)

    return answer


@pytest.mark.parametrize("total", [2**62, 2**30 + 1, 10**17])
def test_a_file_of_more_bytes_than_memory_is_not_read(server, total):
    server.answer = ranged(f"bytes 0-0/{total}", b"x" * 2**16, repeats=True)
    assert size_of(url(server)) == total
    for read in (read_all, content_of):
        with pytest.raises(ValueError, match=f"{total:,} bytes, expected at most 1,073,741,824$"):
            read(url(server))


@pytest.mark.parametrize(
    "stated",
    ["bytes 0-0/" + "9" * 5000, "bytes 0-0/-1", "bytes 0-0/*", "bytes */7", "lines 0-0/7", ""],
)
def test_a_size_that_is_no_number_of_bytes_is_refused(server, stated):
    server.answer = ranged(stated, b"x")
    with pytest.raises(ValueError, match="the server does not say how many bytes it has"):
        size_of(url(server))


@pytest.mark.parametrize(
    "stated",
    ["bytes 0-3/100", "bytes 5-8/100", "bytes 4-8/100", f"bytes 4-{2**62}/{2**63}", "", "nonsense"],
)
def test_another_range_than_the_one_asked_for_is_refused(server, stated):
    server.answer = ranged(stated, b"abcd")
    with pytest.raises(ValueError, match=r"the server sends the range '.*', expected bytes 4-7$"):
        read_range(url(server), 4, 4)


def test_of_a_server_that_never_ends_only_what_was_asked_for_is_read(server, tmp_path):
    server.answer = ranged("bytes 4-7/100", b"abcd" * 2**14, repeats=True)
    assert read_range(url(server), 4, 4) == b"abcd"

    def endless(handler: BaseHTTPRequestHandler) -> None:
        stated = handler.headers["Range"].removeprefix("bytes=")
        ranged(f"bytes {stated}/8", b"abcd" * 2**14, repeats=True)(handler)

    server.answer = endless
    assert read_all(url(server)) == b"abcdabcd"
    assert open_stream(url(server)).read() == b"abcdabcd"
    fetch(url(server), tmp_path / "copy", size=8, sha256=None)
    assert (tmp_path / "copy").read_bytes() == b"abcdabcd"
    with pytest.raises(ValueError, match=r"8 bytes, expected 9$"):
        fetch(url(server), tmp_path / "other", size=9, sha256=None)


def test_a_server_that_sends_a_byte_now_and_then_is_given_up(server, monkeypatch):
    monkeypatch.setattr(remote, "_PATIENCE_SECONDS", 0.5)

    def slow(handler: BaseHTTPRequestHandler) -> None:
        stated = handler.headers["Range"].removeprefix("bytes=")
        ranged(f"bytes {stated}/100", b"a")(handler)
        with suppress(OSError):
            for _ in range(100):
                time.sleep(0.1)
                handler.wfile.write(b"a")

    server.answer = slow
    with pytest.raises(ConnectionError, match=r"it takes too long, with \d+ of 100 bytes"):
        read_range(url(server), 0, 100)


@pytest.mark.parametrize("size", [-1, 2**30 + 1, 2**62])
def test_a_sample_of_more_bytes_than_memory_is_not_asked_for(size):
    with pytest.raises(ValueError, match=r" bytes, expected at most 1,073,741,824$"):
        read_range("http://127.0.0.1:9/train.tar", 0, size)
