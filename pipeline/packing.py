"""Packing: annotations and photographs become shards. What is to be done, and one shard of it."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PillowImage
from PIL import UnidentifiedImageError

from pipeline.data.annotations import Annotations
from pipeline.data.crop import Image, cut_crop, read_image
from pipeline.data.sources import SOURCES, read_annotations
from pipeline.data.synthetic import render_scene, scene_people
from pipeline.io.atomic import written_whole
from pipeline.pose.joint_sets import SYNTHETIC, JointSet
from pipeline.pose.person import Person, Split, Visibility
from pipeline.settings.packing import SYNTHETIC_NAME, PackSettings
from pipeline.shards.index import INDEX_NAME, Index, ShardEntry
from pipeline.shards.members import MEMBERS_NAME, Members, members_bytes, members_from
from pipeline.shards.sample import Sample
from pipeline.shards.write import ShardName, write_shard

_STATE_NAME = ".packing"
# Images looked into before packing, to see whether the annotations are theirs.
_PROBED_IMAGES = 64

LeftOut = dict[str, list[str]]


@dataclass(frozen=True, kw_only=True)
class ShardJob:
    """One shard to write: its people in order, those of an image together."""

    name: ShardName
    people: tuple[Person, ...]


@dataclass(frozen=True, kw_only=True)
class ShardDone:
    """A written shard (None if nobody was left to write) and the people left out, by reason."""

    entry: ShardEntry | None
    left_out: LeftOut


@dataclass(frozen=True, kw_only=True)
class PackPlan:
    """All shards of a dataset. `left_out` are people whose image is missing, `people` all others too."""

    settings: PackSettings
    joint_set: JointSet
    conventions: dict[str, Any]
    jobs: tuple[ShardJob, ...]
    people: int
    skipped: dict[str, int]
    left_out: LeftOut
    fingerprint: str

    @property
    def state(self) -> Path:
        """Folder that remembers finished shards until the whole is done."""
        return self.settings.out / _STATE_NAME


def plan_packing(settings: PackSettings) -> PackPlan:
    """Read annotations, split by image and lay out shards. Raises ValueError naming what doesn't fit.

    Nothing is written. Missing images are found here; past the allowed share
    they are an error.
    """
    annotations = _read(settings)
    people, missing = _with_images(annotations.people, settings)
    left_out: LeftOut = {"missing image": missing} if missing else {}
    _check_left_out(left_out, len(annotations.people), settings)
    if settings.images is not None:
        check_fit(people, settings.images)
    jobs = tuple(_jobs(_split(people, settings), settings))
    _check_keys(jobs)
    return PackPlan(
        settings=settings,
        joint_set=annotations.joint_set,
        conventions=_conventions(settings, annotations),
        jobs=jobs,
        people=len(annotations.people),
        skipped=dict(annotations.skipped),
        left_out=left_out,
        fingerprint=_fingerprint(settings),
    )


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
    with written_whole(marker) as aside:
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
        with written_whole(state / f"{job.name}.npz") as aside:
            aside.write_bytes(members_bytes({entry.name: members}))
    with written_whole(state / f"{job.name}.json") as aside:
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
    with written_whole(plan.settings.out / MEMBERS_NAME) as aside:
        aside.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def check_fit(people: list[Person], images: Path) -> None:
    """Raise ValueError if annotations and images plainly don't belong together.

    Looks into some images: most people must have most of their joints inside
    the image, which must have the size that the annotations state.
    """
    by_image = {person.image: person for person in people}
    names = sorted(by_image)
    probed = [
        names[i] for i in np.unique(np.linspace(0, len(names) - 1, _PROBED_IMAGES).astype(int))
    ]
    unfit = []
    for name in probed:
        problem = _misfit(by_image[name], images / name)
        if problem:
            unfit.append(problem)
    if 2 * len(unfit) > len(probed):
        raise ValueError(
            f"the annotations don't fit the images in {images}: {len(unfit)} of {len(probed)} "
            f"looked at; {unfit[0]}"
        )


def _misfit(person: Person, path: Path) -> str | None:
    try:
        with PillowImage.open(path) as image:
            size = image.size
    except (UnidentifiedImageError, OSError):
        return None  # an unreadable image is counted when it is packed
    if person.image_size is not None and person.image_size != size:
        return f"{path} has {size} pixels, expected {person.image_size}"
    annotated = np.array(person.visibility) != Visibility.MISSING
    joints = np.array(person.joints)[annotated]
    inside = ((joints > -1) & (joints < size)).all(axis=1)
    if len(joints) and inside.mean() < 0.5:
        return f"{path} of {size} pixels, joints up to {joints.max(axis=0).round().tolist()}"
    return None


def _read(settings: PackSettings) -> Annotations:
    if settings.files is None:
        return Annotations(joint_set=SYNTHETIC, people=scene_people(settings.seed, settings.scenes))
    return read_annotations(settings.source, settings.files)


def _with_images(people: list[Person], settings: PackSettings) -> tuple[list[Person], list[str]]:
    """Separate people whose image is there from the keys of those whose is not."""
    folder = settings.images
    if folder is None:
        return people, []
    if not folder.is_dir():
        raise ValueError(f"--images {folder}: no such folder")
    there = {name: (folder / name).is_file() for name in {person.image for person in people}}
    if not any(there.values()):
        raise ValueError(
            f"--images {folder} holds none of the {len(there):,} images of "
            f"{settings.annotations}, such as {people[0].image}"
        )
    found = [person for person in people if there[person.image]]
    return found, [person.key for person in people if not there[person.image]]


def _check_left_out(left_out: LeftOut, people: int, settings: PackSettings) -> None:
    count = sum(map(len, left_out.values()))
    if count <= settings.max_left_out * people:
        return
    reasons = "; ".join(
        f"{reason}: {len(keys):,} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
        for reason, keys in left_out.items()
    )
    raise ValueError(
        f"{count:,} of {people:,} people can't be packed ({count / people:.2%}), allowed by "
        f"--max-left-out are {settings.max_left_out:.2%}: {reasons}"
    )


def _split(people: list[Person], settings: PackSettings) -> list[Person]:
    """Give every person a split, all people of an image the same."""
    if settings.split in ("train", "val"):
        return [replace(person, split=settings.split) for person in people]
    if settings.split == "auto" and all(person.split for person in people):
        return people
    names = sorted({person.image for person in people})
    if settings.val_images >= len(names):
        raise ValueError(
            f"--val-images must be below the {len(names):,} images there are, "
            f"got {settings.val_images:,}"
        )
    drawn = np.random.default_rng([settings.seed, 1]).permutation(len(names))
    held_out = {names[i] for i in drawn[: settings.val_images]}
    return [
        replace(person, split="val" if person.image in held_out else "train") for person in people
    ]


def _jobs(people: list[Person], settings: PackSettings) -> Iterator[ShardJob]:
    """Lay people out in shards, all of an image in the same."""
    _check_no_leak(people)
    splits: tuple[Split, ...] = ("train", "val")
    for split in splits:
        images = _by_image([person for person in people if person.split == split])
        if split == "train":
            # So that neighbours in a shard are strangers.
            order = np.random.default_rng([settings.seed, 2]).permutation(len(images))
            images = [images[i] for i in order]
        for number, shard in enumerate(_filled(images, settings.people_per_shard)):
            yield ShardJob(name=ShardName(split=split, number=number), people=tuple(shard))


def _by_image(people: list[Person]) -> list[list[Person]]:
    images: dict[str, list[Person]] = {}
    for person in people:
        images.setdefault(person.image, []).append(person)
    return list(images.values())


def _filled(images: list[list[Person]], size: int) -> Iterator[list[Person]]:
    """Join images until `size` people are together."""
    shard: list[Person] = []
    for image in images:
        shard += image
        if len(shard) >= size:
            yield shard
            shard = []
    if shard:
        yield shard


def _check_no_leak(people: list[Person]) -> None:
    splits: dict[str, str | None] = {}
    for person in people:
        if splits.setdefault(person.image, person.split) != person.split:
            raise ValueError(f"{person.image} is in both splits; expected each image in one")


def _check_keys(jobs: tuple[ShardJob, ...]) -> None:
    counts = Counter(person.key for job in jobs for person in job.people)
    repeated = [key for key, count in counts.items() if count > 1]
    if repeated:
        raise ValueError(
            f"{len(repeated):,} people share a key with another, expected each once: {repeated[:3]}"
        )


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


def _fingerprint(settings: PackSettings) -> str:
    decisive: dict[str, Any] = asdict(settings) | _file_sums(settings)
    for name in ("out", "images", "annotations", "head_boxes", "joint_set", "max_left_out"):
        del decisive[name]
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


def _file_sums(settings: PackSettings) -> dict[str, str]:
    sums = {}
    for path in settings.files.paths if settings.files else ():
        with path.open("rb") as file:
            sums[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return sums


def _conventions(settings: PackSettings, annotations: Annotations) -> dict[str, Any]:
    chosen = {
        "split": settings.split,
        "val_images": settings.val_images,
        "seed": settings.seed,
    }
    if settings.source == SYNTHETIC_NAME:
        return chosen | {"scenes": settings.scenes}
    source = SOURCES[settings.source]
    return chosen | {
        "index_base": (annotations.index_base if source.index_base is None else source.index_base),
        "center_adjusted": source.center_adjusted,
    }
