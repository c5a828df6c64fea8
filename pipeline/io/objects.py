"""Objects below a prefix of a bucket: s3://, gs:// and az://, through obstore.

Credentials, endpoint and region are found as the clouds' own tools find them. s3: AWS's variables,
among them AWS_ENDPOINT_URL_S3 and AWS_ENDPOINT_URL, roles of machines and pods, and with botocore
profiles (AWS_PROFILE, ~/.aws). gs: Google's application default credentials. az: the variables
AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY or those of a service principal, managed
identities, and the login of `az` with AZURE_USE_AZURE_CLI=true. Errors show none of them.
"""

import functools
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

import obstore
from obstore.exceptions import AlreadyExistsError, NotSupportedError, PreconditionError
from obstore.store import AzureStore, GCSStore, S3Store

from pipeline.io.location import bucket_and_key
from pipeline.io.redaction import redacted

# Bytes per request of a large object. Only a request has a time limit, so slow networks pass too.
_PART_BYTES = 8 * 2**20
_REQUEST_S, _CONNECT_S = 60, 5
# Parts that travel at once, each of which is in memory.
_AT_ONCE = 2
# Bytes of a small object, which is read as a whole.
_MOST_BYTES = 2**26
_ONCE: Any = {"max_retries": 1, "retry_timeout": timedelta(seconds=10)}
# Minutes for which a profile's credentials are used before botocore is asked again.
_FRESH = timedelta(minutes=10)
_STATUS = re.compile(r"status code: (\d{3} [A-Za-z -]+)")
_CODE = re.compile(r"<Code>([\w.]{1,80})</Code>")


class StoreError(OSError):
    """The store can't be reached, or refuses a request. The message names object and reason."""


class AbsentError(StoreError, FileNotFoundError):
    """There is no such object."""


class ConflictError(StoreError):
    """A conditional write found another version than expected; nothing was written."""


@dataclass(frozen=True, kw_only=True)
class Version:
    """A version of an object, by which a conditional write knows it."""

    tag: str
    number: str = ""


@dataclass(frozen=True, kw_only=True)
class Found:
    """An object that exists: its name below the prefix, size in bytes, and time by its clock."""

    name: str
    size: int
    modified: datetime
    version: Version


