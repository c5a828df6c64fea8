"""Inputs of a prediction: photographs and videos, by path, folder or glob."""

import glob
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

PHOTOGRAPHS = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")


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
        raise ValueError(f"no {setting} is given, expected {_kinds()}, a folder or a glob")
    found: dict[Path, None] = {}
    others = 0
    for word in inputs:
        files, passed_over = _meant(word, setting)
        found |= dict.fromkeys(files)
        others += passed_over
    return Sources(files=tuple(_source(path) for path in found), others=others)


def _meant(word: str, setting: str) -> tuple[list[Path], int]:
    """Return the files of one input, and the number of files of other kinds."""
    path = Path(word)
    if path.is_dir():
        return _in_folder(path, setting)
    if path.exists():
        return [_known(path, setting)], 0
    if not glob.has_magic(word):
        raise ValueError(f"{setting}={word!r}: no such file or folder")
    matches = [Path(match) for match in sorted(glob.glob(word, recursive=True))]
    if not matches:
        raise ValueError(f"{setting}={word!r}: no file matches")
    files = _usable(match for match in matches if match.is_file())
    if not files:
        raise ValueError(f"{setting}={word!r}: none of the {len(matches)} files is {_kinds()}")
    return files, len(matches) - len(files)


def _in_folder(folder: Path, setting: str) -> tuple[list[Path], int]:
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    usable = _usable(files)
    if not usable:
        raise ValueError(f"{setting}={str(folder)!r}: none of its {len(files)} files is {_kinds()}")
    return usable, len(files) - len(usable)


def _usable(paths: Iterable[Path]) -> list[Path]:
    return [path for path in paths if path.suffix.lower() in PHOTOGRAPHS + VIDEOS]


def _known(path: Path, setting: str) -> Path:
    if path.suffix.lower() not in PHOTOGRAPHS + VIDEOS:
        raise ValueError(f"{setting}={str(path)!r}: expected {_kinds()}")
    return path


def _kinds() -> str:
    return f"an image ({', '.join(PHOTOGRAPHS)}) or a video ({', '.join(VIDEOS)})"


def _source(path: Path) -> MediaFile:
    known = path.stat()
    return MediaFile(path=path, size=known.st_size, modified_ns=known.st_mtime_ns)
