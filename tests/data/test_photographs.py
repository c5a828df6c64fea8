"""Photographs: every kind is read alike, upright, bounded, and with values of 8 bits."""

import io
import re
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from answering_server import answering
from factories import film, person, photograph
from PIL import Image, ImageOps

from pipeline.data.photographs.files import find_photographs
from pipeline.data.photographs.header import SUFFIXES, Header, TooManyPixelsError, read_header
from pipeline.data.photographs.orientation import held_upright, orientations
from pipeline.data.photographs.pixels import open_photograph, read_photograph, rgb
from pipeline.data.photographs.video import Video
from pipeline.inference.sources import find_sources
from pipeline.pose.joint_sets import MPII
from pipeline.pose.person import Visibility

MIRROR = MPII.mirror


def encoded(image: Image.Image | np.ndarray, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    picture.save(file, kind, **options)
    return file.getvalue()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def pixels_of(data: bytes) -> np.ndarray:
    return rgb(read_photograph(data))


# Kinds


@pytest.mark.parametrize(
    ("kind", "tolerance"),
    [
        ("AVIF", 12),
        ("BMP", 0),
        ("GIF", 40),
        ("JPEG", 12),
        ("JPEG2000", 12),
        ("PNG", 0),
        ("PPM", 0),
        ("TGA", 0),
        ("TIFF", 0),
        ("WEBP", 30),
    ],
)
def test_every_kind_shows_the_photograph(kind, tolerance):
    found = pixels_of(encoded(photograph(), kind))
    assert found.shape == (160, 200, 3)
    assert np.abs(found.astype(int) - photograph()).mean() <= tolerance / 2
    assert np.abs(found[80, 100].astype(int) - photograph()[80, 100]).max() <= tolerance


def test_prediction_lists_every_kind_that_is_read(tmp_path):
    for suffix in SUFFIXES:
        (tmp_path / f"a{suffix}").touch()
    (tmp_path / "notes.txt").touch()
    found = find_sources([str(tmp_path)])
    assert len(found.files) == len(SUFFIXES)
    assert found.others == 1


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("L", "JPEG"),
        ("CMYK", "JPEG"),
        ("CMYK", "TIFF"),
        ("RGBA", "PNG"),
        ("LA", "PNG"),
    ],
)
def test_every_colour_mode_is_read_as_rgb(mode, kind):
    grey = Image.new("RGB", (32, 24), (90, 90, 90)).convert(mode)
    assert np.abs(pixels_of(encoded(grey, kind))[12, 16].astype(int) - 90).max() <= 3


def test_a_cmyk_photograph_is_read_in_its_colours():
    picture = Image.new("RGB", (32, 24), (200, 100, 30)).convert("CMYK")
    found = pixels_of(encoded(picture, "JPEG", quality=95))
    assert found.shape == (24, 32, 3)
    assert np.abs(found[12, 16].astype(int) - (200, 100, 30)).max() <= 6


def test_transparent_colours_of_a_palette_are_read_without_a_warning():
    palette = Image.new("RGB", (32, 24), (200, 100, 30)).quantize(4)
    data = encoded(palette, "PNG", transparency=bytes([0, 128, 255, 255]))
    assert pixels_of(data)[12, 16].tolist() == [200, 100, 30]


HEIC_START = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


def test_heic_is_named_with_the_extra_that_reads_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    message = "a HEIC image, which needs the extra heic: pip install 'hourglass-ray[heic]'"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read_photograph(HEIC_START)


def test_heic_is_read_where_its_extra_is_installed():
    pytest.importorskip("pillow_heif")
    # Before anything is saved, the reader has to make the kind known.
    with pytest.raises(ValueError, match="not a readable HEIC image"):
        read_photograph(HEIC_START)
    found = pixels_of(encoded(photograph(), "HEIF", quality=95))
    assert np.abs(found.astype(int) - photograph()).mean() < 8


# Damage and size


@pytest.mark.parametrize("data", [b"", b"<html>404</html>", encoded(photograph(), "PNG")[:300]])
def test_bytes_that_are_no_image_are_refused(tmp_path, data):
    path = tmp_path / "page.jpg"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"page\.jpg: not a readable image \({len(data)} bytes\)"):
        open_photograph(path)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "GIF", "AVIF", "JPEG2000"])
@pytest.mark.parametrize("share", [0.02, 0.6])
def test_a_photograph_that_is_cut_off_is_refused(kind, share):
    data = encoded(photograph(), kind)
    with pytest.raises(ValueError, match=r"not a readable image|damaged|truncated"):
        read_photograph(data[: int(share * len(data))])


