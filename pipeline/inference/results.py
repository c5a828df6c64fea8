"""What was found in each photograph or frame, as plain data that goes between processes and onto disk."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from pipeline.inference.sources import MediaFile


@dataclass(frozen=True, kw_only=True)
class FoundPerson:
    """One person: joints as (x, y, confidence) in the order of the joint set, and where they were looked for.

    Pixels of the upright image, the first one's centre at 0. `box` is
    (left, top, width, height), where one was given, `score` a detector's.
    """

    joints: list[list[float]]
    center: list[float]
    scale: float
    box: list[float] | None = None
    score: float | None = None

    @property
    def confidence(self) -> float:
        """The mean of the joints' confidences."""
        return sum(joint[2] for joint in self.joints) / len(self.joints)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The people of one photograph, or of the frame of that number of a video."""

    file: str
    size: int
    modified_ns: int
    width: int
    height: int
    people: list[FoundPerson]
    frame: int | None = None

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """What `asdict` gave."""
        people = [FoundPerson(**person) for person in content["people"]]
        return cls(**{**content, "people": people})


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A file that could not be read, and why."""

    file: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Part:
    """A piece of the work: photographs, or the frames of one video from `frames[0]` up to `frames[1]`."""

    sources: tuple[MediaFile, ...]
    frames: tuple[int, int] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        sources = [{**asdict(source), "path": str(source.path)} for source in self.sources]
        return {"sources": sources, "frames": self.frames}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """What `to_json` gave."""
        sources = tuple(MediaFile(**{**s, "path": Path(s["path"])}) for s in content["sources"])
        frames = content["frames"]
        return cls(sources=sources, frames=(frames[0], frames[1]) if frames else None)

    def pictures(self) -> int:
        """How many photographs or frames it has."""
        return self.frames[1] - self.frames[0] if self.frames else len(self.sources)


@dataclass(frozen=True, kw_only=True)
class Found:
    """What came of a part: estimates, failures, and files beside them by name."""

    estimates: list[Estimate] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """All but the files, as plain data."""
        return {
            "estimates": [asdict(estimate) for estimate in self.estimates],
            "failures": [asdict(failure) for failure in self.failures],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """What `to_json` gave."""
        return cls(
            estimates=[Estimate.from_json(estimate) for estimate in content["estimates"]],
            failures=[Failure(**failure) for failure in content["failures"]],
        )


def people_of(estimates: Sequence[Estimate]) -> Iterator[tuple[Estimate, FoundPerson]]:
    """Every person with the picture that they are in."""
    return ((estimate, person) for estimate in estimates for person in estimate.people)
