"""The plan of a pack: read the annotations, split people by image, and lay them out in shards."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from pipeline.data.formats.annotations import Annotations
from pipeline.data.formats.plausible import box_note, check_percentages
from pipeline.data.formats.registry import SOURCES, read_annotations, recognise
from pipeline.data.measurable import Measurable, counts_of
from pipeline.data.photographs.files import count_photographs
from pipeline.data.photographs.header import Header
from pipeline.data.photographs.match import LeftOut, Matched, match_people
from pipeline.data.shards.writer import ShardName
from pipeline.data.synthetic.scene import scene_people
from pipeline.io.inside import check_inside
from pipeline.io.own import file_sha256
from pipeline.pose.joint_sets import SYNTHETIC, JointSet
from pipeline.pose.person import Person, Split, Visibility, frame_of
from pipeline.settings.packing import SYNTHETIC_NAME, PackSettings, SourceName

STATE_NAME = ".packing"
# Images probed before packing, to see whether the annotations are theirs.
_PROBED_IMAGES = 64
# Images for validation by default, or one in five where that is fewer.
_VAL_IMAGES, _VAL_SHARE = 500, 5
# Folders above the annotations in which their photographs are sought.
_FOLDERS_ABOVE = 3
# Those of the annotations and above, each with its folder `images`, whose folders are looked at.
_LOOKED_INTO = 4


@dataclass(frozen=True, kw_only=True)
class ShardJob:
    """One shard to write: its people in order, those of an image together."""

    name: ShardName
    people: tuple[Person, ...]


@dataclass(frozen=True, kw_only=True)
class PackPlan:
    """All shards of a dataset.

    `people` counts all, `left_out` has those without a usable image. `sums` are the annotation
    files' sha256. `notes` are lines to print.
    """

    settings: PackSettings
    joint_set: JointSet
    conventions: dict[str, Any]
    jobs: tuple[ShardJob, ...]
    people: int
    skipped: dict[str, int]
    left_out: LeftOut
    sums: dict[str, str]
    fingerprint: str
    notes: tuple[str, ...] = ()

    @property
    def state(self) -> Path:
        """Folder with the records of finished shards until all are done."""
        return self.settings.out / STATE_NAME


def plan_packing(settings: PackSettings) -> PackPlan:
    """Read annotations, split by image and lay out shards; nothing is written.

    Images that are missing or can't be opened are found here. Raises ValueError naming the part
    that does not fit, or if more than the allowed share of people have no image.
    """
    settings, reason = _recognised(settings)
    annotations = _read(settings)
    if settings.images is None and settings.annotations is not None:
        settings = _with_images(settings, settings.annotations, annotations)
        reason.append(f"photographs are those in {settings.images}")
    matched = _match(annotations, settings)
    check_left_out(matched.left_out, len(annotations.people), settings, matched.notes)
    check_fit(matched, settings.images)
    _check_unit(annotations, matched, settings)
    people, left_out = _of_right_size(matched)
    check_left_out(left_out, len(annotations.people), settings, matched.notes)
    settings, drawn = _with_val_images(settings, people)
    reason += drawn
    people = _split(people, settings)
    _check_people(people)
    sums = _file_sums(settings, annotations)
    return PackPlan(
        settings=settings,
        joint_set=annotations.joint_set,
        conventions=_conventions(settings, annotations),
        jobs=tuple(_jobs(people, settings)),
        people=len(annotations.people),
        skipped=dict(annotations.skipped),
        left_out=left_out,
        sums=sums,
        fingerprint=_fingerprint(settings, sums),
        notes=(
            *reason,
            *annotations.notes,
            *matched.notes,
            *_box_notes(matched),
            *_measure_notes(people, annotations.joint_set),
        ),
    )


def check_fit(matched: Matched, images: Path | None) -> None:
    """Raise ValueError if annotations and images plainly don't belong together.

    Some images are probed: most people must have most of their joints inside the image, which must
    have the size that the annotations state.
    """
    by_image = {
        person.image: person for person in matched.people if person.image in matched.headers
    }
    names = sorted(by_image)
    places = {round(place) for place in np.linspace(0, len(names) - 1, _PROBED_IMAGES)}
    probed = [names[place] for place in sorted(places)] if names else []
    problems = [_misfit(by_image[name], matched.headers[name], images) for name in probed]
    unfit = [problem for problem in problems if problem]
    if 2 * len(unfit) > len(problems):
        raise ValueError(
            f"the annotations don't fit the images in {images}: {len(unfit)} of {len(problems)} "
            f"looked at; {unfit[0]}"
        )


def _check_unit(annotations: Annotations, matched: Matched, settings: PackSettings) -> None:
    """Raise ValueError if joints are percentages of their images, and no file states the unit."""
    if annotations.states_unit or not matched.people or settings.source == SYNTHETIC_NAME:
        return
    source = SOURCES[settings.source]
    # A joint-set file states it. Published datasets have their own unit.
    if "joint_set" in source.takes:
        sizes = {name: header.upright_size for name, header in matched.headers.items()}
        check_percentages(matched.people, sizes, str(settings.annotations), source.advice)


def check_left_out(
    left_out: LeftOut, people: int, settings: PackSettings, notes: Sequence[str] = ()
) -> None:
    """Raise ValueError with reasons, keys and notes if too many of `people` are left out."""
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
        + "".join(f"; {note}" for note in notes)
    )


def _file_sums(settings: PackSettings, annotations: Annotations) -> dict[str, str]:
    """Return the sha256 of each annotation file, by its name.

    That of a folder is of the files that were read there.
    """
    given = settings.files.paths if settings.files else ()
    sums = {path.name: file_sha256(path) for path in given if path.is_file()}
    if annotations.files:
        assert settings.annotations is not None, "files beside the annotations"
        others = "".join(f"{path.name} {file_sha256(path)}\n" for path in sorted(annotations.files))
        sums[f"{settings.annotations.name} and beside"] = hashlib.sha256(
            others.encode(errors="surrogateescape")
        ).hexdigest()
    return sums


def _recognised(settings: PackSettings) -> tuple[PackSettings, list[str]]:
    """Name the format of annotations that are given by their path; return why, to print."""
    if settings.source in get_args(SourceName):
        return settings, []
    source, path, reason = recognise(Path(settings.source))
    named = replace(settings, source=source, annotations=path)
    return named, [f"{path} is read as {source}: {reason}"]


def _with_images(settings: PackSettings, path: Path, annotations: Annotations) -> PackSettings:
    """Find the folder of the photographs of annotations at `path`.

    It is that of the annotations, one above, or a folder `images` there: the nearest one with most
    of the photographs. Where none has any, the folders in these are looked at. Raises ValueError if
    a link leads from there to the photographs.
    """
    nearest = path if path.is_dir() else path.parent
    # Photographs of some people may be missing.
    names = list(dict.fromkeys(person.image for person in annotations.people))[:_PROBED_IMAGES]
    folders = [nearest, *list(nearest.absolute().parents)[:_FOLDERS_ABOVE]]
    candidates = [found for folder in folders for found in (folder, folder / "images")]

    def count(folder: Path) -> tuple[int, int]:
        return count_photographs(folder, names)

    best = max(candidates, key=count)
    if not any(count(best)):
        within = [
            path for folder in candidates[:_LOOKED_INTO] for path in sorted(folder.glob("*/"))
        ]
        best = max((best, *within), key=count)
    try:
        check_inside(next(folder for folder in folders if best.is_relative_to(folder)), best)
    except ValueError as error:
        raise ValueError(f"{error}; give --images {best} if that has the photographs") from None
    return replace(settings, images=best)


def _read(settings: PackSettings) -> Annotations:
    if settings.files is None:
        return Annotations(joint_set=SYNTHETIC, people=scene_people(settings.seed, settings.scenes))
    return read_annotations(settings.source, settings.files)


def _match(annotations: Annotations, settings: PackSettings) -> Matched:
    if settings.images is None:
        return Matched(people=annotations.people, headers={}, left_out={}, notes=[])
    held = SOURCES[settings.source].held
    return match_people(annotations.people, annotations.joint_set, settings, held)


def _of_right_size(matched: Matched) -> tuple[list[Person], LeftOut]:
    """Leave out the people whose annotations state another size than their image has."""
    people, left_out = [], dict(matched.left_out)
    for person in matched.people:
        header = matched.headers.get(person.image)
        if header and person.image_size not in (None, header.upright_size):
            left_out.setdefault("image of another size", []).append(person.key)
        else:
            people.append(person)
    return people, left_out


def _misfit(person: Person, header: Header, images: Path | None) -> str | None:
    path, size = f"{images}/{person.image}", header.upright_size
    is_turned = header.orientation != 1
    if person.image_size not in (None, size):
        held = f" held upright by its EXIF orientation {header.orientation}" if is_turned else ""
        return f"{path} has {size} pixels{held}, expected {person.image_size}"
    annotated = np.array(person.visibility) != Visibility.MISSING
    joints = np.array(person.joints)[annotated]
    inside = ((joints > -1) & (joints < size)).all(axis=1)
    if len(joints) and inside.mean() < 0.5:
        other = (
            f"; if they are of the image as stored or held upright by its EXIF orientation "
            f"{header.orientation}, give --exif stored or --exif upright"
        )
        return (
            f"{path} of {size} pixels, joints up to {joints.max(axis=0).round().tolist()}"
            + other * is_turned
        )
    return None


def _with_val_images(
    settings: PackSettings, people: Sequence[Person]
) -> tuple[PackSettings, list[str]]:
    """Choose the number of images for validation where none is given; return what to print."""
    if settings.val_images is not None:
        return settings, []
    images = len({person.image for person in people})
    count = _VAL_IMAGES
    if _is_drawn(people, settings):
        count = min(count, max(1, images // _VAL_SHARE))
    note = f"validation: {count:,} of {images:,} images, drawn at random (--val-images)"
    return replace(settings, val_images=count), [note] if count < _VAL_IMAGES else []


def _is_drawn(people: Sequence[Person], settings: PackSettings) -> bool:
    """Whether images for validation are drawn at random."""
    has_own = settings.split == "auto" and all(person.split for person in people)
    return settings.split not in ("train", "val") and not has_own


def _split(people: list[Person], settings: PackSettings) -> list[Person]:
    """Give every person a split, all people of an image the same."""
    if settings.split in ("train", "val"):
        return [replace(person, split=settings.split) for person in people]
    if not _is_drawn(people, settings):
        return people
    names = sorted({person.image for person in people})
    assert settings.val_images is not None, "chosen before"
    if settings.val_images >= len(names):
        raise ValueError(
            f"--val-images must be below the {len(names):,} images there are, "
            f"got {settings.val_images:,}; --split train or --split val takes all of them"
        )
    drawn = np.random.default_rng([settings.seed, 1]).permutation(len(names))
    held_out = {names[i] for i in drawn[: settings.val_images]}
    return [
        replace(person, split="val" if person.image in held_out else "train") for person in people
    ]


def _check_people(people: list[Person]) -> None:
    """Raise ValueError if an image is in both splits, or people share a key."""
    splits: dict[str, str | None] = {}
    for person in people:
        if splits.setdefault(person.image, person.split) != person.split:
            raise ValueError(f"{person.image} is in both splits; expected each image in one")
    counts = Counter(person.key for person in people)
    repeated = [key for key, count in counts.items() if count > 1]
    if repeated:
        raise ValueError(
            f"{len(repeated):,} people share a key with another, expected each once: {repeated[:3]}"
        )


def _box_notes(matched: Matched) -> Iterator[str]:
    sizes = {name: header.upright_size for name, header in matched.headers.items()}
    if sizes and (note := box_note(matched.people, sizes)):
        yield note


def _measure_notes(people: Sequence[Person], joint_set: JointSet) -> Iterator[str]:
    """Yield a line if few people for validation have the size of the first measure, or none."""
    validating = [person for person in people if person.split == "val"]
    measure = joint_set.measures[0]
    count = counts_of(validating, joint_set)[measure.key]
    if validating:
        found = Measurable(measure=measure, people=len(validating), count=count)
        if note := found.note(joint_set):
            yield f"validation: {note}"


def _jobs(people: list[Person], settings: PackSettings) -> Iterator[ShardJob]:
    """Lay people out in shards, all of an image in the same."""
    splits: tuple[Split, ...] = ("train", "val")
    for split in splits:
        by_image: dict[str, list[Person]] = {}
        for person in people:
            if person.split == split:
                by_image.setdefault(person.image, []).append(person)
        images = list(by_image.values())
        if split == "train":
            # So that neighbours in a shard are strangers.
            order = np.random.default_rng([settings.seed, 2]).permutation(len(images))
            images = [images[i] for i in order]
        for number, shard in enumerate(_filled(images, settings.people_per_shard)):
            # A video is read forward.
            in_order = tuple(sorted(shard, key=_place_in_video))
            yield ShardJob(name=ShardName(split=split, number=number), people=in_order)


def _place_in_video(person: Person) -> tuple[str, str, int]:
    path, place = frame_of(person.image)
    group, _, number = place.rpartition("/")
    return (path, group, int(number)) if place else ("", "", 0)


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


def _fingerprint(settings: PackSettings, sums: dict[str, str]) -> str:
    decisive: dict[str, Any] = asdict(settings) | sums
    for name in ("out", "images", "annotations", "head_boxes", "joint_set", "max_left_out"):
        del decisive[name]
    for name in ("category", "predictions"):
        # So that datasets packed before there were such settings are known again.
        if not decisive[name]:
            del decisive[name]
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


def _conventions(settings: PackSettings, annotations: Annotations) -> dict[str, Any]:
    chosen = {name: getattr(settings, name) for name in ("split", "val_images", "seed")}
    if settings.source == SYNTHETIC_NAME:
        return chosen | {"scenes": settings.scenes}
    source = SOURCES[settings.source]
    return chosen | {
        "index_base": annotations.index_base if source.index_base is None else source.index_base,
        "center_adjusted": source.center_adjusted,
        "exif": settings.exif,
    }
