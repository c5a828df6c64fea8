"""Results per photograph or frame, as data that passes between processes and onto disk."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from pipeline.inference.sources import MediaFile


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

    @property
    def confidence(self) -> float:
        """The mean of the joints' confidences."""
        return sum(joint[2] for joint in self.joints) / len(self.joints)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The people in one photograph, or in one frame of a video."""

    file: str
    size: int
    modified_ns: int
    width: int
    height: int
    people: list[FoundPerson]
    frame: int | None = None

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Rebuild an estimate from the data of `asdict`."""
        return cls(**{**content, "people": [FoundPerson(**one) for one in content["people"]]})


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A file that could not be read, and the reason."""

    file: str
    why: str


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
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Rebuild results from the data of `to_json`."""
        return cls(
            estimates=[Estimate.from_json(estimate) for estimate in content["estimates"]],
            failures=[Failure(**failure) for failure in content["failures"]],
        )


def people_of(estimates: Sequence[Estimate]) -> Iterator[tuple[Estimate, FoundPerson]]:
    """Yield every person with the estimate that contains them."""
    return ((estimate, person) for estimate in estimates for person in estimate.people)
