"""Where a run lies: in a folder, or in a bucket with a copy on this machine's scratch disk."""

import functools
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from pipeline.io.location import bucket_and_key, is_store
from pipeline.io.redaction import redacted
from pipeline.io.threads import beside
from pipeline.run.layout import LOCK, SCRATCHES, STATE, SWEEP_NAME, location_of
from pipeline.run.ownership import CLAIMS, Owner, SupersededError, Writer, own
from pipeline.settings import RaySettings


def shown(path: Path) -> str:
    """Return where users find a file: in the bucket, or else on the disk."""
    # A run's folder, or what lies in it, such as a checkpoint.
    for folder in (path, path.parent):
        if location := location_of(folder):
            return "/".join([redacted(location), *path.relative_to(folder).parts])
    return str(path)


def local_storage(storage: str, scratch: str) -> Path:
    """Return the folder on this machine that stands for `ray.storage`: for a bucket in ray.scratch.

    Raises ValueError as `scratch_folder`.
    """
    if not is_store(storage):
        return Path(storage)
    return Path(scratch_folder(scratch), storage.partition(":")[0], *bucket_and_key(storage))


def scratch_folder(scratch: str) -> Path:
    """Return the folder `ray.scratch`, by default one in the folder of temporary files.

    Raises ValueError if that is another user's.
    """
    root = Path(scratch) if scratch else default_scratch(Path(tempfile.gettempdir()))
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Others could have put a link where the default is expected.
    status = root.stat(follow_symlinks=scratch != "")
    if status.st_uid != os.geteuid() or (not scratch and status.st_mode & 0o022):
        raise ValueError(
            f"ray.scratch={str(root)!r} is of user {status.st_uid}, mode "
            f"{stat.filemode(status.st_mode)}: expected a folder of this user alone"
        )
    SCRATCHES.add(root.resolve())
    return root


def default_scratch(temporary: Path) -> Path:
    """Return the default of `ray.scratch` in a folder of temporary files."""
    return temporary / f"hourglass-ray-{os.getuid()}"


def fetch_run(ray: RaySettings) -> None:
    """Bring a run of a bucket to this machine, as far as it is not there; of a sweep its trials."""
    if is_store(ray.storage):
        from pipeline.run.mirror import Mirror

        mirror = Mirror(folder_here(ray, ""), f"{ray.storage}/{ray.name}")
        mirror.pull()
        _fetch_trials(mirror.folder, mirror.location)
        _tidy_beside(ray.scratch)


def fetch_patiently(ray: RaySettings) -> None:
    """Bring a run here as `fetch_run`, for a worker, which waits for a store that is away.

    Raises StoreError if it stays away.
    """
    if is_store(ray.storage):
        from pipeline.run.mirror_sync import PATIENCE_S, until

        until(lambda: fetch_run(ray), PATIENCE_S)


@functools.cache
def _tidy_beside(scratch: str) -> None:
    """Remove copies that are no longer needed from the scratch folder, on a thread, once."""
    from pipeline.run.scratch import tidy

    beside(lambda: tidy(scratch_folder(scratch)), "tidy")


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


def is_taken(folder: Path, sibling: Path) -> bool:
    """Whether a run has the folder, on this disk or in the bucket of the run `sibling`."""
    from pipeline.run.mirror import Mirror

    storage = location_of(sibling).rpartition("/")[0]
    return folder.exists() or (
        storage != "" and Mirror(folder, f"{storage}/{folder.name}").exists()
    )


def move_aside(folder: Path, aside: Path, last: Collection[str], writer: Writer) -> None:
    """Move the content of a run's or a sweep's folder to `aside`, the files called `last` last.

    The `writer` is checked before each change. In a bucket the copy is complete before the rest
    goes.
    """
    names = [path.name for path in folder.iterdir() if path.name not in (CLAIMS, STATE, LOCK)]
    paths = [folder / name for name in sorted(names, key=lambda name: (name in last, name))]
    if location := location_of(folder):
        _copy_aside(folder, location, aside)
        assert writer.turns is not None, "the owner of a run in a bucket takes turns"
        writer.turns.start_over(lambda: _remove(paths, writer))
        return
    aside.mkdir()
    for path in paths:
        writer.check()
        path.rename(aside / path.name)


