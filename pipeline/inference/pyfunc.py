"""Prediction for tables of images: the pyfunc model that MLflow loads from a checkpoint."""

import base64
import binascii
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from pipeline.inference.predictor import Frame, Predictor, View
from pipeline.inference.request import (
    MOST_PIXELS,
    check_bytes,
    check_pixels_in_all,
    check_rows,
)
from pipeline.inference.serving import guard_server
from pipeline.io.parsing import number_of
from pipeline.pose.joint_sets import JointSet

IMAGE = "image"
BOX = ("x", "y", "width", "height")
FRAME = ("center_x", "center_y", "scale")


def columns_of(joint_set: JointSet) -> list[str]:
    """Return the columns of a table of predictions: x, y and confidence of every joint."""
    return [f"{joint}_{what}" for joint in joint_set.joints for what in ("x", "y", "confidence")]


class ServedModel:
    """Predictor of the joints of a table's people."""

    def __init__(self, folder: Path) -> None:
        # Exact, so that results do not depend on the CPU that serves them.
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._predictor = Predictor(folder, device, exact=True)

    def predict(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return x, y (pixels of the image, the first one's centre at 0) and confidence of joints.

        There is one row per person. `image` has an image file's bytes, or these in base64. A
        person is in a box `x`, `y`, `width`, `height` in pixels, or in a frame `center_x`,
        `center_y` and `scale` of side 200 * scale; without either it fills the image. Raises
        ValueError naming the row that can't be read, or a bound that the table exceeds.
        """
        poses = self._predictor.predict(self._views(table))
        rows = [np.column_stack([pose.joints, pose.confidence]).ravel().tolist() for pose in poses]
        return pd.DataFrame(rows, columns=columns_of(self._predictor.joint_set), index=table.index)

    def _views(self, table: pd.DataFrame) -> Iterator[View]:
        columns = list(table.columns)
        if columns.count(IMAGE) != 1:
            raise ValueError(f"one column {IMAGE!r} is required, got {columns!r:.200}")
        if twice := [name for name in (*BOX, *FRAME) if columns.count(name) > 1]:
            raise ValueError(f"expected one column {twice[0]!r} at most, got {columns!r:.200}")
        check_rows(len(table))
        check_bytes(sum(len(v) for v in table[IMAGE] if isinstance(v, str | bytes | bytearray)))
        pixels = 0
        for number, row in enumerate(table.to_dict("records")):
            try:
                image = self._predictor.read(_bytes_of(row[IMAGE]), MOST_PIXELS)
                pixels += image.shape[0] * image.shape[1]
                check_pixels_in_all(pixels)
                frame = _frame_of(row)
                yield self._predictor.view(image, frame or Frame.of_whole(image))
            except ValueError as error:
                raise ValueError(f"row {number}: {error}") from None


def _bytes_of(value: Any) -> bytes:
    if isinstance(value, str):
        try:
            value = base64.b64decode(value, validate=True)
        except binascii.Error as error:
            raise ValueError(f"{IMAGE} is neither bytes nor base64: {error}") from None
    if not isinstance(value, bytes | bytearray):
        raise ValueError(f"{IMAGE} must be bytes or base64, got {type(value).__name__}")
    return bytes(value)


def _frame_of(row: Mapping[Any, Any]) -> Frame | None:
    """Return a row's frame, if it has one. Raises ValueError for parts of one, or for two."""
    box, frame = _given(row, BOX), _given(row, FRAME)
    if box and frame:
        raise ValueError(f"either {', '.join(BOX)} or {', '.join(FRAME)}, got both")
    if box:
        return Frame.of_box(*box)
    return Frame(center=(frame[0], frame[1]), scale=frame[2]) if frame else None


def _given(row: Mapping[Any, Any], names: tuple[str, ...]) -> list[float]:
    values = [(name, row.get(name)) for name in names]
    # Where other rows of a table have a value, an absent one is NaN.
    found = {n: number_of(v, n) for n, v in values if not (v is None or v != v)}
    if found and len(found) < len(names):
        raise ValueError(f"{', '.join(names)} go together, got {', '.join(found)} alone")
    return list(found.values())


def _load_pyfunc(path: str) -> ServedModel:
    """Load the checkpoint in the folder `path`; MLflow calls this."""
    guard_server()
    return ServedModel(Path(path))
