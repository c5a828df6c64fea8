"""The address of a cluster to join: where it is set, and whether a Ray cluster answers there."""

import os
import socket

from pipeline.io.redaction import redacted
from pipeline.io.threads import within

# Seconds to look up a host's name and connect, and to wait for a server's first bytes.
_CONNECT_S, _ANSWER_S = 8.0, 5.0
# What a client of HTTP/2, which gRPC uses, sends first: its preface, and an empty SETTINGS frame.
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
# Length of a frame's header, and the position and number of its type: a server's first is SETTINGS.
_HEADER, _TYPE, _SETTINGS = 9, 3, 4


def named_cluster(address: str) -> tuple[str, str]:
    """Return the cluster that the setting or the environment names, and which of them does.

    Both are empty if a cluster is to be started on this machine.
    """
    if address not in ("", "local"):
        return address, "ray.address"
    named = os.environ.get("RAY_ADDRESS", "") if address == "" else ""
    return (named, "RAY_ADDRESS") if named not in ("", "local") else ("", "")


def check_answer(address: str) -> None:
    """Raise ConnectionError, within 20 s, unless the cluster that is named answers, if one is.

    Raises ValueError if it is not an address.
    """
    named, origin = named_cluster(address)
    if not named:
        return
    shown = f"{origin}={redacted(named)!r}"
    is_client = named.startswith("ray://")
    if named == "auto":
        # The check of other addresses comes before the import of Ray, which takes seconds.
        from pipeline.cluster.ray_private import resolved

        try:
            host, _, port = resolved(named).rpartition(":")
        except ConnectionError as error:
            raise ConnectionError(
                f"{shown}: no Ray cluster runs on this machine; start one by 'ray start --head', "
                "or leave ray.address and RAY_ADDRESS empty"
            ) from error
    else:
        host, _, port = named.removeprefix("ray://").rpartition(":")
        if not host or not port.isdecimal() or "://" in host or "/" in named.removeprefix("ray://"):
            raise ValueError(f"{shown}: expected host:port, such as 192.0.2.10:6379, or auto")
    found = f"{shown}: {{}}; the port of 'ray start --head' is 6379 unless --port changes it"
    try:
        connection = connected(host.strip("[]"), int(port))
    except (OSError, OverflowError, UnicodeError) as error:
        raise ConnectionError(found.format(f"nothing answers there ({error})")) from error
    with connection:
        # With TLS the server waits for another first message.
        if not is_client and os.environ.get("RAY_USE_TLS", "0") == "0" and not _is_grpc(connection):
            raise ConnectionError(found.format("what answers there is not a Ray cluster"))


def connected(host: str, port: int) -> socket.socket:
    """Connect to a server within 8 s. Raises OSError, OverflowError or UnicodeError."""
    # The look-up of a name has no time limit of its own.
    return within(_CONNECT_S, lambda: _connected(host, port))


def _connected(host: str, port: int) -> socket.socket:
    return socket.create_connection((host, port), timeout=_CONNECT_S)


def _is_grpc(connection: socket.socket) -> bool:
    """Whether the peer speaks HTTP/2, as Ray's server and no web page does."""
    connection.settimeout(_ANSWER_S)
    try:
        connection.sendall(_HELLO)
        header = connection.recv(_HEADER, socket.MSG_WAITALL)
    except OSError:
        return False
    return len(header) == _HEADER and header[_TYPE] == _SETTINGS
