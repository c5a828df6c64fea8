"""Plan packing: read the annotations, split people, and assign them to shards."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PillowImage
from PIL import UnidentifiedImageError

from pipeline.data.formats.annotations import Annotations
from pipeline.data.formats.registry import SOURCES, read_annotations
from pipeline.data.shards.writer import ShardName
from pipeline.data.synthetic.scene import scene_people
from pipeline.pose.joint_sets import SYNTHETIC, JointSet
from pipeline.pose.person import Person, Split, Visibility
from pipeline.settings.packing import SYNTHETIC_NAME, PackSettings

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
