"""One sample of a shard: a stored crop and its person, as tar members KEY.jpg and KEY.json."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import chain, compress
from threading import Lock
from typing import Any, Protocol, get_args, runtime_checkable

from pipeline.data.shards.crop import Crop, CropDecoder, Image, ImageRGBA
from pipeline.pose.person import Person, Split, Visibility

SUFFIXES = IMAGE_SUFFIX, RECORD_SUFFIX = "jpg", "json"
# Looking a state up takes a tenth of the time of asking the enumeration for it.
_STATES = {state.value: state for state in Visibility}

_SPLITS = (None, *get_args(Split))
# Pixels; no photograph is as large.
_FARTHEST = 1e9


class BadSampleError(ValueError):
    """A stored sample that training can't use. Names shard and key, and says what is wrong."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A person with the stored crop; enough to carry a prediction back to the original image.

    `place` names shard and key of a sample that was read, for errors.
    """

    person: Person
    crop: Crop
    place: str = field(default="", compare=False)

    @property
    def key(self) -> str:
        """Name of the sample in its shard."""
        return self.person.key

    @property
    def where(self) -> str:
        """Name of the sample in errors."""
        return self.place or self.key

    def pixels(self, decoder: CropDecoder) -> ImageRGBA:
        """Decode the stored crop. Raises BadSampleError if it is damaged or no image."""
        try:
            return decoder.decode(self.crop.jpeg)
        except ValueError as error:
            raise BadSampleError(f"{self.where}: {error}") from error

    def picture(self) -> Image:
        """Decode the stored crop as RGB, to look at. Raises BadSampleError like `pixels`."""
        return self.pixels(CropDecoder())[:, :, :3]


@runtime_checkable
class Samples(Protocol):
    """Samples by position; a list of them is one, and so is a reader of shards."""

    def __len__(self) -> int: ...

    def __getitem__(self, position: int, /) -> Sample: ...

    def __iter__(self) -> Iterator[Sample]: ...


class BadSamples:
    """The samples that were skipped, each counted once; safe to share between threads.

    `found` holds the error of each, by its position or place.
    """

    def __init__(self, allowed: int) -> None:
        self.allowed = allowed
        self.found: dict[int | str, str] = {}
        self._lock = Lock()

    def note(self, at: int | str, error: BadSampleError) -> None:
        """Count a sample. Raises BadSampleError if it is one more than allowed."""
        with self._lock:
            self.found.setdefault(at, str(error))
            count = len(self.found)
        if count > self.allowed:
            known = f" (bad sample {count}, data.bad_samples allows {self.allowed})"
            raise BadSampleError(f"{error}{known if self.allowed else ''}") from error


def is_inside(name: str) -> bool:
    """Whether a tar's member is named as a file within; others are never read."""
    return not name.startswith("/") and ".." not in name.split("/")


def record_of(sample: Sample) -> bytes:
    """Return the sample's KEY.json."""
    crop = {k: v for k, v in asdict(sample.crop).items() if k != "jpeg"}
    record = asdict(sample.person) | {"crop": crop}
    for name in ("area", "name"):
        if not record[name]:
            del record[name]
    return json.dumps(record, separators=(",", ":")).encode()


def sample_from(
    jpeg: bytes, record: bytes, where: str, absent: Mapping[str, Any] | None = None
) -> Sample:
    """Put a sample together from its two members; `absent` stands in for fields that are not there.

    Raises BadSampleError naming shard, key and field.
    """
    try:
        fields: dict[str, Any] = {**(absent or {}), **json.loads(record)}
        crop = dict(fields.pop("crop"))
        # JSON's lists become the tuples that a Person holds.
        fields["center"] = x, y = tuple(fields["center"])
        fields["joints"] = joints = tuple((left, top) for left, top in fields["joints"])
        fields["visibility"] = tuple(_STATES[state] for state in fields["visibility"])
        for name, count in (("box", 4), ("image_size", 2)):
            value = fields[name]
            fields[name] = None if value is None else _tuple(value, count, name)
        # A missing joint may hold any number.
        annotated = chain.from_iterable(compress(joints, fields["visibility"]))
        _check(fields, crop, [x, y, *annotated, *(fields["box"] or ())])
        return Sample(person=Person(**fields), crop=Crop(jpeg=jpeg, **crop), place=where)
    except RecursionError:
        raise BadSampleError(f"{where}: not a sample record: nested too deeply") from None
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise BadSampleError(f"{where}: not a sample record: {error!r:.200}") from error


def _tuple(value: Any, count: int, name: str) -> tuple[Any, ...]:
    found = tuple(value)
    if len(found) != count:
        raise ValueError(f"{name} must have {count} numbers, got {len(found)}")
    return found


def _check(fields: Mapping[str, Any], crop: Mapping[str, Any], numbers: list[Any]) -> None:
    """Raise ValueError or TypeError if a value is of another type or out of its range."""
    # A single sum finds NaN, infinity, and whatever is no number.
    if not sum(map(abs, numbers)) < _FARTHEST:
        raise ValueError(f"coordinates must be finite and below {_FARTHEST:g} pixels in all")
    if not (type(fields["image"]) is type(fields.get("name", "")) is str):
        raise TypeError("image and name must be text")
    # Halves of characters could not be written; bytes of names that are no UTF-8 can.
    (fields["image"] + fields.get("name", "")).encode(errors="surrogateescape")
    split = fields.get("split")
    if split not in _SPLITS:
        raise ValueError(f"split must be train, val or null, got {split!r:.20}")
    sizes = fields["scale"], crop["factor_x"], crop["factor_y"], *(fields["image_size"] or ())
    for value in sizes:
        if not 0 < value < _FARTHEST:
            raise ValueError(f"sizes must be above 0 and below {_FARTHEST:g}, got {value!r:.20}")
    # One of 0 is none.
    for name in ("head_size", "area"):
        value = fields.get(name)
        if value is not None and not 0 <= value < _FARTHEST:
            raise ValueError(f"{name} must be from 0 to {_FARTHEST:g}, got {value!r:.20}")
    for value in (fields["person"], crop["left"], crop["top"], *(fields["image_size"] or ())):
        if type(value) is not int or not -_FARTHEST < value < _FARTHEST:
            raise ValueError(f"person, left, top and image_size must be whole, got {value!r:.20}")
