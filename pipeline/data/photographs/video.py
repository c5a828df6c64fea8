"""Frames of videos, read in order."""

from collections.abc import Iterator
from pathlib import Path

import cv2

from pipeline.data.shards.crop import ImageRGBA

SUFFIXES = (
    *(".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts"),
    *(".ogv", ".webm", ".wmv"),
)


class Video:
    """A video file, upright as players show it. Raises ValueError if it can't be opened.

    It is read forward only: most formats find a frame only approximately, by time.
    """

    def __init__(self, path: Path) -> None:
        # A relative path through a folder named http: would be an address to FFmpeg.
        self._capture = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG)
        if not self._capture.isOpened():
            raise ValueError("not a readable video")
        # The number of the next frame, from 0.
        self.position = 0

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the frames as they are read."""
        sides = cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT
        width, height = (int(self._capture.get(side)) for side in sides)
        return width, height

    def frames_by_header(self) -> int:
        """Return the header's number of frames; 0 if it has none."""
        return max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))

    def frames_per_s(self) -> float:
        """Return the header's mean frame rate; 0 if it has none."""
        return max(0.0, float(self._capture.get(cv2.CAP_PROP_FPS)))

    def time_s(self) -> float:
        """Return the time of the frame before `position` in seconds from the video's start."""
        return float(self._capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000

    def frames(self, start: int, stop: int) -> Iterator[tuple[int, ImageRGBA]]:
        """Yield numbered frames from `start`, at or after `position`, up to `stop` or the end."""
        assert start >= self.position, "a video is read forward"
        while self.position < stop and self._capture.grab():
            number, self.position = self.position, self.position + 1
            if number < start:
                continue
            is_decoded, frame = self._capture.retrieve()
            if not is_decoded:
                raise ValueError(f"frame {number} is damaged")
            yield number, cv2.cvtColor(frame, cv2.COLOR_BGR2RGBA)

    def close(self) -> None:
        """Release the file."""
        self._capture.release()


def count_frames(path: Path) -> int:
    """Count frames, by the header if it has their number, else by reading. Raises ValueError."""
    video = Video(path)
    try:
        return video.frames_by_header() or sum(1 for _ in video.frames(0, 2**62))
    finally:
        video.close()
