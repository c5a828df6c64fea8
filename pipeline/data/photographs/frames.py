"""Pictures by name: files, frames of videos, and frames that a SLEAP package embeds."""

from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import cv2
import numpy as np

from pipeline.data.photographs.files import find_photographs
from pipeline.data.photographs.header import Header, check_pixels, read_header
from pipeline.data.photographs.pixels import Photograph, open_photograph, read_photograph
from pipeline.data.photographs.video import Video
from pipeline.io.hdf5 import Hdf5File, as_text
from pipeline.pose.person import frame_of
from pipeline.settings.packing import AnnotationFiles

# SLEAP's first format that states the order of a picture's channels.
_FORMAT_IN_ORDER = 1.4


def sizes_of_pictures(files: AnnotationFiles, names: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Return width and height, as the annotations see them, of pictures that they name.

    Those that are absent, can't be read or are too large have none.
    """
    assert files.images is not None, "pictures lie in a folder"
    sizes: dict[str, tuple[int, int]] = {}
    with closing(Pictures(files.images, files.max_pixels)) as pictures:
        for name, path in find_photographs(files.images, dict.fromkeys(names)).paths.items():
            with suppress(OSError, ValueError):
                header = pictures.header(path)
                is_stored = files.exif == "stored"
                sizes[name] = header.stored_size if is_stored else header.upright_size
    return sizes


@runtime_checkable
class _Frames(Protocol):
    """Frames of one file, by their place in it."""

    def header(self, place: str) -> Header: ...

    def read(self, place: str) -> Photograph: ...

    def close(self) -> None: ...


class Pictures:
    """Reader of pictures below a folder, which keeps the last file of frames open.

    A name is a file's path, or of a frame PATH#NUMBER, as in `pipeline.pose.person`.
    """

    def __init__(self, folder: Path, max_pixels: int) -> None:
        self._folder = folder
        self._max_pixels = max_pixels
        self._open: tuple[str, _Frames] | None = None

    def header(self, name: str) -> Header:
        """Read a picture's header. Raises OSError, or ValueError like `read_header`."""
        path, place = frame_of(name)
        if place:
            return self._frames(path).header(place)
        with (self._folder / path).open("rb") as file:
            return read_header(file, self._max_pixels)

    def read(self, name: str) -> Photograph:
        """Read a picture. Raises OSError, or ValueError naming it."""
        path, place = frame_of(name)
        if not place:
            return open_photograph(self._folder / path, self._max_pixels)
        try:
            return self._frames(path).read(place)
        except ValueError as error:
            raise ValueError(f"{self._folder / path}: {error}") from None

    def close(self) -> None:
        """Close the file of frames."""
        if self._open:
            self._open[1].close()
            self._open = None

    def _frames(self, path: str) -> _Frames:
        if self._open is None or self._open[0] != path:
            self.close()
            kind = _Package if path.lower().endswith(".slp") else _VideoFrames
            self._open = path, kind(self._folder / path, self._max_pixels)
        return self._open[1]


class _VideoFrames:
    """Frames of a video, numbered from 0. It is read forward, from its start again to go back."""

    def __init__(self, path: Path, max_pixels: int) -> None:
        self._path = path
        self._video = Video(path)
        self._frames = self._video.frames_by_header()
        width, height = self._video.size
        check_pixels(width, height, max_pixels, "a video")
        self._header = Header(width=width, height=height)

    def header(self, place: str) -> Header:
        if self._frames and int(place) >= self._frames:
            raise ValueError(f"frame {place} is not among the video's {self._frames:,} frames")
        return self._header

    def read(self, place: str) -> Photograph:
        number = int(place)
        if number < self._video.position:
            self._video.close()
            self._video = Video(self._path)
        for _, image in self._video.frames(number, number + 1):
            return Photograph(image=image, header=self._header)
        raise ValueError(f"frame {number} is not among the video's {self._video.position:,} frames")

    def close(self) -> None:
        self._video.close()


class _Package:
    """Frames in a SLEAP package, as VIDEO/NUMBER: their number in the video they are from."""

    def __init__(self, path: Path, max_pixels: int) -> None:
        self._file = Hdf5File(path)
        self._max_pixels = max_pixels
        self._rows: dict[str, dict[int, int]] = {}

    def header(self, place: str) -> Header:
        return self.read(place).header

    def read(self, place: str) -> Photograph:
        group, _, number = place.partition("/")
        stored = self._file.array(f"{group}/video", self._row(group, int(number)))
        if stored.ndim == 1:
            data = stored.astype(np.uint8).tobytes()
            photograph = read_photograph(data, max_pixels=self._max_pixels)
            # Older files, and those that say so, hold pictures whose red and blue changed places.
            order = self._file.attribute(f"{group}/video", "channel_order")
            version = self._file.attribute("metadata", "format_id")
            is_old = order is None and (version is None or float(version) < _FORMAT_IN_ORDER)
            if not is_old and as_text(order) != "BGR":
                return photograph
            return replace(photograph, image=photograph.image[..., [2, 1, 0, 3]])
        if stored.ndim != 3 or stored.shape[-1] not in (1, 3):
            raise ValueError(f"frame {place} has shape {stored.shape}, expected a picture")
        conversion = cv2.COLOR_GRAY2RGBA if stored.shape[-1] == 1 else cv2.COLOR_RGB2RGBA
        image = cv2.cvtColor(np.ascontiguousarray(stored, np.uint8), conversion)
        return Photograph(image=image, header=Header(width=image.shape[1], height=image.shape[0]))

    def _row(self, group: str, number: int) -> int:
        if group not in self._rows:
            numbers = self._file.array(f"{group}/frame_numbers").ravel().tolist()
            self._rows[group] = {int(number): row for row, number in enumerate(numbers)}
        if number not in self._rows[group]:
            raise ValueError(f"{group} embeds no frame {number}")
        return self._rows[group][number]

    def close(self) -> None:
        self._file.close()
