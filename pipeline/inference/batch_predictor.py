"""Prediction for a part of the pictures, which threads read ahead of the network."""

import io
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pipeline.data.loader import look_ahead
from pipeline.data.photographs.header import TooManyPixelsError
from pipeline.data.photographs.pixels import read_photograph
from pipeline.data.photographs.video import Video
from pipeline.data.shards.crop import CropDecoder, ImageRGBA
from pipeline.inference.boxes.matching import MatchedBoxes, Place
from pipeline.inference.predictor import Frame, Pose, Predictor, View
from pipeline.inference.results import Estimate, Failure, Found, FoundPerson, Part
from pipeline.inference.sources import MediaFile
from pipeline.io.inside import read_whole
from pipeline.run.checkpoint import Weights
from pipeline.settings.packing import MAX_PIXELS

# Pictures per thread that are read ahead of the network.
_AHEAD = 16


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of an estimator. Without `boxes` each picture counts as filled by one person.

    Paths of pictures are relative to `root`. Photographs of more than `max_pixels` are failures.
    """

    root: Path
    weights: Weights = "auto"
    exact: bool = False
    boxes: MatchedBoxes | None = None
    heatmaps: bool = False
    max_pixels: int = MAX_PIXELS
    threads: int = 1
    is_cuda: bool = False


# A picture: its estimate, still without people, and each person's place and view.
_Picture = tuple[Estimate, list[tuple[Place, View]]]


class Estimator:
    """Finds the joints of people in pictures. Raises ValueError as `Predictor`."""

    def __init__(self, checkpoint: Path, options: Options) -> None:
        device = torch.device("cuda" if options.is_cuda else "cpu")
        self.predictor = Predictor(checkpoint, device, options.weights, exact=options.exact)
        self.options = options
        self._decoders: deque[CropDecoder] = deque(
            CropDecoder(options.max_pixels) for _ in range(options.threads)
        )
        self._video: tuple[MediaFile, Video] | None = None

    def estimate(self, part: Part) -> Found:
        """Find everyone in a part. A picture that can't be read becomes a failure."""
        found = Found()
        pictures = self._frames(part, found) if part.frames else self._photographs(part, found)
        # Poses come in the order of the views.
        waiting: deque[tuple[Estimate, Place, View]] = deque()
        views = _views(pictures, waiting, found)
        for pose in self.predictor.predict(views, self.options.heatmaps):
            _add(pose, *waiting.popleft(), found)
        return found

    def _picture(
        self,
        image: ImageRGBA,
        source: MediaFile,
        frame: int | None = None,
        time_s: float | None = None,
        frames_per_s: float | None = None,
    ) -> _Picture:
        estimate = Estimate(
            file=str(source.path),
            size=source.size,
            modified_ns=source.modified_ns,
            width=image.shape[1],
            height=image.shape[0],
            people=[],
            frame=frame,
            time_s=time_s,
            frames_per_s=frames_per_s,
        )
        boxes = self.options.boxes
        whole = [Place(frame=Frame.of_whole(image))]
        places = whole if boxes is None else boxes.of(source.path, frame)
        return estimate, [(place, self.predictor.view(image, place.frame)) for place in places]

    def _photographs(self, part: Part, found: Found) -> Iterator[_Picture]:
        threads = self.options.threads
        for result in look_ahead(self._photograph, part.sources, threads, _AHEAD * threads):
            if isinstance(result, Failure):
                found.failures.append(result)
            else:
                yield result

    def _photograph(self, source: MediaFile) -> _Picture | Failure:
        # One per thread, as an image is valid until its decoder's next.
        decoder = self._decoders.popleft()
        try:
            data = read_whole(self.options.root / source.path)
            photograph = read_photograph(data, decoder, self.options.max_pixels)
            return self._picture(photograph.image, source)
        except TooManyPixelsError as error:
            return Failure(file=str(source.path), why=f"{error}; --max-pixels is the bound")
        except (OSError, ValueError) as error:
            return Failure(file=str(source.path), why=_reason(error))
        finally:
            self._decoders.append(decoder)

    def _frames(self, part: Part, found: Found) -> Iterator[_Picture]:
        (source,), (start, stop) = part.sources, part.frames or (0, 0)
        try:
            video = self._video_at(source, start)
            rate = video.frames_per_s()
            for number, image in video.frames(start, stop):
                yield self._picture(image, source, number, video.time_s(), rate)
            if video.position < stop:
                why = f"ends after {video.position} frames, fewer than its header states"
                found.failures.append(Failure(file=str(source.path), why=why))
        except (OSError, ValueError) as error:
            found.failures.append(Failure(file=str(source.path), why=_reason(error)))

    def _video_at(self, source: MediaFile, start: int) -> Video:
        """Return the video at or before frame `start`, opened again if it is past it."""
        if self._video is None or self._video[0] != source or self._video[1].position > start:
            if self._video is not None:
                self._video[1].close()
            self._video = source, Video(self.options.root / source.path)
        return self._video[1]


def _views(
    pictures: Iterable[_Picture], waiting: deque[tuple[Estimate, Place, View]], found: Found
) -> Iterator[View]:
    """Yield every person's view, and append the person to `waiting`."""
    for estimate, people in pictures:
        found.estimates.append(estimate)
        for place, view in people:
            waiting.append((estimate, place, view))
            yield view


def _add(pose: Pose, estimate: Estimate, place: Place, view: View, found: Found) -> None:
    """Add a pose to the people of its picture."""
    estimate.people.append(
        FoundPerson(
            joints=np.column_stack([pose.joints, pose.confidence]).tolist(),
            center=list(place.frame.center),
            scale=place.frame.scale,
            box=None if place.box is None else list(place.box),
            score=place.score,
        )
    )
    if pose.heatmaps is not None:
        name = file_name(estimate.file, estimate.frame, len(estimate.people))
        found.files[f"heatmaps/{name}.npz"] = _heatmap_file(pose.heatmaps, view)


def file_name(file: str, frame: int | None = None, person: int | None = None) -> str:
    """Return a prefix of file names, unique for the picture, frame and person (from 1)."""
    path = Path(file)
    # Keeps folders apart, and stays within the folder of the results.
    name = "/".join(part for part in path.parts if part not in (path.anchor, "..", "."))
    if frame is not None:
        name += f"/{frame:06d}"
    return name if person is None else f"{name}-{person}"


def _heatmap_file(heatmaps: np.ndarray, view: View) -> bytes:
    """Return an .npz of half-precision heatmaps and the matrix to the picture's pixels."""
    data = io.BytesIO()
    np.savez_compressed(data, heatmaps=heatmaps.astype(np.float16), to_picture=view.to_photograph)
    return data.getvalue()


def _reason(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