class Objects:
    """The objects below `location`, such as s3://bucket/runs; names are relative to it.

    Threads may share it. Methods raise StoreError, after one retry.
    """

    def __init__(self, location: str, store: Any = None) -> None:
        self.location = location.rstrip("/")
        self._bucket, self._prefix = bucket_and_key(self.location)
        self._store = store or _store(self.location.partition(":")[0], self._bucket)

    def at(self, name: str) -> str:
        """Return the location of an object."""
        return f"{self.location}/{name}"

    def found(self, prefix: str = "") -> Iterator[Found]:
        """List the objects whose names begin with the folder `prefix`, in order of their names."""
        with _explained(self.at(prefix)):
            for chunk in obstore.list(self._store, self._key(prefix)):
                yield from map(self._found, chunk)

    def head(self, name: str) -> Found:
        """Describe an object."""
        with _explained(self.at(name)):
            return self._found(obstore.head(self._store, self._key(name)))

    def get(self, name: str) -> tuple[bytes, Version]:
        """Read a small object. Raises ValueError if it is large."""
        with _explained(self.at(name)):
            got = obstore.get(self._store, self._key(name))
            if (size := got.meta["size"]) <= _MOST_BYTES:
                return bytes(got.bytes()), _version(got.meta)
        raise ValueError(
            f"{redacted(self.at(name))} has {size:,} bytes, expected at most {_MOST_BYTES:,}"
        )

    def fetch(self, name: str, path: Path, size: int, sha256: str) -> None:
        """Download the first `size` bytes of an object to `path`.

        Raises StoreError if they have another SHA-256.
        """
        digest = hashlib.sha256()
        with path.open("wb") as file:
            for data in self._parts(name, size):
                digest.update(data)
                file.write(data)
        if digest.hexdigest() != sha256:
            raise StoreError(f"{redacted(self.at(name))}: other content than was written")

    def read_to(self, found: Found, path: Path) -> None:
        """Download an object to `path`. Raises StoreError if it changed since it was found."""
        with path.open("wb") as file:
            for data in self._parts(found.name, found.size):
                file.write(data)
        if self.head(found.name).version != found.version or path.stat().st_size != found.size:
            raise StoreError(f"{redacted(self.at(found.name))}: changed while it was read")

    def put(self, name: str, content: bytes | BinaryIO) -> Version:
        """Write or replace an object, a large one in parts."""
        with _explained(self.at(name)):
            return _version(
                obstore.put(
                    self._store,
                    self._key(name),
                    content,
                    chunk_size=_PART_BYTES,
                    max_concurrency=_AT_ONCE,
                )
            )

    def create(self, name: str, content: bytes) -> Version:
        """Write a small object that must not exist. Raises ConflictError if it does."""
        return self._put_if(name, content, "create")

    def replace(self, name: str, content: bytes, version: Version) -> Version:
        """Replace a small object. Raises ConflictError if it has another version by now."""
        return self._put_if(
            name,
            content,
            {"e_tag": version.tag} | ({"version": version.number} if version.number else {}),
        )

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects; absent ones are left out."""
        for name in names:
            try:
                with _explained(self.at(name)):
                    obstore.delete(self._store, self._key(name))
            except AbsentError:
                continue

    def check_conditions(self) -> None:
        """Raise ValueError if the store does not keep to the conditions of writes, or any write."""
        name, content = f".probe-{uuid4().hex}", b"Written to see whether this store is suitable."
        try:
            first = self.create(name, content)
            try:
                self._check_conflict(name, lambda: self.create(name, b"created twice"), "none")
                other = self.replace(name, b"replaced", first)
                self._check_conflict(name, lambda: self.replace(name, b"late", first), "match")
                self.replace(name, content, other)
            finally:
                self.delete([name])
        except NotImplementedError as error:
            raise ValueError(f"{redacted(self.location)}: {_UNSUITABLE} ({error})") from None
        except StoreError as error:
            why = str(error).replace(f"/{name}", "")
            raise ValueError(f"{why}; expected a bucket that can be written") from None

    def _check_conflict(self, name: str, write: Callable[[], Version], condition: str) -> None:
        try:
            write()
        except ConflictError:
            return
        raise NotImplementedError(f"If-{condition.title()} is ignored for {name}")

    def _put_if(self, name: str, content: bytes, mode: Any) -> Version:
        try:
            with _explained(self.at(name)):
                return _version(obstore.put(self._store, self._key(name), content, mode=mode))
        except ConflictError:
            # It was this write, if only its answer was lost.
            there, version = self.get(name)
            if there == content:
                return version
            raise

    def _parts(self, name: str, size: int) -> Iterator[memoryview]:
        for start in range(0, size, _PART_BYTES):
            length = min(_PART_BYTES, size - start)
            with _explained(self.at(name)):
                yield memoryview(
                    obstore.get_range(self._store, self._key(name), start=start, length=length)
                )

    def _key(self, name: str) -> str:
        return "/".join(part for part in (self._prefix, name) if part)

    def _found(self, meta: Any) -> Found:
        path = meta["path"]
        return Found(
            name=path[len(self._prefix) + 1 :] if self._prefix else path,
            size=meta["size"],
            modified=meta["last_modified"],
            version=_version(meta),
        )


_UNSUITABLE = (
    "the store ignores the conditions of writes (If-None-Match, If-Match), without which two "
    "processes could write to one run; expected one that keeps to them, such as S3, GCS, Azure or "
    "MinIO, or a folder"
)


def _version(meta: Any) -> Version:
    return Version(tag=meta["e_tag"] or "", number=meta["version"] or "")


@contextmanager
def _explained(location: str) -> Iterator[None]:
    """Turn obstore's errors, whose texts are long, into one sentence. They have no common base."""
    try:
        yield
    except (AlreadyExistsError, PreconditionError):
        raise ConflictError(f"{redacted(location)}: another process has written it") from None
    except (NotSupportedError, NotImplementedError) as error:
        raise NotImplementedError(str(error).partition("\n")[0]) from None
    except FileNotFoundError as error:
        if "NoSuchBucket" in str(error) or "ContainerNotFound" in str(error):
            raise StoreError(f"{redacted(location)}: no such bucket") from None
        raise AbsentError(f"{redacted(location)}: no such object") from None
    except Exception as error:
        raise StoreError(f"{redacted(location)}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    """Return what a server has answered, or why there was no answer."""
    text = str(error)
    if "169.254.169.254" in text or "metadata.google.internal" in text:
        return "no credentials found in the environment, and this machine has none of its own"
    if status := _STATUS.search(text):
        code = _CODE.search(text)
        return f"the store answers {status[1].strip()}" + (f" ({code[1]})" if code else "")
    line = redacted(text.partition("\n")[0])
    return f"the store does not answer: {line.rpartition(' - ')[2]:.200}"


@functools.cache
def _store(scheme: str, bucket: str) -> Any:
    """Return a bucket's client, shared by all threads."""
    client: Any = {"timeout": f"{_REQUEST_S}s", "connect_timeout": f"{_CONNECT_S}s"}
    if scheme == "gs":
        return GCSStore(bucket, client_options=client, retry_config=_ONCE)
    if scheme == "az":
        # Emulators have no certificate.
        if os.environ.get("AZURE_STORAGE_USE_EMULATOR") == "true":
            client["allow_http"] = True
        return AzureStore(bucket, client_options=client, retry_config=_ONCE)
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
    client["allow_http"] = endpoint.startswith("http://")
    named = {"endpoint": endpoint} if endpoint else {}
    return S3Store(bucket, client_options=client, retry_config=_ONCE, **named, **_profile())  # type: ignore[arg-type]


def _profile() -> dict[str, Any]:
    """Return credentials and region of AWS's files, if they are what its tools would use."""
    home = Path.home() / ".aws"
    has_files = "AWS_PROFILE" in os.environ or any(
        Path(os.environ.get(variable, home / name)).expanduser().exists()
        for variable, name in (
            ("AWS_SHARED_CREDENTIALS_FILE", "credentials"),
            ("AWS_CONFIG_FILE", "config"),
        )
    )
    if not has_files or ("AWS_ACCESS_KEY_ID" in os.environ and "AWS_PROFILE" not in os.environ):
        return {}
    try:
        from botocore.session import Session
    except ImportError:
        if "AWS_PROFILE" not in os.environ:
            return {}
        raise ValueError(
            "AWS_PROFILE needs the package botocore: pip install 'hourglass-ray[remote]'"
        ) from None
    session = Session()
    try:
        credentials = session.get_credentials()
        region = session.get_config_variable("region")
    except Exception as error:  # botocore's errors have no common base class
        raise ValueError(f"AWS_PROFILE: {error}") from None
    found: dict[str, Any] = {"region": region} if region else {}
    if credentials is None:
        return found

    def provide() -> Any:
        frozen = credentials.get_frozen_credentials()
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + _FRESH,
        }

    return found | {"credential_provider": provide}
