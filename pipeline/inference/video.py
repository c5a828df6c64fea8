"""Frames of a video, read one after another."""

from collections.abc import Iterator
from pathlib import Path

import cv2

from pipeline.data.shards.crop import ImageRGBA


class Video:
    """A video file, upright as players show it. Raises ValueError if it can't be opened.

    A place in it is reached by passing over the frames before: most formats
    reach another only by guessing from times.
    """

    def __init__(self, path: Path) -> None:
        self._capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
        if not self._capture.isOpened():
            raise ValueError("not a readable video")
        self._next = 0

    def frames_said(self) -> int:
        """How many frames its header says it has; 0 where it doesn't say."""
        return max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))

    def frames_per_s(self) -> float:
        """Its mean rate; 0 where it doesn't say."""
        return max(0.0, float(self._capture.get(cv2.CAP_PROP_FPS)))

    @property
    def position(self) -> int:
        """The frame that comes next, counted from 0."""
        return self._next

    def frames(self, start: int, stop: int) -> Iterator[tuple[int, ImageRGBA]]:
        """Yield frames from `start`, which must not lie behind, up to `stop`, or to the video's end, with their numbers."""
        assert start >= self._next, "a video is read forward"
        while self._next < stop and self._capture.grab():
            number, self._next = self._next, self._next + 1
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
    """How many frames a video has, by its header or, where that doesn't say, by reading it. Raises ValueError."""
    video = Video(path)
    try:
        return video.frames_said() or sum(1 for _ in video.frames(0, 2**62))
    finally:
        video.close()