def png_of(width: int, height: int) -> bytes:
    """Return a PNG whose header has this size, without pixels."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
        for name, content in ((b"IHDR", head), (b"IDAT", b""), (b"IEND", b""))
    )


def test_the_bound_in_pixels_is_checked_before_memory_is_asked_for():
    message = "an image of 20000 x 9000 pixels, expected at most 80,000,000 in all"
    with pytest.raises(TooManyPixelsError, match=f"^{message}$"):
        read_photograph(png_of(20_000, 9_000))
    with pytest.raises(TooManyPixelsError, match="65000 x 65000 pixels"):
        read_photograph(png_of(65_000, 65_000))
    data = encoded(photograph(), "PNG")
    assert pixels_of(data).shape == read_photograph(data, max_pixels=32_000).image.shape[:2] + (3,)
    with pytest.raises(TooManyPixelsError, match="at most 31,999 in all"):
        read_photograph(data, max_pixels=31_999)


# Depth


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".jp2", ".pgm"])
def test_values_of_more_than_8_bits_are_scaled_by_the_depth_of_the_highest(bits, suffix):
    most = 2**bits - 1
    grey = np.array([[0, most // 2, most]] * 3, np.uint16).repeat(24, 0).repeat(24, 1)
    found = read_photograph(cv2.imencode(suffix, grey)[1].tobytes())
    assert found.conversion == f"{bits} bits a channel scaled to 8"
    assert found.image[36, [12, 36, 60], 0].tolist() == [0, 127, 255]
    assert (found.image[..., 0] == found.image[..., 2]).all()


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jp2", ".ppm"])
def test_colours_of_12_bits_are_scaled_in_order(suffix):
    bgr = np.full((64, 64, 3), (257, 2056, 4095), np.uint16)
    found = read_photograph(cv2.imencode(suffix, bgr)[1].tobytes())
    assert found.depth == 12
    assert found.image[8, 8].tolist() == [255, 128, 16, 255]


def test_8_bits_in_a_file_of_16_stay_as_they_are():
    grey = np.full((8, 8), 200, np.uint16)
    found = read_photograph(cv2.imencode(".png", grey)[1].tobytes())
    assert found.conversion == ""
    assert found.image[4, 4].tolist() == [200, 200, 200, 255]


COLOURS = np.full((8, 8, 3), 0.5, np.float32)


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (cv2.imencode(".hdr", COLOURS)[1].tobytes(), "a Radiance HDR image; convert it to PNG"),
        (cv2.imencode(".pfm", COLOURS)[1].tobytes(), "a PFM image in colour; convert it to PNG"),
        (
            cv2.imencode(".tiff", COLOURS)[1].tobytes(),
            "a damaged TIFF, or one of values that are not read, such as a camera's raw file or "
            "three channels of floating point; convert it to 8 or 16 bits a channel",
        ),
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            "a pointer of Git LFS; fetch the image by git lfs pull",
        ),
        (b"<!DOCTYPE html>", "a text such as SVG or a web page; export an image"),
        (b"no image", ""),
    ],
)
def test_a_file_of_another_kind_is_named_with_the_way_out(data, named):
    said = f"not a readable image ({len(data)} bytes)" + f": {named}" * bool(named)
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        read_photograph(data)


@pytest.mark.parametrize(("value", "shown"), [(0.5, 128), (200.0, 200), (4095.0, 255)])
def test_floating_point_is_a_share_or_a_value(value, shown):
    grey = np.full((8, 8), value, np.float32)
    found = read_photograph(encoded(grey, "TIFF"))
    assert found.image[4, 4, 0] == shown
    assert found.conversion == "floating point scaled to 8"


@pytest.mark.parametrize("value", [-1, 70_000, np.nan, np.inf])
def test_values_that_no_photograph_has_are_refused(value):
    grey = np.full((8, 8), value, np.int32 if value in (-1, 70_000) else np.float32)
    with pytest.raises(ValueError, match=r"^an image with values from .*, expected 0 to 65,535$"):
        read_photograph(encoded(grey, "TIFF"))


# Orientation


def corners() -> np.ndarray:
    """Return 24x16 pixels with another grey in each quarter."""
    return np.kron(np.array([[40, 90], [160, 240]]), np.ones((8, 12))).astype(np.uint8)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_a_photograph_is_held_upright_as_exif_says(orientation, kind):
    data = encoded(corners(), kind, exif=turned(orientation))
    source = Image.fromarray(corners())
    source.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(source))
    found = read_photograph(data)
    assert found.header.upright_size == expected.shape[::-1]
    assert found.header.stored_size == (24, 16)
    assert found.image.shape[:2] == expected.shape
    assert np.abs(found.image[3::4, 3::4, 0].astype(int) - expected[3::4, 3::4]).max() <= 12


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_deep_photographs_are_held_upright_too(orientation):
    deep = corners().astype(np.uint16) * 16
    source = Image.fromarray(corners())
    source.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(source)).astype(int)
    for kind in ("PNG", "TIFF"):
        found = read_photograph(encoded(deep, kind, exif=turned(orientation))).image
        assert np.abs(found[..., 0] - expected).max() <= 1


def test_the_orientation_after_a_pngs_pixels_is_found_without_decoding_them():
    data = encoded(photograph(), "PNG")
    exif = turned(6).tobytes()[6:]
    chunk = struct.pack(">I", len(exif)) + b"eXIf" + exif
    chunk += struct.pack(">I", zlib.crc32(chunk[4:]))
    header = read_header(io.BytesIO(data[:-12] + chunk + data[-12:]), 10**6)
    assert header == Header(width=200, height=160, orientation=6)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_joints_of_the_stored_photograph_lie_on_the_same_pixel_upright(orientation):
    stored = np.zeros((16, 24), np.uint8)
    stored[5, 20] = 255
    header = Header(width=24, height=16, orientation=orientation)
    found = read_photograph(encoded(stored, "PNG", exif=turned(orientation)))
    row, column = np.argwhere(found.image[..., 0] == 255)[0].tolist()
    made = person(joints=((20.0, 5.0),) * 16, center=(20.0, 5.0), box=(18.0, 4.0, 5.0, 3.0))
    upright = held_upright(replace(made, image_size=(24, 16)), header, MIRROR)
    assert set(upright.joints) == {(column, row)}
    assert upright.center == (column, row)
    left, top, width, height = upright.box
    assert (left + width / 2 - 0.5, top + height / 2 - 0.5) == (column, row)
    assert (width, height) == ((3.0, 5.0) if orientation > 4 else (5.0, 3.0))
    assert upright.image_size == found.image.shape[1::-1]


@pytest.mark.parametrize(
    ("orientation", "is_mirrored"), [(2, True), (3, False), (5, True), (6, False)]
)
def test_left_and_right_change_places_where_exif_mirrors(orientation, is_mirrored):
    states = (Visibility.OCCLUDED, *[Visibility.VISIBLE] * 15)
    header = Header(width=200, height=160, orientation=orientation)
    upright = held_upright(person(visibility=states), header, MIRROR)
    ankles = ("right_ankle", "left_ankle")
    occluded = MPII.joints[upright.visibility.index(Visibility.OCCLUDED)]
    assert occluded == ankles[is_mirrored]


def test_sizes_in_the_annotations_tell_how_photographs_are_held():
    headers = {
        "a.jpg": Header(width=24, height=16, orientation=6),
        "b.jpg": Header(width=24, height=16, orientation=3),
        "c.jpg": Header(width=24, height=16),
    }

    def people(size):
        sizes = {"a.jpg": size, "b.jpg": (24, 16), "c.jpg": (24, 16)}
        return [person(image=image, image_size=sizes[image]) for image in sizes]

    # The half turn of b.jpg changes no size, so it is held as a.jpg.
    assert orientations(people((24, 16)), headers, "upright") == {
        "a.jpg": "stored",
        "b.jpg": "stored",
    }
    assert orientations(people((16, 24)), headers, "stored") == {
        "a.jpg": "upright",
        "b.jpg": "upright",
    }
    assert orientations(people(None), headers, "stored") == {"a.jpg": "stored", "b.jpg": "stored"}


# Names


def made_folder(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "day/a.jpg",
        "./day/a.jpg",
        r"day\a.jpg",
        r"C:\pictures\day\a.jpg",
        r"\\server\share\day\a.jpg",
        "/home/me/day/a.jpg",
        "https://host/pictures/day/a.jpg",
        "s3://bucket/day/a.jpg?X-Signature=1&expires=2",
        "/data/upload/1/day/a.jpg",
    ],
)
def test_a_photograph_is_found_however_its_path_is_written(tmp_path, name):
    made_folder(tmp_path, "day/a.jpg")
    assert find_photographs(tmp_path, [name]).paths == {name: "day/a.jpg"}


def test_a_file_that_label_studio_renamed_is_found(tmp_path):
    made_folder(tmp_path, "a.jpg", "0123abcd-b.jpg")
    names = ["/data/upload/1/0123abcd-a.jpg", "/data/upload/1/0123abcd-b.jpg"]
    assert find_photographs(tmp_path, names).paths == {
        names[0]: "a.jpg",
        names[1]: "0123abcd-b.jpg",
    }


def test_a_name_is_found_in_either_unicode_form(tmp_path):
    made_folder(tmp_path, "cafe\u0301.jpg")
    assert find_photographs(tmp_path, ["caf\u00e9.jpg"]).paths == {
        "caf\u00e9.jpg": "cafe\u0301.jpg"
    }


def test_a_literal_backslash_comes_first(tmp_path):
    made_folder(tmp_path, r"day\a.jpg", "day/a.jpg")
    assert find_photographs(tmp_path, [r"day\a.jpg"]).paths == {r"day\a.jpg": r"day\a.jpg"}


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("ONE-1.JPG", "one-1.jpg"),
        ("other/one-1.jpg", "one-1.jpg"),
        ("one-1.jpeg", "one-1.jpg"),
        ("one-2.jpg", None),
        ("quite another.png", None),
    ],
)
def test_the_nearest_file_that_no_other_name_means_is_offered(tmp_path, name, near):
    made_folder(tmp_path, "one-1.jpg", "one-3.jpg", "notes.txt")
    found = find_photographs(tmp_path, ["one-3.jpg", name])
    assert found.missing == {name: near}


def test_a_photograph_outside_the_folder_is_refused(tmp_path):
    made_folder(tmp_path, "images/a.jpg", "secret.jpg")
    message = "image '../secret.jpg' lies outside --images .*, expected a path below it"
    with pytest.raises(ValueError, match=message):
        find_photographs(tmp_path / "images", ["../secret.jpg"])


def test_a_photograph_to_which_a_link_leads_out_of_the_folder_is_refused(tmp_path):
    made_folder(tmp_path, "images/a.jpg", "secret.jpg", "others/b.jpg")
    (tmp_path / "images" / "link.jpg").symlink_to("../secret.jpg")
    (tmp_path / "images" / "more").symlink_to(tmp_path / "others")
    (tmp_path / "images" / "cafe\u0301.jpg").symlink_to("../secret.jpg")
    for name in ("link.jpg", "more/b.jpg", "caf\u00e9.jpg", "/elsewhere/link.jpg"):
        with pytest.raises(ValueError, match=r"leads out of .* by a link, .* \(cp -rL"):
            find_photographs(tmp_path / "images", ["a.jpg", name])


def test_links_to_the_folder_and_within_it_are_followed(tmp_path):
    made_folder(tmp_path, "images/2024/a.jpg")
    (tmp_path / "images" / "b.jpg").symlink_to("2024/a.jpg")
    (tmp_path / "images" / "new").symlink_to("2024")
    (tmp_path / "given").symlink_to("images")
    names = ["2024/a.jpg", "b.jpg", "new/a.jpg"]
    assert find_photographs(tmp_path / "given", names).paths == {name: name for name in names}


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        # COCO's exports begin with the folder's name, DeepLabCut's tables with labeled-data.
        ("train2017", "train2017/day/a.jpg"),
        ("train2017", r"coco\train2017\day\a.jpg"),
        ("pictures", "labeled-data/day/a.jpg"),
        ("pictures", "labeled-data/pictures/day/a.jpg"),
    ],
)
def test_what_follows_the_name_of_the_folder_is_found_in_it(tmp_path, folder, name):
    made_folder(tmp_path / folder, "day/a.jpg")
    assert find_photographs(tmp_path / folder, [name]).paths == {name: "day/a.jpg"}


def test_a_frame_of_two_videos_is_not_one_picture(tmp_path):
    made_folder(tmp_path, "frame_000003.png")
    assert find_photographs(tmp_path, ["a.mp4#3"]).paths == {"a.mp4#3": "frame_000003.png"}
    with pytest.raises(ValueError, match=r"'a.mp4#3' and 'b.mp4#3' would both be frame_000003"):
        find_photographs(tmp_path, ["a.mp4#3", "b.mp4#3"])


def test_two_absolute_paths_that_would_be_one_file_are_refused(tmp_path):
    made_folder(tmp_path, "a.jpg")
    with pytest.raises(ValueError, match=r"'/x/a.jpg' and '/y/a.jpg' would both be a.jpg"):
        find_photographs(tmp_path, ["/x/a.jpg", "/y/a.jpg"])


def test_a_folder_named_as_a_protocol_leads_to_no_server(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with answering() as server:
        folder = Path(f"http:/127.0.0.1:{server.server_port}")
        folder.mkdir(parents=True)
        film(tmp_path / folder / "a.avi", 2)
        assert Video(folder / "a.avi").size == (64, 48)
        with pytest.raises(ValueError, match="not a readable video"):
            Video(folder / "absent.avi")
        assert server.asked == []
