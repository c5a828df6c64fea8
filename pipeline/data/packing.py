"""Packing: write the shards of a plan, resume an interrupted pack, and close it with the index.

A finished shard leaves its record in the plan's state folder until all are done.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path

from pipeline.data.formats.registry import SOURCES
from pipeline.data.measurable import counts_of
from pipeline.data.packing_plan import (
    STATE_NAME,
    PackPlan,
    ShardJob,
    check_left_out,
)
from pipeline.data.photographs.frames import Pictures
from pipeline.data.photographs.match import LeftOut
from pipeline.data.photographs.pixels import rgb
from pipeline.data.shards.crop import Image, cut_crop
from pipeline.data.shards.index import INDEX_NAME, Index, ShardEntry
from pipeline.data.shards.members import MEMBERS_NAME, Members, members_bytes, members_from
from pipeline.data.shards.reader import ShardReader
from pipeline.data.shards.sample import Sample
from pipeline.data.shards.writer import write_shard
from pipeline.data.synthetic.scene import render_scene
from pipeline.io.atomic import atomic_write
from pipeline.io.output import Output
from pipeline.pose.joint_file import joint_file_text
from pipeline.pose.person import Person
from pipeline.settings.packing import PackSettings

JOINT_SET_NAME = "joint-set.toml"
# People of whom one is drawn with the names of the joints.
_LOOKED_AT = 64


@dataclass(frozen=True, kw_only=True)
class ShardDone:
    """A written shard (None if it would be empty) and the people left out, by reason.

    `converted` counts images whose values were scaled to 8 bits, by what they had.
    """

    entry: ShardEntry | None
    left_out: LeftOut
    converted: dict[str, int] = field(default_factory=dict)


def open_plan(
    plan: PackPlan, size: Callable[[str], int | None] | None = None
) -> dict[str, ShardDone] | None:
    """Prepare the output folder and return the shards that an interrupted pack finished.

    `size` returns that of a file that lies elsewhere, in bytes, or None if it is absent. Returns
    None if the dataset is complete. Raises ValueError if the folder holds another dataset.
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
    size = size or Output(str(out), out).size
    return {str(job.name): done for job in plan.jobs if (done := _finished(plan, job, size))}


def pack_shard(settings: PackSettings, job: ShardJob) -> ShardDone:
    """Write one shard and record that it is done. Raises OSError like `write_shard`."""
    left_out: LeftOut = {}
    converted: Counter[str] = Counter()
    entry = write_shard(settings.out, job.name, _samples(job, settings, left_out, converted))
    shard, state = settings.out / entry.name, settings.out / STATE_NAME
    if entry.people:
        with atomic_write(state / f"{job.name}.npz") as aside:
            aside.write_bytes(members_bytes({entry.name: Members.scan(shard)}))
    else:
        shard.unlink()
    done = ShardDone(
        entry=entry if entry.people else None, left_out=left_out, converted=dict(converted)
    )
    with atomic_write(state / f"{job.name}.json") as aside:
        aside.write_text(json.dumps(asdict(done)))
    return done


def close_plan(plan: PackPlan, done: list[ShardDone]) -> Index:
    """Write the index of finished shards. Raises ValueError if too many people were left out.

    In that case the shards stay, and packing again with a greater share resumes from them.
    """
    left_out = {reason: list(keys) for reason, keys in plan.left_out.items()}
    converted: Counter[str] = Counter()
    for shard in done:
        converted.update(shard.converted)
        for reason, keys in shard.left_out.items():
            left_out.setdefault(reason, []).extend(keys)
    settings = plan.settings
    check_left_out(left_out, plan.people, settings)
    absent = {key for keys in left_out.values() for key in keys}
    entries = tuple(_measured(plan, shard.entry, absent) for shard in done if shard.entry)
    index = Index(
        source=settings.source,
        joint_set=plan.joint_set,
        annotations=plan.sums,
        conventions=plan.conventions,
        crop=settings.crop,
        plan=plan.fingerprint,
        shards=entries,
        members=_write_members(plan, entries),
        skipped=plan.skipped,
        left_out=left_out,
        converted=dict(converted),
    )
    if settings.source in SOURCES and SOURCES[settings.source].describes_joints:
        _write_joint_set(index, settings)
    index.write(settings.out)
    for path in plan.state.iterdir():
        path.unlink()
    plan.state.rmdir()
    return index


