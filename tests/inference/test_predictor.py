"""Prediction from images: the same joints as in evaluation, and refusals."""

import base64
import struct
import zlib

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from factories import checkpoint, photograph, samples

from pipeline.data.loader import SampleLoader
from pipeline.data.shards.crop import pixel_view
from pipeline.evaluation.evaluate import Evaluator
from pipeline.inference.predictor import Frame, Predictor
from pipeline.inference.pyfunc import ServedModel, columns_of
from pipeline.model.build import build_network
from pipeline.pose.geometry import transform
from pipeline.pose.joint_sets import MPII
from pipeline.settings.packing import CropSettings

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"evaluation.flip_test": False, "evaluation.decoding": "dark"},
        {"optim.loss": "cross-entropy"},
    ],
    ids=["the paper's", "plain", "cross-entropy"],
)
def test_joints_are_those_of_evaluation(tmp_path, changes):
    stored = CropSettings(person_px=64, margin=1.5, jpeg_quality=95)
    settings = checkpoint(tmp_path / "c", crop=stored, **changes)
    predictor, people = Predictor(tmp_path / "c", CPU, exact=True), samples(5)
    loader = SampleLoader(people, MPII, 64)
    network = build_network(settings.model, 0, CPU, zero_heads=False)
    batch = loader.batch(np.arange(5))
    evaluator = Evaluator(network=network, loader=loader, settings=settings, device=CPU)
    [expected] = evaluator.predict([batch])
    views = (
        predictor.view(
            cv2.cvtColor(photograph(seed=number), cv2.COLOR_RGB2RGBA),
            Frame(center=each.person.center, scale=each.person.scale),
        )
        for number, each in enumerate(people)
    )
    poses = list(predictor.predict(views))
    assert len(poses) == 5
    for pose, joints, confidence in zip(poses, expected.joints, expected.confidence, strict=True):
        assert pose.joints == pytest.approx(joints, abs=1e-3)
        assert pose.confidence == pytest.approx(confidence, abs=1e-6)


def test_a_photograph_is_seen_as_the_crops_of_the_evaluation_were_stored(tmp_path):
    stored = CropSettings(person_px=32, margin=1.5)
    checkpoint(tmp_path / "known", crop=stored)
    checkpoint(tmp_path / "unknown")
    image = cv2.cvtColor(photograph(400, 300), cv2.COLOR_RGB2RGBA)
    frame = Frame(center=(190.0, 140.0), scale=1.1)
    for name, expected in (("known", stored), ("unknown", CropSettings())):
        view = Predictor(tmp_path / name, CPU, exact=True).view(image, frame)
        seen = pixel_view(image, frame.center, frame.scale, 64, expected)
        assert np.array_equal(view.image, seen)
    assert not np.array_equal(seen, pixel_view(image, frame.center, frame.scale, 64, stored))


def test_confidence_is_a_share_of_the_target_s_peak(tmp_path):
    checkpoint(tmp_path / "one")
    checkpoint(tmp_path / "ten", **{"optim.target_peak": 10.0})
    found = []
    for name in ("one", "ten"):
        predictor = Predictor(tmp_path / name, CPU)
        image = predictor.read(cv2.imencode(".png", photograph())[1].tobytes())
        [pose] = predictor.predict([predictor.view(image, Frame.of_whole(image))])
        found.append(pose.confidence)
    assert found[0] == pytest.approx(10 * found[1])


def test_a_box_is_framed_a_quarter_wider_than_its_longer_side():
    assert Frame.of_box(10, 20, 80, 160) == Frame(center=(49.5, 99.5), scale=1.0)
    assert Frame.of_whole(np.zeros((160, 80, 4), np.uint8)) == Frame(center=(39.5, 79.5), scale=1.0)


# Tables


def test_a_table_gives_a_row_of_joints_for_each_of_its_people(tmp_path):
    checkpoint(tmp_path / "c")
    model, predictor = ServedModel(tmp_path / "c"), Predictor(tmp_path / "c", CPU, exact=True)
    png = cv2.imencode(".png", photograph())[1].tobytes()
    table = pd.DataFrame(
        {
            "image": [png, base64.b64encode(png).decode(), png],
            "x": [np.nan, 10.0, np.nan],
            "y": [np.nan, 20.0, np.nan],
            "width": [np.nan, 80.0, np.nan],
            "height": [np.nan, 40.0, np.nan],
            "center_x": [np.nan, np.nan, 100.0],
            "center_y": [np.nan, np.nan, 80.0],
            "scale": [np.nan, np.nan, 0.5],
        },
        index=[3, 5, 7],
    )
    found = model.predict(table)
    assert list(found.columns[:3]) == ["right_ankle_x", "right_ankle_y", "right_ankle_confidence"]
    assert list(found.columns) == columns_of(MPII)
    assert list(found.index) == [3, 5, 7]
    frames = [
        Frame.of_box(0, 0, 200, 160),
        Frame.of_box(10, 20, 80, 40),
        Frame(center=(100.0, 80.0), scale=0.5),
    ]
    views = [predictor.view(predictor.read(png), frame) for frame in frames]
    for (_, row), pose in zip(found.iterrows(), predictor.predict(views), strict=True):
        expected = np.column_stack([pose.joints, pose.confidence])
        assert row.to_numpy().reshape(16, 3) == pytest.approx(expected, abs=1e-4)


