"""The photographs that annotations name, found below a folder."""

import difflib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from pipeline.data.photographs.header import SUFFIXES as PHOTOGRAPHS
from pipeline.data.photographs.video import SUFFIXES as VIDEOS
from pipeline.io.inside import is_file, path_inside
from pipeline.io.parsing import composed
from pipeline.pose.person import frame_of

# A path of Windows or POSIX that starts at a root, or a URL.
_ABSOLUTE = re.compile(r"([A-Za-z]:)?[\\/]|[A-Za-z][A-Za-z0-9+.-]*://")

# The folder of a DeepLabCut project that its tables begin their paths with.
_PROJECT = "labeled-data"

# Label Studio puts eight digits before the names of uploaded files.
_UPLOADED = re.compile(r"(/upload/\d+/)[0-9a-f]{8}-", re.ASCII)

_PICTURES = (*PHOTOGRAPHS, *VIDEOS, ".slp")

# Missing names for which the nearest file is sought.
_MOST_COMPARED = 20


@dataclass(frozen=True, kw_only=True)
class Found:
    """Photographs by the names in the annotations: their paths below the folder.

    `missing` has each name without a file; with the first ones goes the nearest file that no other
    name means, if one is near.
    """

    paths: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str | None] = field(default_factory=dict)


def find_photographs(folder: Path, names: Iterable[str]) -> Found:
    """Find the files that annotations name, written with slashes or backslashes.

    Of an absolute path or URL the end counts, and of another path what follows the folder's own
    name, or DeepLabCut's `labeled-data`. Names are equal whatever their Unicode form, NFC or
    NFD. Raises ValueError naming a file outside the folder, or two absolute paths that would be
    one file.
    """
    listing = _Listing(folder)
    paths, missing = {}, []
    for name in names:
        path = listing.path_of(name)
        if path is None:
            missing.append(name)
        else:
            paths[name] = path
    _check_ends(folder, paths)
    unused = listing.others(set(paths.values())) if missing else []
    nearest = {name: _nearest(frame_of(name)[0], unused) for name in missing[:_MOST_COMPARED]}
    return Found(paths=paths, missing=dict.fromkeys(missing) | nearest)


def count_photographs(folder: Path, names: Iterable[str]) -> tuple[int, int]:
    """Count the files that annotations name below a folder, which is not listed.

    Return those that are there by any way to read their names, and those by their whole names.
    """
    paths = [path for path, _ in map(frame_of, names)]

    def count(ways: Callable[[str], Iterable[str]]) -> int:
        return sum(any(_is_below(folder, way) for way in ways(path)) for path in paths)

    return count(lambda path: _candidates(path, folder)), count(_spellings)


def _is_below(folder: Path, path: str) -> bool:
    is_relative = not _ABSOLUTE.match(path) and ".." not in PurePosixPath(path).parts
    return is_relative and is_file(folder / path)


class _Listing:
    """The files below a folder, listed only if a name is not simply there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path_of(self, name: str) -> str | None:
        """Return the path below the folder, None if there is no such file.

        A frame whose video is not there may be a picture of its own, as tools extract them:
        frame_000012.png.
        """
        path, place = frame_of(name)
        if not place:
            return self._file_of(name)
        video = self._file_of(path)
        if video:
            return f"{video}#{place}"
        pictures = sorted(
            file
            for folder in (self._folder, self._folder / "images")
            for file in folder.glob(f"frame_{place.rpartition('/')[2].zfill(6)}.*")
        )
        return self._file_of(pictures[0].relative_to(self._folder).as_posix()) if pictures else None

    def _file_of(self, name: str) -> str | None:
        candidates = list(_candidates(name, self._folder))
        for candidate in candidates:
            if is_file(self._inside(name, candidate)):
                return candidate
        for candidate in candidates:
            if found := self._by_form.get(composed(candidate)):
                self._inside(name, found)
                return found
        return None

    def _inside(self, name: str, candidate: str) -> Path:
        try:
            return path_inside(self._folder, candidate)
        except ValueError as error:
            raise ValueError(
                f"image {name!r} lies outside --images {self._folder}, expected a path below it: "
                f"{error}; copy the photographs into one folder (cp -rL follows links) and give "
                "that by --images"
            ) from None

    def others(self, used: set[str]) -> list[str]:
        """List the photographs, videos and packages except those used."""
        paths = (path for path in self._all if path not in used)
        return [path for path in paths if PurePosixPath(path).suffix.lower() in _PICTURES]

    @cached_property
    def _all(self) -> list[str]:
        files = (path for path in self._folder.rglob("*") if path.is_file())
        return sorted(path.relative_to(self._folder).as_posix() for path in files)

    @cached_property
    def _by_form(self) -> dict[str, str]:
        return {composed(path): path for path in self._all}


def _candidates(name: str, folder: Path) -> Iterator[str]:
    """Yield the paths below a folder that a name may mean, the likeliest first."""
    if not _ABSOLUTE.match(name):
        yield from _spellings(name)
        path = PurePosixPath(name.replace("\\", "/"))
        for place, part in enumerate(path.parts[:-1]):
            if (place == 0 and part == _PROJECT) or part == folder.absolute().name:
                yield str(PurePosixPath(*path.parts[place + 1 :]))
        return
    ways = [name]
    if "://" in name:
        # A signed URL ends with a query, and its path may be escaped.
        ways.append(unquote(re.split(r"[?#]", name, maxsplit=1)[0]))
    if _UPLOADED.search(name):
        ways.append(_UPLOADED.sub(r"\1", name))
    for way in dict.fromkeys(ways):
        parts = [part for part in re.split(r"[\\/]+", way) if part]
        for start in range(1, len(parts)) if len(parts) > 1 else [0]:
            yield str(PurePosixPath(*parts[start:]))


def _spellings(name: str) -> Iterator[str]:
    """Yield a path as it is written, and with slashes."""
    yield str(PurePosixPath(name))
    if "\\" in name:
        yield str(PurePosixPath(name.replace("\\", "/")))


def _check_ends(folder: Path, paths: dict[str, str]) -> None:
    """Raise ValueError if a file that stands for the end of a path stands for another name too."""
    names = defaultdict(list)
    for name, path in paths.items():
        names[path].append(name)
    for path, same in names.items():
        if len(same) > 1 and any(_is_end(name, path) for name in same):
            raise ValueError(
                f"--images {folder}: {same[0]!r} and {same[1]!r} would both be {path}; expected "
                "paths below the folder that tell them apart"
            )


def _is_end(name: str, path: str) -> bool:
    """Whether a file is found by the end of its name in the annotations, or by a frame's number."""
    if _ABSOLUTE.match(name) or bool(frame_of(name)[1]) != bool(frame_of(path)[1]):
        return True
    parts = [PurePosixPath(one.replace("\\", "/")).parts for one in (name, path)]
    return len(parts[1]) < len(parts[0])


def _nearest(name: str, unused: list[str]) -> str | None:
    """Return the unused file whose name is closest, if any is close."""
    wanted = _folded(name.replace("\\", "/"))
    for closeness in (lambda path: path, lambda path: PurePosixPath(path).name):
        same = [path for path in unused if _folded(closeness(path)) == _folded(closeness(wanted))]
        if same:
            return same[0]
    # Another number would be another photograph.
    by_folded = {_folded(path): path for path in unused if _digits(path) == _digits(name)}
    close = difflib.get_close_matches(wanted, list(by_folded), n=1)
    return by_folded[close[0]] if close else None


def _digits(text: str) -> str:
    return "".join(re.findall(r"\d", text))


def _folded(text: str) -> str:
    return composed(text).casefold()
