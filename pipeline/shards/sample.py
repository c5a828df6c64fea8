"""One sample of a shard: a stored crop and the person in it, as tar members KEY.jpg and KEY.json."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.data.crop import Crop, Image, decode_image
from pipeline.data.people import Person, Visibility

IMAGE_SUFFIX = "jpg"
RECORD_SUFFIX = "json"
_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"


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

    def picture(self) -> Image:
        """Decode the stored crop, RGB. Raises ValueError naming shard and key if it is cut off or no image."""
        name, jpeg = self.place or self.key, self.crop.jpeg
        # OpenCV 4 fills what is cut off with grey and calls it an image.
        if jpeg.startswith(_JPEG_START) and not jpeg.endswith(_JPEG_END):
            raise ValueError(f"{name}: cut off after {len(jpeg):,} bytes")
        return decode_image(jpeg, name)


def record_of(sample: Sample) -> bytes:
    """The sample's KEY.json."""
    crop = {k: v for k, v in asdict(sample.crop).items() if k != "jpeg"}
    record = asdict(sample.person) | {"crop": crop}
    return json.dumps(record, separators=(",", ":")).encode()


def sample_from(jpeg: bytes, record: bytes, where: str) -> Sample:
    """Put a sample together from its two members. Raises ValueError naming shard, key and field."""
    try:
        fields: dict[str, Any] = json.loads(record)
        crop = fields.pop("crop")
        person = Person(**_typed(fields))
        return Sample(person=person, crop=Crop(jpeg=jpeg, **crop), place=where)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{where}: not a sample record: {error!r}") from error


def _typed(fields: dict[str, Any]) -> dict[str, Any]:
    """Turn JSON's lists into the tuples that a Person holds."""
    pair = tuple
    optional = {
        name: None if fields[name] is None else pair(fields[name]) for name in ("box", "image_size")
    }
    return (
        fields
        | optional
        | {
            "center": pair(fields["center"]),
            "joints": tuple(pair(joint) for joint in fields["joints"]),
            "visibility": tuple(Visibility(state) for state in fields["visibility"]),
        }
    )