def png_of(width: int, height: int) -> bytes:
    """Return a PNG whose header has this size, without pixels."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", b""), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    )


JPEG = cv2.imencode(".jpg", photograph())[1].tobytes()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image": b"no image"}, r"not a readable image \(8 bytes\)"),
        ({"image": b""}, r"not a readable image \(0 bytes\)"),
        ({"image": JPEG[:200]}, r"not a readable image|damaged JPEG of 200 bytes"),
        ({"image": JPEG[: len(JPEG) // 2]}, "damaged JPEG of .*"),
        ({"image": png_of(64, 64)}, "not a readable image .*"),
        (
            {"image": png_of(10_000, 8_001)},
            "an image of 10000 x 8001 pixels, expected at most 40,000,000 in all",
        ),
        (
            {"image": png_of(100_000, 100_000)},
            "an image of 100000 x 100000 pixels, expected at most 40,000,000 in all",
        ),
        ({"image": "no base64!"}, "image is neither bytes nor base64: .*"),
        ({"image": 3}, "image must be bytes or base64, got int"),
        ({"x": 1.0, "y": 1.0}, "x, y, width, height go together, got x, y alone"),
        (
            {"x": 1.0, "y": 1.0, "width": 0.0, "height": 2.0},
            "a box must have width and height above 0, got 0.0 and 2.0",
        ),
        (
            {"x": 1.0, "y": 1.0, "width": np.inf, "height": 2.0},
            "width must be a finite number, got inf",
        ),
        (
            {"center_x": 1.0, "center_y": 1.0, "scale": -1.0},
            r"a frame needs a finite center and a scale above 0, got \(1.0, 1.0\) and -1.0",
        ),
        (
            {"x": 1.0, "y": 1.0, "width": 2.0, "height": 2.0}
            | {"center_x": 1.0, "center_y": 1.0, "scale": 1.0},
            "either x, y, width, height or center_x, center_y, scale, got both",
        ),
    ],
)
def test_an_unusable_row_is_refused_by_number(served, row, message):
    good = {"image": JPEG}
    with pytest.raises(ValueError, match=f"^row 1: {message}$"):
        served.predict(pd.DataFrame([good, good | row]))


def test_a_table_without_images_is_refused(served):
    with pytest.raises(ValueError, match=r"^one column 'image' is required, got \['picture'\]$"):
        served.predict(pd.DataFrame({"picture": [JPEG]}))
    with pytest.raises(ValueError, match=r"^one column 'image' is required, got \['image', 'image"):
        served.predict(pd.DataFrame([[JPEG, JPEG]], columns=["image", "image"]))
    with pytest.raises(ValueError, match=r"^expected one column 'x' at most, got \['image', 'x', "):
        served.predict(pd.DataFrame([[JPEG, 1, 2]], columns=["image", "x", "x"]))


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> ServedModel:
    folder = tmp_path_factory.mktemp("served") / "c"
    checkpoint(folder)
    return ServedModel(folder)


def test_a_grey_or_transparent_image_is_read_like_any_other(tmp_path):
    checkpoint(tmp_path / "c")
    predictor = Predictor(tmp_path / "c", CPU)
    grey = photograph()[:, :, 0]
    png = cv2.imencode(".png", cv2.merge([grey, grey, grey, np.full_like(grey, 255)]))[1].tobytes()
    alone = cv2.imencode(".png", grey)[1].tobytes()
    assert (predictor.read(png) == predictor.read(alone)).all()
    assert predictor.read(alone).shape == (160, 200, 4)


def test_heatmaps_come_with_the_pose_where_they_are_asked_for(tmp_path):
    checkpoint(tmp_path / "c", **{"evaluation.decoding": "argmax", "optim.target_peak": 4.0})
    predictor = Predictor(tmp_path / "c", CPU)
    image = predictor.read(cv2.imencode(".png", photograph())[1].tobytes())
    view = predictor.view(image, Frame.of_whole(image))
    [plain] = predictor.predict([view])
    [pose] = predictor.predict([view], with_heatmaps=True)
    assert plain.heatmaps is None
    assert pose.heatmaps is not None
    assert pose.heatmaps.shape == (16, 16, 16)
    assert pose.heatmaps.max(axis=(1, 2)) == pytest.approx(pose.confidence)
    tops = pose.heatmaps.reshape(16, -1).argmax(axis=1)
    pixels = np.stack([tops % 16, tops // 16], axis=-1).astype(float)
    assert transform(pixels, view.to_photograph) == pytest.approx(pose.joints)
