"""A checkpoint at work on a part of the pictures: reads them on threads ahead of the network."""

import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self, TypeVar

import numpy as np
import torch

from pipeline.data.shards.crop import CropDecoder, ImageRGBA
from pipeline.inference.boxes import MatchedBoxes, Place
from pipeline.inference.predictor import Frame, Pose, Predictor, View, read_photograph
from pipeline.inference.results import Estimate, Failure, Found, FoundPerson, Part
from pipeline.inference.sources import MediaFile
from pipeline.inference.video import Video
from pipeline.run.checkpoint import Weights

Item = TypeVar("Item")
Result = TypeVar("Result")

# Pictures whose crops lie ready for the network, for every thread.
_AHEAD = 16


@dataclass(frozen=True, kw_only=True)
class Options:
    """How people are found; where `boxes` is None, each picture is taken to hold one person who fills it.

    Relative paths of pictures begin at `root`.
    """

    root: Path
    weights: Weights = "auto"
    exact: bool = False
    boxes: MatchedBoxes | None = None
    heatmaps: bool = False
    threads: int = 1
    is_cuda: bool = False


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """A picture as the network sees it: everything of its estimate but the joints."""

    estimate: Estimate
    places: list[Place]
    views: list[View]

    @classmethod
    def of(
        cls, image: ImageRGBA, source: MediaFile, frame: int | None, estimator: "Estimator"
    ) -> Self:
        height, width = image.shape[:2]
        boxes = estimator.options.boxes
        places = (
            [Place(frame=Frame.of_whole(image))] if boxes is None else boxes.of(source.path, frame)
        )
        return cls(
            estimate=Estimate(
                file=str(source.path),
                size=source.size,
                modified_ns=source.modified_ns,
                width=width,
                height=height,
                people=[],
                frame=frame,
            ),
            places=places,
            views=[estimator.predictor.view(image, place.frame) for place in places],
        )


class Estimator:
    """Finds the joints of people in pictures. Raises ValueError as `Predictor`."""

    def __init__(self, checkpoint: Path, options: Options) -> None:
        device = torch.device("cuda" if options.is_cuda else "cpu")
        self.predictor = Predictor(checkpoint, device, options.weights, exact=options.exact)
        self.options = options
        self._decoders: deque[CropDecoder] = deque(CropDecoder() for _ in range(options.threads))
        self._video: tuple[MediaFile, Video] | None = None

    def estimate(self, part: Part) -> Found:
        """Find everyone in a part. What can't be read is a failure of its own, and the rest is done."""
        found = Found()
        seen = self._frames(part, found) if part.frames else self._photographs(part, found)
        waiting: deque[_Seen] = deque()
        for pose in self.predictor.predict(_views(seen, waiting, found), self.options.heatmaps):
            while not waiting[0].views:
                waiting.popleft()
            _keep(pose, waiting[0], found)
            waiting[0].views.pop(0)
        return found

    def _photographs(self, part: Part, found: Found) -> Iterator[_Seen]:
        with ThreadPoolExecutor(self.options.threads) as threads:
            ahead = _AHEAD * self.options.threads
            for result in _in_order(threads, self._photograph, part.sources, ahead):
                if isinstance(result, Failure):
                    found.failures.append(result)
                else:
                    yield result

    def _photograph(self, source: MediaFile) -> _Seen | Failure:
        # Each thread has one of them; what it decodes is valid until its next.
        decoder = self._decoders.popleft()
        try:
            image = read_photograph((self.options.root / source.path).read_bytes(), decoder)
            return _Seen.of(image, source, None, self)
        except (OSError, ValueError) as error:
            return Failure(file=str(source.path), why=_reason(error))
        finally:
            self._decoders.append(decoder)

    def _frames(self, part: Part, found: Found) -> Iterator[_Seen]:
        (source,), (start, stop) = part.sources, part.frames or (0, 0)
        try:
            video = self._video_at(source, start)
            last = start - 1
            for number, image in video.frames(start, stop):
                last = number
                yield _Seen.of(image, source, number, self)
            if last + 1 < stop:
                why = f"ends after {last + 1} frames, its header says more"
                found.failures.append(Failure(file=str(source.path), why=why))
        except (OSError, ValueError) as error:
            found.failures.append(Failure(file=str(source.path), why=_reason(error)))

    def _video_at(self, source: MediaFile, start: int) -> Video:
        """The video, opened where it can be read on from `start`."""
        if self._video is None or self._video[0] != source or self._video[1].position > start:
            if self._video is not None:
                self._video[1].close()
            self._video = source, Video(self.options.root / source.path)
        return self._video[1]


def _views(seen: Iterable[_Seen], waiting: deque[_Seen], found: Found) -> Iterator[View]:
    """Pass on every person's view, and note whose pose comes when."""
    for picture in seen:
        found.estimates.append(picture.estimate)
        if picture.views:
            waiting.append(replace(picture, views=list(picture.views)))
            yield from picture.views


def _keep(pose: Pose, picture: _Seen, found: Found) -> None:
    """Add a pose to its picture's people."""
    people = picture.estimate.people
    place = picture.places[len(people)]
    joints = np.column_stack([pose.joints, pose.confidence])
    people.append(
        FoundPerson(
            joints=joints.tolist(),
            center=list(place.frame.center),
            scale=place.frame.scale,
            box=None if place.box is None else list(place.box),
            score=place.score,
        )
    )
    if pose.heatmaps is not None:
        name = file_name(picture.estimate.file, picture.estimate.frame, len(people))
        found.files[f"heatmaps/{name}.npz"] = _heatmap_file(pose.heatmaps, picture.views[0])


def file_name(file: str, frame: int | None = None, person: int | None = None) -> str:
    """The beginning of a name that no other picture or person of the inputs has; `person` counts from 1."""
    path = Path(file)
    # Folders stay apart, and none leads out of the folder that the file will lie in.
    name = "/".join(part for part in path.parts if part not in (path.anchor, "..", "."))
    if frame is not None:
        name += f"/{frame:06d}"
    return name if person is None else f"{name}-{person}"


def _heatmap_file(heatmaps: np.ndarray, view: View) -> bytes:
    """Heatmaps (joint, height, width) in half precision, and the matrix from their pixels to the picture's."""
    data = io.BytesIO()
    np.savez_compressed(data, heatmaps=heatmaps.astype(np.float16), to_picture=view.to_photograph)
    return data.getvalue()


def _reason(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


def _in_order(
    threads: ThreadPoolExecutor,
    work: Callable[[Item], Result],
    items: Iterable[Item],
    ahead: int,
) -> Iterator[Result]:
    """Yield what `work` makes of each item, in order, at most `ahead` of them before they are asked for."""
    pending: deque[Future[Result]] = deque()
    for item in items:
        pending.append(threads.submit(work, item))
        if len(pending) > ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()