def _write_joint_set(index: Index, settings: PackSettings) -> None:
    """Write the joint set that the source describes, and draw it on one of the people."""
    # Matplotlib takes a second to load, and most commands draw nothing.
    from pipeline.data.pictures import draw_joint_set, png

    with atomic_write(settings.out / JOINT_SET_NAME) as aside:
        aside.write_text(joint_file_text(index.joint_set))
    if index.shards:
        reader = ShardReader([str(settings.out / index.shards[0].name)])
        seen = [reader[position] for position in range(min(len(reader), _LOOKED_AT))]
        with atomic_write(settings.out / "joint-set.png") as aside:
            aside.write_bytes(png(draw_joint_set(seen, index.joint_set)))


def _measured(plan: PackPlan, entry: ShardEntry, absent: set[str]) -> ShardEntry:
    """Add the counts of measures to a shard's entry."""
    [job] = [job for job in plan.jobs if str(job.name) == entry.name]
    people = (person for person in job.people if person.key not in absent)
    return replace(entry, measured=counts_of(people, plan.joint_set))


def _finished(plan: PackPlan, job: ShardJob, size: Callable[[str], int | None]) -> ShardDone | None:
    """Read the record of a finished shard, None if the shard has to be packed again."""
    try:
        content = json.loads((plan.state / f"{job.name}.json").read_text())
    except FileNotFoundError:
        return None
    entry = ShardEntry(**content["entry"]) if content["entry"] else None
    if entry:
        is_whole = size(entry.name) == entry.bytes
        if not is_whole or not (plan.state / f"{job.name}.npz").exists():
            return None
    return ShardDone(
        entry=entry, left_out=content["left_out"], converted=content.get("converted", {})
    )


def _write_members(plan: PackPlan, entries: Sequence[ShardEntry]) -> str:
    """Join the shards' members in members.npz; return its sha256."""
    members: dict[str, Members] = {}
    for entry in entries:
        path = plan.state / f"{entry.name}.npz"
        members |= members_from(path.read_bytes(), str(path))
    content = members_bytes(members)
    with atomic_write(plan.settings.out / MEMBERS_NAME) as aside:
        aside.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def _samples(
    job: ShardJob, settings: PackSettings, left_out: LeftOut, converted: Counter[str]
) -> Iterator[Sample]:
    """Yield the samples that can be cut; add the keys of the others to `left_out`."""
    with closing(Pictures(settings.images or Path(), settings.max_pixels)) as pictures:
        # People of an image follow one another, so one image is enough to keep.
        load = lru_cache(maxsize=1)(partial(_load, settings, pictures, converted))
        for person in job.people:
            sample = _sample(person, load, settings)
            if isinstance(sample, Sample):
                yield sample
            else:
                left_out.setdefault(sample, []).append(person.key)


def _sample(person: Person, load: Callable[[str], Image], settings: PackSettings) -> Sample | str:
    """Cut a person's sample, or return the reason to leave them out."""
    try:
        image = load(person.image)
    except ValueError:
        return "unreadable image"
    size = image.shape[1], image.shape[0]
    try:
        crop = cut_crop(image, person, settings.crop)
    except ValueError:
        return "frame outside the image"
    return Sample(person=replace(person, image_size=size), crop=crop)


def _load(settings: PackSettings, pictures: Pictures, converted: Counter[str], name: str) -> Image:
    """Read or render an image, upright; count it in `converted` if its values were scaled."""
    if settings.images is not None:
        photograph = pictures.read(name)
        if photograph.conversion:
            converted[photograph.conversion] += 1
        return rgb(photograph)
    number = int(Path(name).stem.rpartition("-")[2])
    return render_scene(settings.seed, number)[0]
