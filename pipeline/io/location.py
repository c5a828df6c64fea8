"""Locations of shards: local paths, file: URLs and remote URLs, and patterns of them."""

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from pipeline.io.redaction import redacted

_REMOTE = ("gs", "http", "https", "s3")
# Stores of objects that can be written.
STORES = ("s3", "gs", "az")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_WILDCARDS = "*?["
_RANGE = re.compile(r"(-?\d{1,1000})\.\.(-?\d{1,1000})", re.ASCII)
_MOST_NAMES = 10**6
_TOO_MANY = f"braces of more than {_MOST_NAMES:,} names"


def scheme_of(location: str) -> str:
    """Return gs, http, https or s3, or file for a local location.

    Raises ValueError for other schemes, such as `pipe:`, which WebDataset would pass to a shell.
    """
    found = _SCHEME.match(location)
    scheme = found[1] if found else "file"
    if scheme == "file" or (scheme in _REMOTE and location.startswith(f"{scheme}://")):
        return scheme
    known = ", ".join(f"{name}://" for name in ("file", *_REMOTE))
    raise ValueError(f"{redacted(location)}: expected a local path or one of {known}")


def is_remote(location: str) -> bool:
    """Whether a location is remote. Raises ValueError for an unknown scheme."""
    return scheme_of(location) in _REMOTE


def is_store(location: str) -> bool:
    """Whether a location is in a bucket that can be written: s3://, gs:// or az://."""
    return location.partition("://")[0] in STORES and "://" in location


def bucket_and_key(location: str) -> tuple[str, str]:
    """Split s3://bucket/key. Raises ValueError for another form, or a key with . or .. in it."""
    scheme, _, rest = location.partition("://")
    bucket, _, key = rest.rstrip("/").partition("/")
    parts = key.split("/") if key else []
    is_plain = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", bucket) is not None
    if scheme not in STORES or not is_plain or not {"", ".", ".."}.isdisjoint(parts):
        raise ValueError(
            f"{redacted(location)}: expected s3://BUCKET/FOLDER, gs://BUCKET/FOLDER or "
            "az://CONTAINER/FOLDER, without . and .. in it, and credentials by environment"
        )
    return bucket, key


def local_path(location: str) -> str:
    """Return the path of a local location, decoded if it is a file: URL.

    Raises ValueError for a remote location, and if the URL names another host or no absolute path.
    """
    if is_remote(location):
        raise ValueError(f"{redacted(location)}: expected a path on this machine")
    if not location.startswith("file:"):
        return location
    rest = location.removeprefix("file:")
    # A URL parser would take a glob's question mark for a query.
    host, slash, path = rest[2:].partition("/") if rest.startswith("//") else ("", "", rest)
    if host not in ("", "localhost") or not (slash + path).startswith("/"):
        raise ValueError(f"{location}: expected an absolute path on this machine, file:///folder/…")
    return unquote(slash + path)


def name_of(location: str) -> str:
    """Return a location's last component, `train-000004.tar`, without an http URL's query."""
    return PurePosixPath(_path(location)).name


def sibling(location: str, name: str) -> str:
    """Return the location of `name` in the same folder. An http URL keeps its query."""
    if location.startswith(("http://", "https://")):
        folder = _path(location).rpartition("/")[0]
        return urlsplit(location)._replace(path=f"{folder}/{name}").geturl()
    folder, slash, _ = location.rpartition("/")
    return f"{folder}{slash}{name}"


def split_pattern(pattern: str) -> list[str]:
    """Split at commas outside braces."""
    parts, depth = [""], 0
    for letter in pattern:
        depth += (letter == "{") - (letter == "}")
        if letter == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def spell_out(pattern: str) -> Iterator[str]:
    """Yield the expansions of braces such as `{000..009}` or `{train,val}`.

    Raises ValueError, also for more than a million.
    """
    # Settings need this module, and a training step little more than torch.
    from braceexpand import braceexpand

    lengths = [abs(int(last) - int(first)) for first, last in _RANGE.findall(pattern)]
    try:
        # It lists each range before the first name.
        if max(lengths, default=0) >= _MOST_NAMES:
            raise ValueError(_TOO_MANY)
        for count, name in enumerate(braceexpand(pattern, escape=False)):
            if count >= _MOST_NAMES:
                raise ValueError(_TOO_MANY)
            yield name
    except ValueError as error:
        raise ValueError(redacted(f"{pattern}: {error}")) from None


def has_wildcard(pattern: str) -> bool:
    """Whether a pattern of files or objects has wildcards."""
    return any(letter in pattern for letter in _WILDCARDS)


def _path(location: str) -> str:
    """Return the path of an http URL. On disks and in buckets, `?` and `#` belong to the name."""
    return urlsplit(location).path if location.startswith(("http://", "https://")) else location
