"""Results per photograph or frame, as data that passes between processes and onto disk."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

from pipeline.inference.sources import MediaFile
from pipeline.io.parsing import fields_of, items_of, number_of, text_of, whole_of


@dataclass(frozen=True, kw_only=True)
class FoundPerson:
    """One person's joints (x, y, confidence) in the order of the joint set, and their frame.

    Coordinates are pixels of the upright image, the first one's centre at 0. `box` is (left, top,
    width, height) if one was given, `score` a detector's.
    """

    joints: list[list[float]]
    center: list[float]
    scale: float
    box: list[float] | None = None
    score: float | None = None

    @classmethod
    def from_json(cls, content: Any, where: str) -> Self:
        """Rebuild a person from the data of `asdict`. Raises ValueError naming a wrong field."""
        required, optional = ("joints", "center", "scale"), ("box", "score")
        fields = fields_of(content, where, required=required, optional=optional)
        box, score = fields.get("box"), fields.get("score")
        return cls(
            joints=list(items_of(fields["joints"], f"{where}.joints", partial(_numbers, count=3))),
            center=_numbers(fields["center"], f"{where}.center", count=2),
            scale=number_of(fields["scale"], f"{where}.scale"),
            box=None if box is None else _numbers(box, f"{where}.box", count=4),
            score=None if score is None else number_of(score, f"{where}.score"),
        )

    @property
    def confidence(self) -> float:
        """The mean of the joints' confidences."""
        return sum(joint[2] for joint in self.joints) / len(self.joints)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The people in one photograph, or in one frame of a video.

    A frame has its time in seconds from the video's start, and the video's mean frame rate, 0 if
    the video doesn't state it.
    """

    file: str
    size: int
    modified_ns: int
    width: int
    height: int
    people: list[FoundPerson]
    frame: int | None = None
    time_s: float | None = None
    frames_per_s: float | None = None

    @classmethod
    def from_json(cls, content: Any, where: str) -> Self:
        """Rebuild an estimate from the data of `asdict`. Raises ValueError naming a wrong field."""
        whole = ("size", "modified_ns", "width", "height")
        required, numbers = ("file", *whole, "people"), ("time_s", "frames_per_s")
        fields = fields_of(content, where, required=required, optional=("frame", *numbers))
        frame = fields.get("frame")
        time_s, rate = (fields.get(name) for name in numbers)
        return cls(
            file=text_of(fields["file"], f"{where}.file"),
            people=list(items_of(fields["people"], f"{where}.people", FoundPerson.from_json)),
            frame=None if frame is None else whole_of(frame, f"{where}.frame"),
            time_s=None if time_s is None else number_of(time_s, f"{where}.time_s"),
            frames_per_s=None if rate is None else number_of(rate, f"{where}.frames_per_s"),
            **{name: whole_of(fields[name], f"{where}.{name}") for name in whole},
        )


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A file that could not be read, and the reason."""

    file: str
    why: str

    @classmethod
    def from_json(cls, content: Any, where: str) -> Self:
        """Rebuild a failure from the data of `asdict`. Raises ValueError naming a wrong field."""
        fields = fields_of(content, where, required=("file", "why"))
        return cls(**{name: text_of(value, f"{where}.{name}") for name, value in fields.items()})


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of the work: photographs, or frames `frames[0]` up to `frames[1]` of one video."""

    sources: tuple[MediaFile, ...]
    frames: tuple[int, int] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain data for `from_json`."""
        sources = [{**asdict(source), "path": str(source.path)} for source in self.sources]
        return {"sources": sources, "frames": self.frames}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Rebuild a part from the data of `to_json`."""
        sources = tuple(MediaFile(**{**s, "path": Path(s["path"])}) for s in content["sources"])
        frames = content["frames"]
        return cls(sources=sources, frames=frames and (frames[0], frames[1]))

    def pictures(self) -> int:
        """Return the number of photographs or frames."""
        return self.frames[1] - self.frames[0] if self.frames else len(self.sources)


@dataclass(frozen=True, kw_only=True)
class Found:
    """The results of a part: estimates, failures, and contents of further files by name."""

    estimates: list[Estimate] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return all but the files as plain data for `from_json`."""
        return {
            "estimates": [asdict(estimate) for estimate in self.estimates],
            "failures": [asdict(failure) for failure in self.failures],
        }

    @classmethod
    def from_json(cls, content: Any, where: str) -> Self:
        """Rebuild results from the data of `to_json`. Raises ValueError naming a wrong field."""
        fields = fields_of(content, where, required=("estimates", "failures"))
        estimates, failures = fields["estimates"], fields["failures"]
        return cls(
            estimates=list(items_of(estimates, f"{where}: estimates", Estimate.from_json)),
            failures=list(items_of(failures, f"{where}: failures", Failure.from_json)),
        )


def people_of(estimates: Sequence[Estimate]) -> Iterator[tuple[Estimate, FoundPerson]]:
    """Yield every person with the estimate that contains them."""
    return ((estimate, person) for estimate in estimates for person in estimate.people)


def _numbers(value: Any, where: str, *, count: int) -> list[float]:
    found = items_of(value, where, number_of)
    if len(found) != count:
        raise ValueError(f"{where} must have {count} numbers, got {value!r:.80}")
    return list(found)
