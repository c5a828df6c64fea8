"""Bytes that unfold: pictures are refused by their header, before memory is asked for."""

import io
import struct
from dataclasses import replace

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from factories import photograph, sample
from hostile_pictures import HOSTILE
from memory import run_limited
from PIL import Image

from pipeline.data.loader import SampleLoader
from pipeline.data.photographs.header import TooManyPixelsError, read_header
from pipeline.data.photographs.pixels import read_photograph
from pipeline.data.shards.crop import CropDecoder, decode_image
from pipeline.data.shards.reader import ShardReader
from pipeline.inference.boxes.files import read_boxes
from pipeline.pose.joint_sets import MPII

# Pictures

# With 32 MiB to spare, a decoder that asks for the pixels first dies of it.
DECODED = """
import sys
from hostile_pictures import HOSTILE
from memory import limit_memory
from pipeline.data.photographs.header import _known_kinds
from pipeline.data.photographs.pixels import read_photograph
from pipeline.data.shards.crop import CropDecoder

_known_kinds()
decode = CropDecoder().decode
others = {path: open(path, "rb").read() for path in sys.argv[1:]}
limit_memory(32 * 2**20)
for name, data in (HOSTILE | others).items():
    for how in (read_photograph, decode):
        try:
            how(data)
            print(name, "is decoded")
        except ValueError as error:
            print(error)
"""


def expect_refusals(lines: list[str], count: int) -> None:
    assert len(lines) == 2 * count
    known = ("an image of ", "not a readable image ")
    assert [line for line in lines if not line.startswith(known)] == []


def test_pictures_that_state_gigabytes_are_refused_without_them():
    lines = run_limited(DECODED)
    expect_refusals(lines, len(HOSTILE))
    assert sum(line.startswith("an image of ") for line in lines) == 2 * len(HOSTILE)


@pytest.mark.parametrize("box", [struct.pack(">I4s", 4, b"aaaa"), b"\0\0\0", b""])
def test_boxes_of_a_jpeg_2000_that_lead_nowhere_are_refused(box):
    data = HOSTILE["jpeg2000 of tiles"]
    with pytest.raises(ValueError, match=r"^not a readable image"):
        read_photograph(data[: data.index(b"jp2c") - 4] + box)


def test_the_pictures_kept_as_hostile_are_refused(hostile_dir):
    files = [hostile_dir / "bomb_65500.jpg", hostile_dir / "wide.bmp"]
    expect_refusals(run_limited(DECODED, *map(str, files)), len(HOSTILE) + len(files))


def test_a_stored_picture_that_states_too_much_is_a_bad_sample(pack):
    one, *others = (sample(number) for number in range(len(HOSTILE) + 1))
    bad = [
        replace(other, crop=replace(other.crop, jpeg=data))
        for other, data in zip(others, HOSTILE.values(), strict=True)
    ]
    [path] = pack([one, *bad])
    loader = SampleLoader(ShardReader([str(path)]), MPII, 64, len(bad))
    batch = loader.batch(np.arange(len(bad) + 1))
    assert batch.positions.tolist() == [0]
    assert len(loader.bad.found) == len(HOSTILE)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_the_bound_on_pixels_is_a_setting_of_every_decoder(kind):
    file = io.BytesIO()
    Image.fromarray(photograph(200, 160)).save(file, kind)
    data = file.getvalue()
    for decode in (
        lambda most: read_header(io.BytesIO(data), most),
        lambda most: read_photograph(data, max_pixels=most),
        lambda most: read_photograph(data, CropDecoder(most), most),
        lambda most: CropDecoder(most).decode(data),
        lambda most: decode_image(data, most),
    ):
        decode(32_000)
        with pytest.raises(TooManyPixelsError, match="200 x 160 pixels, expected at most 31,999"):
            decode(31_999)


def test_a_stored_picture_with_a_longer_side_than_is_warped_is_a_bad_sample(pack):
    wide = cv2.imencode(".jpg", np.zeros((8, 40_000, 3), np.uint8))[1].tobytes()
    good = sample()
    [path] = pack([replace(good, crop=replace(good.crop, jpeg=wide))])
    loader = SampleLoader(ShardReader([str(path)]), MPII, 64, 1)
    assert len(loader.batch(np.arange(1))) == 0
    assert "an image of 40000 x 8 pixels, expected sides below 32,767" in loader.bad.found[0]


# Tables


@pytest.mark.parametrize(
    "columns",
    [
        # A number, and a text of a megabyte, that stand in the file once.
        {"image": ["a.jpg"] * 10, "x": [[0.0] * 1_000_000] * 10},
        {"image": pa.DictionaryArray.from_arrays([0] * 100, ["x" * 2**20])},
    ],
    ids=["numbers", "texts"],
)
def test_a_parquet_table_that_unfolds_is_refused(tmp_path, columns):
    path = tmp_path / "boxes.parquet"
    pq.write_table(pa.table(columns), path, compression="zstd")
    assert path.stat().st_size < 2**20
    with pytest.raises(ValueError, match=r"boxes\.parquet would unfold to .* at most 67,108,864"):
        read_boxes(path)
