"""People of a source on its photographs: found, of a readable kind and size, and held upright."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from pipeline.data.formats.annotations import image_counter
from pipeline.data.photographs.files import Found, find_photographs
from pipeline.data.photographs.frames import Pictures
from pipeline.data.photographs.header import Header, TooManyPixelsError
from pipeline.data.photographs.orientation import Held, held_upright, orientations
from pipeline.pose.joint_sets import JointSet
from pipeline.pose.person import Person, image_name
from pipeline.settings.packing import PackSettings

# Keys of people, by the reason to leave them out.
LeftOut = dict[str, list[str]]
# Pictures that are named with their fault.
_MOST_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class Matched:
    """People whose photographs can be opened, in pixels of these held upright.

    `headers` are those of the photographs, by their path below the folder. `left_out` has the
    others, and `notes` what there is to say of them.
    """

    people: list[Person]
    headers: dict[str, Header]
    left_out: LeftOut
    notes: list[str]


def match_people(
    people: Sequence[Person], joint_set: JointSet, settings: PackSettings, default: Held
) -> Matched:
    """Find and open the photographs of people; `default` says how the source holds them.

    Raises ValueError if there is no such folder, or it has none of them.
    """
    folder = settings.images
    assert folder is not None, "only rendered people have no photographs"
    if not folder.is_dir():
        raise ValueError(f"--images {folder}: no such folder")
    try:
        found = find_photographs(folder, dict.fromkeys(person.image for person in people))
    except ValueError as error:
        raise ValueError(f"{settings.annotations or settings.source}: {error}") from None
    if not found.paths:
        name = people[0].image
        raise ValueError(
            f"--images {folder} holds none of the {len(found.missing):,} images of "
            f"{settings.annotations}, such as {name}{_meant(found.missing[name])}"
        )
    headers, faults = _headers(folder, dict.fromkeys(found.paths.values()), settings.max_pixels)
    left_out: defaultdict[str, list[str]] = defaultdict(list)
    there = []
    for person in people:
        if person.image in found.missing:
            left_out["missing image"].append(person.key)
        else:
            there.append(replace(person, image=found.paths[person.image]))
    there = _renumbered(_named_apart(there), found)
    for person in there:
        if person.image in faults:
            left_out[faults[person.image].reason].append(person.key)
    readable = [person for person in there if person.image in headers]
    held = _held(readable, headers, settings, default)
    return Matched(
        people=[
            held_upright(person, headers[person.image], joint_set.mirror)
            if held.get(person.image) == "stored"
            else person
            for person in readable
        ],
        headers=headers,
        left_out=dict(left_out),
        notes=[*_notes(found, faults), *_orientation_notes(held, settings)],
    )


@dataclass(frozen=True, kw_only=True)
class _Fault:
    reason: str
    why: str


def _headers(
    folder: Path, paths: Iterable[str], max_pixels: int
) -> tuple[dict[str, Header], dict[str, _Fault]]:
    headers, faults = {}, {}
    with closing(Pictures(folder, max_pixels)) as pictures:
        for path in paths:
            try:
                headers[path] = pictures.header(path)
            except TooManyPixelsError as error:
                reason = f"image of more than {max_pixels:,} pixels (--max-pixels)"
                faults[path] = _Fault(reason=reason, why=str(error))
            except (OSError, ValueError) as error:
                faults[path] = _Fault(reason="unreadable image", why=str(error))
    return headers, faults


def _held(
    people: Sequence[Person],
    headers: Mapping[str, Header],
    settings: PackSettings,
    default: Held,
) -> dict[str, Held]:
    """Tell of each image with an EXIF orientation how its annotations hold it."""
    found = orientations(people, headers, default)
    return found if settings.exif == "auto" else dict.fromkeys(found, settings.exif)


def _named_apart(people: Sequence[Person]) -> list[Person]:
    """Give images whose paths make the same name, such as a.jpg and a.png, names of their own."""
    images = {person.image for person in people}
    counts = Counter(map(image_name, images))

    def named(image: str) -> str:
        digest = sha256(image.encode(errors="surrogateescape")).hexdigest()
        return f"{image_name(image)}-{digest[:8]}"

    names = {image: named(image) for image in images if counts[image_name(image)] > 1}
    return [replace(person, name=names.get(person.image, "")) for person in people]


def _renumbered(people: Sequence[Person], found: Found) -> list[Person]:
    """Number anew the people of images that the annotations spell in several ways."""
    spellings = Counter(found.paths.values())
    number_in = image_counter()
    return [
        replace(person, person=number_in(person.image)) if spellings[person.image] > 1 else person
        for person in people
    ]


def _notes(found: Found, faults: Mapping[str, _Fault]) -> Iterator[str]:
    nearest = [(name, near) for name, near in found.missing.items() if near]
    for name, near in nearest[:_MOST_NAMED]:
        yield f"{name}: no such image{_meant(near)}"
    for path, fault in list(faults.items())[:_MOST_NAMED]:
        yield f"{path}: {fault.why}"


def _orientation_notes(held: Mapping[str, Held], settings: PackSettings) -> Iterator[str]:
    if not held:
        return
    counts = Counter(held.values())
    how = " and ".join(f"{counts[way]:,} {way}" for way in sorted(counts, reverse=True))
    yield (
        f"{len(held):,} images have an EXIF orientation; their joints are read as of images held "
        f"{how} (--exif {settings.exif})"
    )


def _meant(near: str | None) -> str:
    return f"; did you mean {near}?" if near else ""
