"""A run's folder on this machine's scratch disk, and its copy in a bucket.

Processes write to the folder as to any other. What has changed is uploaded: data first, and last
the manifest, which names every file that counts, the owner and the generation. It is only ever
replaced on condition that it is the version last seen, so that of two writers one fails. Other
objects are never replaced: a file that changes becomes another object, and the former is deleted.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from uuid import uuid4

from pipeline.io.console import say
from pipeline.io.inside import checked_name, path_inside
from pipeline.io.objects import AbsentError, ConflictError, Objects, StoreError, Version
from pipeline.io.own import open_own
from pipeline.io.parsing import parse_json
from pipeline.io.redaction import redacted
from pipeline.run.checkpoint import AVERAGE_NAME, OPTIMIZER_NAME, WEIGHTS_NAME
from pipeline.run.journal import JOURNAL_NAME
from pipeline.run.layout import LOCK, STATE, STOP_NAME, LostError
from pipeline.run.manifest import MANIFEST, Manifest, Stored, is_own, is_storable
from pipeline.run.metadata import METADATA_NAME
from pipeline.run.ownership import (
    HeldError,
    Owner,
    SupersededError,
    Writer,
    has_ended,
    newest_claim,
    note_claim,
    outlive_lease,
)

# Objects beside the manifest: the owner's sign of life, and a request to stop.
_ALIVE, _STOP, _PROBE = "live/owner", "live/stop", "live/probe"
# Seconds between looks for the end of an owner that may be dead.
_LOOK_S = 2.0
# Bytes read at once. A file up to this size can't change while it is sent.
_IN_MEMORY = 2**20
# Attempts to read files that another process replaces meanwhile.
_ATTEMPTS = 5

# Files of a checkpoint that a light copy lacks.
_HEAVY = (WEIGHTS_NAME, AVERAGE_NAME, OPTIMIZER_NAME)

# A file of the folder: as it is in the bucket, or its content with size and SHA-256.
_Local = Stored | tuple[bytes | BinaryIO, int, str]


class Mirror:
    """The folder `folder` on this machine and its copy at `location`.

    Methods raise StoreError if the store does not answer, SupersededError once another start owns
    the run, and those that upload LostError.
    """

    def __init__(self, folder: Path, location: str, objects: Objects | None = None) -> None:
        self.folder, self.location = folder, location
        self._objects = objects or Objects(location)
        self._seen: tuple[Manifest, Version] | None = None
        self._hashes: dict[Path, tuple[tuple[int, int, int], str]] = {}
        self._sent: dict[tuple[str, str], Stored] = {}

    def keep(self) -> ExitStack:
        """Mark the folder as one that this process keeps equal to the bucket; return what ends it.

        Programs that clean folders of temporary files leave it alone too (tmpfiles.d).
        """
        # Those that remove copies hold the lock.
        with self._locked(), ExitStack() as opened:
            folder = os.open(self.folder, os.O_RDONLY)
            opened.callback(os.close, folder)
            fcntl.flock(folder, fcntl.LOCK_SH)
            return opened.pop_all()

    def _is_kept(self) -> bool:
        """Whether a process keeps the folder. To be called with the folder's lock."""
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(folder)
        return False

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Hold the folder's lock; yield False if another process has it, or keeps the folder."""
        with open_own(self.folder / LOCK) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                is_alone = False
            else:
                is_alone = not self._is_kept()
            yield is_alone

    # Reading

    def pull(self, *, is_light: bool = False) -> bool:
        """Make the folder equal to the bucket, unless it is that or ahead of it already.

        Returns whether the bucket has the run. A folder is ahead while its last process had not
        uploaded everything, and no other wrote to the bucket since; unless its journal lacks lines
        that the bucket has. A light copy lacks weights and optimizers of checkpoints, but for those
        that are here already, and unless a process that trains keeps the folder.

        Raises ValueError if the bucket has no such run, but the folder has what was never uploaded.
        """
        if is_light:
            with self._locked():
                is_kept = self._is_kept()
            if is_kept:
                self.follow()
                return True
        for attempt in range(_ATTEMPTS):
            found = self._look()
            with self._locked():
                if not (self.folder / STATE).exists():
                    self._keep(None)
                base = self._base()
                try:
                    if found is None:
                        if base is not None:
                            self._check_nothing_waits()
                            self._apply(None, Manifest(began="", generation=0, owner=None))
                            self._keep(None)
                        return False
                    is_newer = _is_newer(found, base)
                    if is_lost := not is_newer and self._is_lost(base):
                        say(
                            f"{self.folder} has lost its journal, or lines of it: it becomes what "
                            f"{redacted(self.location)} has"
                        )
                    if is_newer or is_lost:
                        if is_light:
                            # Without a base the next start to train brings the rest.
                            self._keep(None)
                            files = self._light(found.files)
                            self._apply(None, replace(found, files=files))
                        else:
                            self._apply(None, found)
                            self._keep(found)
                    return True
                except AbsentError:
                    # Another process has replaced the file since.
                    if attempt == _ATTEMPTS - 1:
                        raise
        raise AssertionError("the last attempt returns or raises")

    def _check_nothing_waits(self) -> None:
        """Raise ValueError if the folder has files that its last manifest does not name."""
        if waiting := self.waiting():
            raise ValueError(
                f"{redacted(self.location)} has no run, but {self.folder} has one; never uploaded: "
                f"{described(waiting)}; check the endpoint of the store (AWS_ENDPOINT_URL), or "
                "remove this folder if the run was removed from the bucket on purpose"
            )

    def complete(self, checkpoint: str) -> None:
        """Bring the weights of a checkpoint into a light copy."""
        found = self._look()
        if found is None:
            return
        with self._locked():
            for path, stored in found.files.items():
                folder, _, name = path.partition("/")
                if folder == checkpoint and name != OPTIMIZER_NAME:
                    self._bring(path, stored)

    def exists(self) -> bool:
        """Whether the bucket has the run."""
        return self._look() is not None

    def is_behind(self) -> bool:
        """Whether another machine wrote to the run since this one did, or the copy is light."""
        found, base = self._look(), self._base()
        return base is None or (found is not None and _is_newer(found, base))

    def within(self) -> "list[Mirror]":
        """Return the mirrors of the runs below this folder in the bucket: a sweep's trials."""
        parts = [PurePosixPath(found.name).parts for found in self._objects.found()]
        names = [checked_name(name) for name, *rest in parts if rest == [MANIFEST]]
        names = [name for name in names if not is_own(name)]
        return [Mirror(self.folder / name, f"{self.location}/{name}") for name in names]

    def remove(self) -> None:
        """Remove the run from the bucket. To be called by the owner of all that it is part of."""
        self._objects.delete([MANIFEST])
        self._objects.delete([found.name for found in self._objects.found()])

    def follow(self) -> None:
        """Bring what others have changed in the bucket since the last time into the folder."""
        found = self._look()
        with self._locked():
            base = self._base()
            if found is not None and base is not None and base.serial < found.serial:
                with suppress(AbsentError):  # replaced meanwhile: the next look finds it
                    self._apply(base, found)
                    self._keep(found)

    def _look(self) -> Manifest | None:
        """Read the manifest; None if there is none."""
        try:
            self._seen = self._read()
        except AbsentError:
            self._seen = None
            return None
        return self._seen[0]

    def _read(self) -> tuple[Manifest, Version]:
        text, version = self._objects.get(MANIFEST)
        return Manifest.parsed(text, redacted(self._objects.at(MANIFEST))), version

    def note_claims(self) -> None:
        """Note the bucket's newest claim in the folder, where writers look for newer ones."""
        if self._seen is not None:
            note_claim(self.folder, self._seen[0].generation, self._seen[0].owner)

    def _apply(self, base: Manifest | None, found: Manifest) -> None:
        """Change the folder from `base` to `found`; without a base remove all other files."""
        former = self._files() if base is None else dict.fromkeys(base.files)
        gone = [path for path in former if path not in found.files]
        # Metadata first: a half-removed checkpoint must not count as one. And when it comes, last.
        for path in sorted(gone, key=lambda path: Path(path).name != METADATA_NAME):
            (self.folder / path).unlink(missing_ok=True)
            with suppress(OSError):
                (self.folder / path).parent.rmdir()
        for path, stored in sorted(found.files.items(), key=_metadata_last):
            if base is None or base.files.get(path) != stored or not (self.folder / path).exists():
                self._bring(path, stored)

    def _light(self, files: Mapping[str, Stored]) -> dict[str, Stored]:
        """Return the files of a light copy, and those weights that the folder has already."""
        return {
            path: stored
            for path, stored in files.items()
            if Path(path).name not in _HEAVY or self._has(path, stored)
        }

    def _has(self, path: str, stored: Stored) -> bool:
        target = path_inside(self.folder, path)
        return target.exists() and self._hash(target) == stored.sha256

    def _bring(self, path: str, stored: Stored) -> None:
        """Download a file, unless the folder has it."""
        if self._has(path, stored):
            return
        target = path_inside(self.folder, path)
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.with_name(f".fetched-{target.name}.part")
        self._objects.fetch(stored.key, aside, stored.size, stored.sha256)
        aside.replace(target)

    # Ownership

    def claim(self, writer: Writer) -> None:
        """Enter the writer's claim, which the folder has, in the bucket.

        Raises HeldError if another process was faster.
        """
        generation = writer.check()
        while True:
            seen = self._seen
            try:
                if seen is None:
                    began = uuid4().hex
                    new = Manifest(began=began, generation=generation, owner=writer.owner)
                    version = self._objects.create(MANIFEST, new.to_bytes())
                    self._seen = new, version
                    if self._base() is None:
                        self._keep(new)
                else:
                    new = replace(seen[0], generation=generation, owner=writer.owner)
                    self._replace(seen[1], new)
                break
            except ConflictError:
                there = self._look()
                if there is None:
                    continue
                if there.generation >= generation:
                    raise HeldError(
                        f"{self.folder.name} was taken by {there.owner} a moment before"
                    ) from None
        with suppress(StoreError):
            self._objects.put(_ALIVE, writer.owner.token.encode())
        # The former writer may have added something at the last moment. Now it can't any more.
        self.pull()

    def check_owner(self, owner: Owner) -> None:
        """Raise SupersededError if the bucket has another owner."""
        there = self._seen and self._seen[0].owner
        if there is None or there.token != owner.token:
            raise SupersededError(
                f"{self.folder.name} is owned by {there or 'nobody'}: nothing more is written here"
            )

    def await_end(self, what: str) -> None:
        """Return when the run's owner is dead or has released it. Raises HeldError."""
        while self._seen is not None and (owner := self._seen[0].owner) is not None:
            if self._is_dead(owner, self._seen[0].generation, what):
                return

    def _is_dead(self, owner: Owner, generation: int, what: str) -> bool:
        """Whether the owner of the newest claim is dead; False once there is another claim.

        Raises HeldError if it is alive.
        """
        first = self._sign_of_life()

        def age_s() -> float:
            return self._age_s(first)

        def sign() -> float | None:
            # Another claim is a sign of life too: it must be looked for afterwards.
            last, there = self._sign_of_life(), self._look()
            return last if there is not None and there.generation == generation else None

        return has_ended(owner, what, age_s) or outlive_lease(
            *(owner, what, first, sign, age_s, _LOOK_S)
        )

    def _sign_of_life(self) -> float:
        """Return the time of the owner's last sign of life. Its manifest is one too."""
        signs = [self._objects.head(MANIFEST).modified]
        with suppress(AbsentError):
            signs.append(self._objects.head(_ALIVE).modified)
        return max(signs).timestamp()

    def _age_s(self, sign: float) -> float:
        """Return the age of a sign of life by the store's clock, since clocks of hosts differ."""
        self._objects.put(_PROBE, b"")
        return self._objects.head(_PROBE).modified.timestamp() - sign

    def release(self) -> None:
        """Let others claim the run at once, if the folder's claim was released."""
        newest, there = newest_claim(self.folder), self._seen and self._seen[0].owner
        if newest is None or newest.owner is not None or there is None or self._seen is None:
            return
        if newest.last_owner is None or newest.last_owner.token != there.token:
            return  # another start has it
        manifest, version = self._seen
        with suppress(StoreError):
            self._replace(version, replace(manifest, generation=newest.generation, owner=None))
            self._objects.delete([_ALIVE, _STOP, _PROBE])

    def look_for_claims(self) -> None:
        """Note the bucket's newest claim in the folder, without a step of the upload."""
        newest, _ = self._read()
        note_claim(self.folder, newest.generation, newest.owner)

    def pass_stop_on(self, owner: Owner, has_asked: bool) -> bool:
        """Pass a request to stop on to workers on other machines; return whether it stands."""
        is_asked = (self.folder / STOP_NAME).exists()
        if is_asked:
            self._objects.put(_STOP, owner.token.encode())
        elif has_asked:
            self._objects.delete([_STOP])
        return is_asked

    def receive_stop(self, owner: Owner) -> None:
        """Note a request to stop that the owner's driver has made on another machine."""
        with suppress(AbsentError):
            if self._objects.get(_STOP)[0] == owner.token.encode():
                (self.folder / STOP_NAME).write_text(owner.token)

    def forget_stop(self, owner: Owner) -> None:
        """Withdraw a request to stop that was meant for an earlier start of the run."""
        request = self.folder / STOP_NAME
        with suppress(FileNotFoundError):
            if request.read_text() not in ("", owner.token):
                request.unlink()

    def sign(self, owner: Owner) -> None:
        """Give a sign of life."""
        self._objects.put(_ALIVE, owner.token.encode())

    # Writing

    def waiting(self) -> dict[str, int]:
        """Return the files that the bucket lacks, with their sizes in bytes."""
        with suppress(FileNotFoundError):
            base = self._base()
            files = {} if base is None else base.files
            return {
                path: (self.folder / path).stat().st_size
                for path, source in self._files().items()
                if path not in files or files[path].sha256 != self._hash(source)
            }
        return {}

    def push(self, writer: Writer) -> bool:
        """Upload changed files, as they stand now; return whether the bucket has all of them."""
        if self._seen is None and self._look() is None:
            raise SupersededError(f"{self.location}: its {MANIFEST} was removed")
        assert self._seen is not None
        manifest, version = self._seen
        self._check_kept()
        if manifest.generation != writer.check():
            raise SupersededError(f"{self.folder.name} has newer workers: nothing more is written")
        with ExitStack() as opened:
            local = self._snapshot(manifest, opened)
            # Without its state the folder was removed, and what was found may be a part of it.
            self._check_kept(local)
            if local is None:
                return False  # it was changed meanwhile
            files = self._upload(local, manifest.generation, writer.check)
        if files != manifest.files:
            writer.check()
            new = replace(manifest, serial=manifest.serial + 1, files=files)
            self._commit(writer, manifest, version, new)
        return True

    def forget(self) -> None:
        """Let the folder count as one of which the bucket has nothing, since it begins anew."""
        with self._locked():
            base = self._base()
            self._keep(None if base is None else replace(base, files={}))

    def publish(self) -> None:
        """Upload a finished folder, which no process changes.

        Raises ConflictError if the bucket has one there.
        """
        new = Manifest(began=uuid4().hex, generation=1, owner=None, serial=1)
        with ExitStack() as opened:
            local = self._snapshot(new, opened)
            assert local is not None, "its journal grew"
            new = replace(new, files=self._upload(local, new.generation, lambda: None))
        try:
            self._objects.create(MANIFEST, new.to_bytes())
        except ConflictError:
            with suppress(StoreError):  # they count nowhere
                self._objects.delete([stored.key for stored in new.files.values()])
            raise
        with self._locked():
            self._keep(new)

    def _upload(
        self, local: dict[str, _Local], generation: int, check: Callable[[], object]
    ) -> dict[str, Stored]:
        """Upload what the bucket lacks, after a `check` for each file; return all files."""
        batch = f"{generation:08d}-{uuid4().hex[:8]}"
        files: dict[str, Stored] = {}
        for path, found in sorted(local.items(), key=_metadata_last):
            if isinstance(found, Stored):
                files[path] = found
                continue
            content, size, sha256 = found
            if (path, sha256) not in self._sent:
                check()
                key = f"{batch}/{path}"
                self._objects.put(key, content)
                self._sent[path, sha256] = Stored(key=key, size=size, sha256=sha256)
            files[path] = self._sent[path, sha256]
        return files

    def _commit(self, writer: Writer, before: Manifest, version: Version, new: Manifest) -> None:
        with self._locked():
            try:
                self._replace(version, new)
            except ConflictError:
                self._look()
                self.note_claims()
                writer.check()
                raise SupersededError(
                    f"{self.folder.name} was written by another process: nothing more is written"
                ) from None
            self._keep(new)
        kept = {stored.key for stored in new.files.values()}
        used = {id_: stored for id_, stored in self._sent.items() if stored.key in kept}
        dropped = {stored.key for stored in (*before.files.values(), *self._sent.values())} - kept
        self._sent = used
        with suppress(StoreError):  # they count no more
            self._objects.delete(sorted(dropped))

    def _replace(self, version: Version, new: Manifest) -> None:
        """Replace the manifest, if it still has the version from which the new one was made."""
        self._seen = new, self._objects.replace(MANIFEST, new.to_bytes(), version)

    def _snapshot(self, manifest: Manifest, opened: ExitStack) -> dict[str, _Local] | None:
        """Find all files as they stand now; None if the journal has grown meanwhile.

        The journal tells which checkpoints must exist. An open file can be read after its removal.
        """
        journal, found = self.folder / JOURNAL_NAME, dict[str, _Local]()
        before = _size(journal)
        try:
            for path, source in self._files().items():
                there = manifest.files.get(path)
                if there is not None and there.sha256 == self._hash(source):
                    found[path] = there
                    continue
                found[path] = self._read_local(source, opened)
        except FileNotFoundError:
            return None
        return found if _size(journal) == before else None

    def _read_local(self, source: Path, opened: ExitStack) -> tuple[bytes | BinaryIO, int, str]:
        """Return a file's content as it stands now, its size and SHA-256."""
        if source.stat().st_size > _IN_MEMORY:
            # Large files do not change once they have their name, or they only grow.
            file = opened.enter_context(source.open("rb"))
            return file, *self._size_and_hash(source, file)
        content = source.read_bytes()
        return content, len(content), hashlib.sha256(content).hexdigest()

    def _check_kept(self, local: Mapping[str, _Local] | None = None) -> None:
        """Raise LostError if the folder, or its journal in `local`, is not the former."""
        base = self._base()
        if base is None:
            lost = f"{self.folder} was removed or emptied"
        elif local is not None and not self._continues(base, local.get(JOURNAL_NAME)):
            lost = f"{self.folder / JOURNAL_NAME} was removed or cut"
        else:
            return
        raise LostError(
            f"{lost} while this process used it: nothing more is uploaded, and "
            f"{redacted(self.location)} stays as it is; the same command continues from there"
        )

    def _is_lost(self, base: Manifest | None) -> bool:
        """Whether the folder's journal was removed, or cut, since it was uploaded."""
        path = self.folder / JOURNAL_NAME
        with ExitStack() as opened:
            found = self._read_local(path, opened) if path.exists() else None
            return not self._continues(base, found)

    def _continues(self, base: Manifest | None, found: _Local | None) -> bool:
        """Whether a journal begins with the lines of it that were uploaded."""
        sent = None if base is None else base.files.get(JOURNAL_NAME)
        if sent is None or isinstance(found, Stored):  # then the bucket has it
            return True
        if found is None:
            return False
        content, size, sha256 = found
        if sha256 == sent.sha256:
            return True
        if not isinstance(content, bytes):
            file, content = content, content.read(size)
            file.seek(0)
        if hashlib.sha256(content[: sent.size]).hexdigest() == sent.sha256:
            return True
        # A last line that was torn is cut off by the next entry.
        lines = self._objects.get(sent.key)[0].rpartition(b"\n")[:2]
        return content.startswith(b"".join(lines))

    def _files(self) -> dict[str, Path]:
        """Return the files that belong to the run, by their path within its folder."""
        found: dict[str, Path] = {}
        for path in sorted(self.folder.iterdir()):
            if is_own(path.name) or path.is_symlink():
                continue
            if path.is_file():
                found[path.name] = path
            elif not (path / STATE).exists() and _is_whole(path):
                for file in sorted(path.rglob("*")):
                    if file.is_file():
                        found[str(file.relative_to(self.folder))] = file
        # No file of a run has a name that a manifest can't hold.
        return {name: path for name, path in found.items() if is_storable(name)}

    def _hash(self, path: Path) -> str:
        """Return a file's SHA-256."""
        with path.open("rb") as file:
            return self._size_and_hash(path, file)[1]

    def _size_and_hash(self, path: Path, file: BinaryIO) -> tuple[int, str]:
        """Return an open file's size, and the SHA-256 up to it: the file may grow meanwhile.

        Computed once for each version of a file.
        """
        status = os.fstat(file.fileno())
        version = status.st_size, status.st_mtime_ns, status.st_ino
        known = self._hashes.get(path)
        if known is None or known[0] != version:
            known = version, _sha256(file, status.st_size)
            self._hashes[path] = known
        return status.st_size, known[1]

    # State in the folder

    def _base(self) -> Manifest | None:
        path = self.folder / STATE
        if not path.exists():
            return None
        content = parse_json(path.read_bytes(), str(path))
        if content["manifest"] is None:
            return None
        return Manifest.parsed(json.dumps(content["manifest"]).encode(), str(path))

    def _keep(self, manifest: Manifest | None) -> None:
        content = {
            "location": self.location,
            "manifest": None if manifest is None else json.loads(manifest.to_bytes()),
        }
        aside = self.folder / f"{STATE}.part"
        aside.write_text(json.dumps(content))
        aside.replace(self.folder / STATE)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the folder's lock, which the kernel releases when a process dies.

        The folder counts as used from now on.
        """
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError), ExitStack() as held:
                file = held.enter_context(open_own(self.folder / LOCK))
                fcntl.flock(file, fcntl.LOCK_EX)
                # The folder may have been removed meanwhile, with the lock.
                if os.path.samestat(os.fstat(file.fileno()), (self.folder / LOCK).stat()):
                    os.utime(self.folder)
                    lock = held.pop_all()
                    break
        with lock:
            yield


def described(waiting: Mapping[str, int]) -> str:
    """Describe the files that a bucket lacks, and their sizes in bytes."""
    names = sorted({path.partition("/")[0] for path in waiting})
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    files = f"{len(waiting)} file{'' if len(waiting) == 1 else 's'}"
    return f"{files}, {sum(waiting.values()) / 1e6:,.1f} MB in all ({shown or 'none'})"


def _metadata_last(item: tuple[str, Any]) -> tuple[bool, str]:
    return Path(item[0]).name == METADATA_NAME, item[0]


def _is_newer(found: Manifest, base: Manifest | None) -> bool:
    return base is None or base.began != found.began or base.serial < found.serial


def _sha256(file: BinaryIO, size: int) -> str:
    """Return the SHA-256 of the first `size` bytes of an open file, and go back to its start."""
    digest = hashlib.sha256()
    while size > 0 and (data := file.read(min(size, _IN_MEMORY))):
        digest.update(data)
        size -= len(data)
    file.seek(0)
    return digest.hexdigest()


def _is_whole(folder: Path) -> bool:
    """Whether a folder of a run is anything but an unfinished checkpoint."""
    return not folder.name.startswith("epoch_") or (folder / METADATA_NAME).exists()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else -1
