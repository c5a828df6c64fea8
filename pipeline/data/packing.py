"""Packing: annotations and photographs become shards. What is to be done, and one shard of it."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pipeline.data.packing_plan import (
    _STATE_NAME,
    LeftOut,
    PackPlan,
    ShardJob,
    _check_left_out,
    _file_sums,
)
from pipeline.data.shards.crop import Image, cut_crop, read_image
from pipeline.data.shards.index import INDEX_NAME, Index, ShardEntry
from pipeline.data.shards.members import MEMBERS_NAME, Members, members_bytes, members_from
from pipeline.data.shards.sample import Sample
from pipeline.data.shards.writer import write_shard
from pipeline.data.synthetic.scene import render_scene
from pipeline.io.atomic import atomic_write
from pipeline.settings.packing import PackSettings


@dataclass(frozen=True, kw_only=True)
class ShardDone:
    """A written shard (None if nobody was left to write) and the people left out, by reason."""

    entry: ShardEntry | None
    left_out: LeftOut


def open_plan(plan: PackPlan) -> dict[str, ShardDone] | None:
    """Prepare the output folder; return the shards that an interrupted pack finished, None if all is done.

    Raises ValueError if the folder holds another dataset.
    """
    out = plan.settings.out
    marker = plan.state / "plan"
    if (out / INDEX_NAME).exists():
        if Index.read(out).plan == plan.fingerprint:
            return None
        raise ValueError(f"--out {out} holds another dataset; choose an empty folder")
    if marker.exists() and marker.read_text() != plan.fingerprint:
        raise ValueError(
            f"--out {out} holds an unfinished pack of other data or settings; "
            "choose an empty folder or remove it"
        )
    plan.state.mkdir(parents=True, exist_ok=True)
    with atomic_write(marker) as aside:
        aside.write_text(plan.fingerprint)
    finished = {}
    for job in plan.jobs:
        done = _finished(plan, job)
        if done is not None:
            finished[str(job.name)] = done
    return finished


def pack_shard(settings: PackSettings, job: ShardJob) -> ShardDone:
    """Write one shard and remember that it is done. Raises OSError like `write_shard`."""
    left_out: LeftOut = {}
    entry: ShardEntry | None = write_shard(
        settings.out, job.name, _samples(job, settings, left_out)
    )
    assert entry is not None
    if not entry.people:
        (settings.out / entry.name).unlink()
        entry = None
    done = ShardDone(entry=entry, left_out=left_out)
    state = settings.out / _STATE_NAME
    if entry is not None:
        members = Members.scan(settings.out / entry.name)
        with atomic_write(state / f"{job.name}.npz") as aside:
            aside.write_bytes(members_bytes({entry.name: members}))
    with atomic_write(state / f"{job.name}.json") as aside:
        aside.write_text(json.dumps(asdict(done)))
    return done


def close_plan(plan: PackPlan, done: list[ShardDone]) -> Index:
    """Write the index of finished shards. Raises ValueError if too many people were left out.

    In that case the shards stay, and packing again with a greater share goes on from them.
    """
    left_out = {reason: list(keys) for reason, keys in plan.left_out.items()}
    for shard in done:
        for reason, keys in shard.left_out.items():
            left_out.setdefault(reason, []).extend(keys)
    settings = plan.settings
    _check_left_out(left_out, plan.people, settings)
    entries = tuple(shard.entry for shard in done if shard.entry is not None)
    index = Index(
        source=settings.source,
        joint_set=plan.joint_set,
        annotations=_file_sums(settings),
        conventions=plan.conventions,
        crop=asdict(settings.crop),
        plan=plan.fingerprint,
        shards=entries,
        members=_write_members(plan, entries),
        skipped=plan.skipped,
        left_out=left_out,
    )
    index.write(settings.out)
    for path in plan.state.iterdir():
        path.unlink()
    plan.state.rmdir()
    return index


def _write_members(plan: PackPlan, entries: Sequence[ShardEntry]) -> str:
    """Join what the shards left of their members in members.npz; return its sha256."""
    members: dict[str, Members] = {}
    for entry in entries:
        path = plan.state / f"{entry.name}.npz"
        members |= members_from(path.read_bytes(), str(path))
    content = members_bytes(members)
    with atomic_write(plan.settings.out / MEMBERS_NAME) as aside:
        aside.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def _finished(plan: PackPlan, job: ShardJob) -> ShardDone | None:
    try:
        content = json.loads((plan.state / f"{job.name}.json").read_text())
    except FileNotFoundError:
        return None
    entry = ShardEntry(**content["entry"]) if content["entry"] else None
    path = plan.settings.out / str(job.name)
    if entry and (not path.exists() or path.stat().st_size != entry.bytes):
        return None
    if entry and not (plan.state / f"{job.name}.npz").exists():
        return None
    return ShardDone(entry=entry, left_out=content["left_out"])


def _samples(job: ShardJob, settings: PackSettings, left_out: LeftOut) -> Iterator[Sample]:
    """Yield the samples that can be cut; note the others in `left_out`."""
    load = _image_loader(settings)
    for person in job.people:
        try:
            image = load(person.image)
        except ValueError:
            left_out.setdefault("unreadable image", []).append(person.key)
            continue
        size = image.shape[1], image.shape[0]
        if person.image_size not in (None, size):
            left_out.setdefault("image of another size", []).append(person.key)
            continue
        try:
            crop = cut_crop(image, person, settings.crop)
        except ValueError:
            left_out.setdefault("frame outside the image", []).append(person.key)
            continue
        yield Sample(person=replace(person, image_size=size), crop=crop)


def _image_loader(settings: PackSettings) -> Callable[[str], Image]:
    """A function from an image's name to its pixels that remembers the last one."""
    last: tuple[str, Image] | None = None

    def load(name: str) -> Image:
        nonlocal last
        if last is None or last[0] != name:
            last = name, _load(name, settings)
        return last[1]

    return load


def _load(name: str, settings: PackSettings) -> Image:
    if settings.images is not None:
        return read_image(settings.images / name)
    number = int(Path(name).stem.rpartition("-")[2])
    return render_scene(settings.seed, number)[0]
