"""Inputs of a prediction: photographs and videos, by path, folder or glob."""

import glob
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.data.photographs.header import SUFFIXES as PHOTOGRAPHS
from pipeline.data.photographs.header import read_header
from pipeline.data.photographs.video import SUFFIXES as VIDEOS
from pipeline.io.inside import check_inside
from pipeline.io.parsing import composed, nearest_name

# Cameras' raw files and others that a reader of TIFF would take for their small preview.
_UNREAD = (
    *(".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".pef", ".raf", ".raw", ".rw2", ".srw"),
    *(".exr", ".hdr", ".jxl", ".psd", ".xcf"),
)
_KINDS = f"an image ({', '.join(PHOTOGRAPHS)}) or a video ({', '.join(VIDEOS)})"


@dataclass(frozen=True, kw_only=True)
class MediaFile:
    """A photograph or video to find people in, as it was when it was listed."""

    path: Path
    size: int
    modified_ns: int

    @property
    def is_video(self) -> bool:
        """Whether it is a video, by its suffix."""
        return self.path.suffix.lower() in VIDEOS


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The inputs' files, each once.

    Of those in folders and globs `unread` are pictures of kinds that are not read, and `others`
    counts files that are no pictures.
    """

    files: tuple[MediaFile, ...]
    others: int
    unread: tuple[Path, ...] = ()


def find_sources(inputs: Sequence[str], setting: str = "INPUT") -> Sources:
    """List the files of `inputs` in the order given, those of a folder or glob by name.

    Folders are searched recursively, without hidden files. Raises ValueError naming an input of
    the `setting` without a file, a file of another kind, or a link to one that leads out of a
    folder.
    """
    if not inputs:
        raise ValueError(f"no {setting} is given, expected {_KINDS}, a folder or a glob")
    found: dict[Path, None] = {}
    unread: dict[Path, None] = {}
    others = 0
    for word in inputs:
        listed = _files(word, setting)
        usable = [path for path in listed if path.suffix.lower() in PHOTOGRAPHS + VIDEOS]
        strange = [path for path in listed if path.suffix.lower() in _UNREAD]
        if not usable and listed == [Path(word)]:
            if strange or not _is_photograph(listed[0]):
                raise ValueError(f"{setting}={word!r}: expected {_KINDS}")
            usable = listed
        if not usable:
            raise ValueError(f"{setting}={word!r}: none of the {len(listed)} files is {_KINDS}")
        found |= dict.fromkeys(usable)
        unread |= dict.fromkeys(strange)
        others += len(listed) - len(usable) - len(strange)
    files = tuple(_media_file(path) for path in found)
    return Sources(files=files, others=others, unread=tuple(unread))


def _files(word: str, setting: str) -> list[Path]:
    """Return the files of one input, of any kind."""
    path = Path(word)
    if path.is_dir():
        found = [
            file
            for file in sorted(path.rglob("*"))
            if file.is_file() and not any(p.startswith(".") for p in file.relative_to(path).parts)
        ]
        for file in found:
            if file.suffix.lower() in PHOTOGRAPHS + VIDEOS:
                _check_inside(path, file, setting)
        return found
    if path.exists():
        return [path]
    if not glob.has_magic(word):
        nearest = _nearest(path)
        if nearest is not None and composed(nearest.name) == composed(path.name):
            return _files(str(nearest), setting)
        hint = f"; did you mean {str(nearest)!r}?" if nearest else ""
        raise ValueError(f"{setting}={word!r}: no such file or folder{hint}")
    matches = [Path(match) for match in sorted(glob.glob(word, recursive=True))]
    if not matches:
        raise ValueError(f"{setting}={word!r}: no file matches")
    return [match for match in matches if match.is_file()]


def _check_inside(folder: Path, file: Path, setting: str) -> None:
    try:
        check_inside(folder, file)
    except ValueError as error:
        raise ValueError(
            f"{setting}={str(folder)!r}: {error}; name the files themselves, as by a glob"
        ) from None


def _is_photograph(path: Path) -> bool:
    """Whether a file has a photograph's header, whatever its name."""
    try:
        with path.open("rb") as file:
            read_header(file, max_pixels=sys.maxsize)
    except (OSError, ValueError):
        return False
    return True


def _nearest(path: Path) -> Path | None:
    """Return the file or folder that is nearest to one that does not exist."""
    if not path.parent.is_dir():
        return None
    name = nearest_name(path.name, sorted(other.name for other in path.parent.iterdir()))
    return None if name is None else path.parent / name


def _media_file(path: Path) -> MediaFile:
    known = path.stat()
    return MediaFile(path=path, size=known.st_size, modified_ns=known.st_mtime_ns)