def _remove(paths: Iterable[Path], writer: Writer) -> None:
    for path in paths:
        writer.check()
        if path.is_dir():
            _remove_run(path)
        else:
            path.unlink()


def _copy_aside(folder: Path, location: str, aside: Path) -> None:
    """Copy a run or a sweep with its trials, here and in the bucket."""
    from pipeline.run.mirror import Mirror

    mirror = Mirror(folder, location)
    for trial in mirror.within():
        trial.pull()
    copy = Mirror(aside, f"{location.rpartition('/')[0]}/{aside.name}")
    try:
        shutil.copytree(folder, aside, ignore=shutil.ignore_patterns(STATE, LOCK, CLAIMS))
        copy.remove()  # what a start that was killed here has left
        # The trials first: they are no part of the sweep's own files.
        for trial in mirror.within():
            name = trial.folder.name
            Mirror(aside / name, f"{copy.location}/{name}").publish()
        copy.publish()
    except OSError:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def _remove_run(folder: Path) -> None:
    """Remove a folder, and its copy in a bucket if it has one of its own."""
    if location := location_of(folder):
        from pipeline.run.mirror import Mirror

        Mirror(folder, location).remove()
    shutil.rmtree(folder)


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
        if (folder / STATE).exists():
            raise ValueError(
                f"{folder} is a copy of a run in a bucket, and not in this process's ray.scratch: "
                "name the run by its place in the bucket"
            )
        with own(folder, what, take_over=take_over, lost=lost) as writer:
            yield writer
        return
    # The client of the store takes a moment to load.
    from pipeline.run.mirror import Mirror
    from pipeline.run.mirror_sync import MirrorSync

    mirror = Mirror(folder, location)
    with mirror.keep():
        mirror.pull()
        if not take_over:
            mirror.await_end(what)
        mirror.note_claims()
        try:
            with own(folder, what, take_over=take_over, lost=lost) as writer:
                mirror.claim(writer)
                sync = MirrorSync(mirror, writer, is_driver=True)
                writer.turns = sync
                with sync:
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
    if not is_store(storage):
        yield Path(storage, run)
    elif (parts := PurePosixPath(run).parts) and {"/", ".."}.isdisjoint(parts):
        yield from folders_here("/".join([storage, *parts]), "", scratch)


def fetch(location: str, scratch: str, *, is_light: bool = True) -> Path | None:
    """Bring the run or sweep at a location in a bucket here, if light without weights.

    Returns its folder, or None if there is none.
    """
    from pipeline.run.mirror import Mirror

    if not bucket_and_key(location)[1]:
        return None
    mirror = Mirror(local_storage(location, scratch), location)
    if not mirror.exists() or not mirror.pull(is_light=is_light):
        return None
    _fetch_trials(mirror.folder, location)
    return mirror.folder


def _fetch_trials(folder: Path, location: str) -> None:
    """Bring the trials of a sweep here without weights; a run has none."""
    if (folder / SWEEP_NAME).exists():
        from pipeline.run.mirror import Mirror

        for trial in Mirror(folder, location).within():
            trial.pull(is_light=True)


def with_weights(checkpoint: Path) -> Path:
    """Bring the weights of a checkpoint here, if it lies in a bucket; return it."""
    of_run, of_itself = location_of(checkpoint.parent), location_of(checkpoint)
    if of_run or of_itself:
        from pipeline.run.mirror import Mirror

        if of_run:
            Mirror(checkpoint.parent, of_run).complete(checkpoint.name)
        else:
            Mirror(checkpoint, of_itself).pull()
    return checkpoint


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
    from pipeline.run.mirror import Mirror
    from pipeline.run.mirror_sync import MirrorSync, join

    mirror = Mirror(folder, f"{ray.storage}/{ray.name}")
    writer = join(mirror, owner)
    # A worker of that start may have noted it on this machine.
    mirror.forget_stop(owner)
    with MirrorSync(mirror, writer, is_driver=False) as sync:
        _tidy_beside(ray.scratch)
        # A checkpoint that only this machine has is the one from which all ranks resume.
        sync.upload()
        yield writer


@functools.cache
def check_store(storage: str) -> None:
    """Raise ValueError if a bucket can't be written, or does not keep to conditions of writes."""
    from pipeline.io.objects import Objects

    Objects(storage).check_conditions()
