"""Where a run lies: in a folder, or in a bucket with a copy on this machine's scratch disk."""

import functools
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from pipeline.io.location import bucket_and_key, is_store
from pipeline.io.parsing import parse_json
from pipeline.io.redaction import redacted
from pipeline.run.layout import LOCK, STATE
from pipeline.run.ownership import CLAIMS, Owner, SupersededError, Writer, own
from pipeline.settings import RaySettings


def location_of(folder: Path) -> str:
    """Return where the copy of a folder lies; empty if it has none."""
    path = folder / STATE
    return parse_json(path.read_bytes(), str(path))["location"] if path.exists() else ""


def shown(path: Path) -> str:
    """Return where users find a file: in the bucket, or else on the disk."""
    # A run's folder, or what lies in it, such as a checkpoint.
    for folder in (path, path.parent):
        if location := location_of(folder):
            return f"{redacted(location)}/{path.relative_to(folder)}"
    return str(path)


def local_storage(storage: str, scratch: str) -> Path:
    """Return the folder on this machine that stands for `ray.storage`.

    Of a bucket it lies in `ray.scratch`, by default in the folder of temporary files. Raises
    ValueError if that is another user's.
    """
    if not is_store(storage):
        return Path(storage)
    bucket, key = bucket_and_key(storage)
    root = Path(scratch) if scratch else Path(tempfile.gettempdir(), f"hourglass-ray-{os.getuid()}")
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Others could have put a link where the default is expected.
    status = root.stat(follow_symlinks=scratch != "")
    if status.st_uid != os.geteuid() or (not scratch and status.st_mode & 0o022):
        raise ValueError(
            f"ray.scratch={str(root)!r} is of user {status.st_uid}, mode "
            f"{stat.filemode(status.st_mode)}: expected a folder of this user alone"
        )
    return Path(root, storage.partition(":")[0], bucket, key)


def fetch_run(ray: RaySettings) -> None:
    """Bring a run of a bucket to this machine, as far as it is not there."""
    if is_store(ray.storage):
        from pipeline.run.mirror import Mirror

        Mirror(folder_here(ray, ""), f"{ray.storage}/{ray.name}").pull()


def publish(folder: Path, location: str) -> None:
    """Upload a finished folder, or take what the bucket has there already."""
    from pipeline.io.objects import ConflictError
    from pipeline.run.mirror import Mirror

    mirror = Mirror(folder, location)
    if not mirror.exists():
        with suppress(ConflictError):  # another process has uploaded it since
            mirror.publish()
            return
    mirror.pull()


def is_taken(folder: Path, beside: Path) -> bool:
    """Whether a run has the folder, on this disk or in the bucket of the run `beside` it."""
    from pipeline.run.mirror import Mirror

    storage = location_of(beside).rpartition("/")[0]
    return folder.exists() or (
        storage != "" and Mirror(folder, f"{storage}/{folder.name}").exists()
    )


def move_aside(folder: Path, aside: Path, last: Collection[str], check: Callable[[], int]) -> None:
    """Move the content of a run's or a sweep's folder to `aside`, the files called `last` last.

    `check` is called before each change. In a bucket the copy is complete before the rest goes.
    """
    names = [path.name for path in folder.iterdir() if path.name not in (CLAIMS, STATE, LOCK)]
    location = location_of(folder)
    if location:
        from pipeline.run.mirror import Mirror

        local = shutil.ignore_patterns(STATE, LOCK, CLAIMS)
        shutil.copytree(folder, aside, ignore=local)
        try:
            Mirror(aside, f"{location.rpartition('/')[0]}/{aside.name}").publish()
        except OSError:
            shutil.rmtree(aside)
            raise
    else:
        aside.mkdir()
    for name in sorted(names, key=lambda name: (name in last, name)):
        check()
        path = folder / name
        if not location:
            path.rename(aside / name)
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


@contextmanager
def hold(
    folder: Path,
    what: str,
    *,
    take_over: bool = False,
    lost: Callable[[SupersededError], None] | None = None,
) -> Iterator[Writer]:
    """Own a folder, as `own` does, and with it its copy in a bucket, if there is one."""
    location = location_of(folder)
    if not location:
        with own(folder, what, take_over=take_over, lost=lost) as writer:
            yield writer
        return
    # The client of the store takes a moment to load.
    from pipeline.run.keeper import Keeper
    from pipeline.run.mirror import Mirror

    mirror = Mirror(folder, location)
    mirror.pull()
    if not take_over:
        mirror.await_end(what)
    mirror.note_claims()
    try:
        with own(folder, what, take_over=take_over, lost=lost) as writer:
            mirror.claim(writer)
            keeper = Keeper(mirror, writer, is_driver=True)
            writer.turns = keeper
            with keeper:
                yield writer
    finally:
        mirror.release()


def folders_here(run: str, storage: str, scratch: str = "") -> Iterator[Path]:
    """Yield the folders that `run` may mean, those in buckets after they were brought here."""
    if is_store(run):
        key = bucket_and_key(run)[1]
        # A run's folder, or that of one of its checkpoints.
        above, _, last = run.rstrip("/").rpartition("/")
        if (folder := fetch(run.rstrip("/"), scratch)) is not None:
            yield folder
        elif "/" in key and (found := fetch(above, scratch)) is not None:
            yield found / last
        return
    yield Path(run)
    if is_store(storage):
        if PurePosixPath(run).parts == (run,) and run != "..":
            found = fetch(f"{storage}/{run}", scratch)
            yield from () if found is None else (found,)
    else:
        yield Path(storage, run)


def fetch(location: str, scratch: str) -> Path | None:
    """Bring the run at a location in a bucket here; return its folder, or None if there is none."""
    from pipeline.run.mirror import Mirror

    if not bucket_and_key(location)[1]:
        return None
    mirror = Mirror(local_storage(location, scratch), location)
    return mirror.folder if mirror.exists() and mirror.pull() else None


def folder_here(ray: RaySettings, folder: str) -> Path:
    """Return a run's folder on this machine, which for its driver is `folder`."""
    if not is_store(ray.storage):
        return Path(folder)
    return local_storage(ray.storage, ray.scratch) / ray.name


@contextmanager
def working(ray: RaySettings, folder: Path, owner: Owner) -> Iterator[Writer]:
    """Write to a run as the first of the owner's workers, in its bucket too if it lies in one.

    Raises SupersededError if another start owns the run.
    """
    if not is_store(ray.storage):
        yield Writer.of_worker(folder, owner)
        return
    from pipeline.run.keeper import Keeper, join
    from pipeline.run.mirror import Mirror

    mirror = Mirror(folder, f"{ray.storage}/{ray.name}")
    writer = join(mirror, owner)
    with Keeper(mirror, writer, is_driver=False) as keeper:
        # A checkpoint that only this machine has is the one from which all ranks resume.
        keeper.upload()
        yield writer


@functools.cache
def check_store(storage: str) -> None:
    """Raise ValueError if a bucket can't be written, or does not keep to conditions of writes."""
    from pipeline.io.objects import Objects

    Objects(storage).check_conditions()
