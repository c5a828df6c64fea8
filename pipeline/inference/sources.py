"""Inputs of a prediction: photographs and videos, by path, folder or glob."""

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.data.photographs.header import SUFFIXES as PHOTOGRAPHS

VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")
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
    """The inputs' files, each once; `others` counts those of other kinds in folders and globs."""

    files: tuple[MediaFile, ...]
    others: int


def find_sources(inputs: Sequence[str], setting: str = "INPUT") -> Sources:
    """List the files of `inputs` in the order given, those of a folder or glob by name.

    Folders are searched recursively, without hidden files. Raises ValueError naming an input of
    the `setting` without a file, or a file of another kind.
    """
    if not inputs:
        raise ValueError(f"no {setting} is given, expected {_KINDS}, a folder or a glob")
    found: dict[Path, None] = {}
    others = 0
    for word in inputs:
        files = _files(word, setting)
        usable = [path for path in files if path.suffix.lower() in PHOTOGRAPHS + VIDEOS]
        if not usable and files == [Path(word)]:
            raise ValueError(f"{setting}={word!r}: expected {_KINDS}")
        if not usable:
            raise ValueError(f"{setting}={word!r}: none of the {len(files)} files is {_KINDS}")
        found |= dict.fromkeys(usable)
        others += len(files) - len(usable)
    return Sources(files=tuple(_media_file(path) for path in found), others=others)


def _files(word: str, setting: str) -> list[Path]:
    """Return the files of one input, of any kind."""
    path = Path(word)
    if path.is_dir():
        return [
            file
            for file in sorted(path.rglob("*"))
            if file.is_file() and not any(p.startswith(".") for p in file.relative_to(path).parts)
        ]
    if path.exists():
        return [path]
    if not glob.has_magic(word):
        raise ValueError(f"{setting}={word!r}: no such file or folder")
    matches = [Path(match) for match in sorted(glob.glob(word, recursive=True))]
    if not matches:
        raise ValueError(f"{setting}={word!r}: no file matches")
    return [match for match in matches if match.is_file()]


def _media_file(path: Path) -> MediaFile:
    known = path.stat()
    return MediaFile(path=path, size=known.st_size, modified_ns=known.st_mtime_ns)
