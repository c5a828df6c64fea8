"""Packing without Ray: where every person goes, and what is refused before a shard is written."""

import copy
import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io
from factories import photograph
from PIL import Image as PillowImage
from PIL import ImageOps
from webdataset import TarWriter

from pipeline.data.packing import ShardDone, close_plan, open_plan, pack_shard
from pipeline.data.packing_plan import plan_packing
from pipeline.data.shards.index import Index
from pipeline.data.shards.reader import ShardReader
from pipeline.io.console import clear_errors
from pipeline.pose.geometry import transform
from pipeline.pose.joint_sets import COCO, MPII, SYNTHETIC
from pipeline.pose.person import Visibility
from pipeline.settings.packing import CropSettings, PackSettings


def hrnet_record(image: str, **changes) -> dict:
    """A person in HRNet's file, framed by side 100 around (100, 80) once adjusted."""
    joints = [[86.0 + 10 * (k % 4), 61.0 + 12 * (k // 4)] for k in range(16)]
    record = {
        "image": image,
        "center": [101.0, 75.0],
        "scale": 0.4,
        "joints": joints,
        "joints_vis": [1] * 16,
    }
    return copy.deepcopy(record | changes)


def mpii_record(image: str, *, validation: bool, person: int = 1, **changes) -> dict:
    """A person as pytorch-pose's file has it, in a photograph of 200x160 pixels."""
    record = {
        "img_paths": image,
        "isValidation": float(validation),
        "img_width": 200.0,
        "img_height": 160.0,
        "objpos": [101.0, 75.0],
        "scale_provided": 0.4,
        "joint_self": [[86.0 + 10 * (k % 4), 61.0 + 12 * (k // 4), 1.0] for k in range(16)],
        "people_index": float(person),
    }
    return record | changes


def names(count: int) -> list[str]:
    return [f"photo-{number:03d}.jpg" for number in range(count)]


def write_photographs(tmp_path: Path, images: list[str]) -> None:
    folder = tmp_path / "images"
    folder.mkdir(exist_ok=True)
    for seed, image in enumerate(images):
        cv2.imwrite(str(folder / image), photograph(seed=seed))


def write_annotations(tmp_path: Path, content: object) -> None:
    (tmp_path / "annotations.json").write_text(json.dumps(content))


def settings_of(tmp_path: Path, **changes) -> PackSettings:
    """Pack tmp_path's images, three people a shard, two images for validation, none left out."""
    made = {
        "source": "mpii-hrnet",
        "images": tmp_path / "images",
        "annotations": tmp_path / "annotations.json",
        "out": tmp_path / "out",
        "val_images": 2,
        "people_per_shard": 3,
        "max_left_out": 0.0,
        "crop": CropSettings(person_px=64),
    }
    return PackSettings(**made | changes)


def made_dataset(tmp_path: Path, count: int = 8, **changes) -> PackSettings:
    """Photographs with a person each."""
    write_photographs(tmp_path, names(count))
    write_annotations(tmp_path, [hrnet_record(image) for image in names(count)])
    return settings_of(tmp_path, **changes)


def pack_all(settings: PackSettings) -> Index:
    """Pack as the command does, but in this process."""
    plan = plan_packing(settings)
    finished = open_plan(plan)
    assert finished is not None
    done = [finished.get(str(job.name)) or pack_shard(settings, job) for job in plan.jobs]
    return close_plan(plan, done)


def packed_people(settings: PackSettings, pattern: str = "*.tar"):
    paths = [str(path) for path in sorted(settings.out.glob(pattern))]
    return [sample.person for sample in ShardReader(paths)]


# People that can't be packed


def test_a_missing_image_is_counted_and_named(tmp_path):
    settings = made_dataset(tmp_path, max_left_out=0.2)
    (tmp_path / "images" / "photo-003.jpg").unlink()
    plan = plan_packing(settings)
    assert plan.left_out == {"missing image": ["photo-003_00"]}
    assert plan.people == 8
    assert sum(len(job.people) for job in plan.jobs) == 7
    index = pack_all(settings)
    assert index.left_out == {"missing image": ["photo-003_00"]}
    assert "photo-003_00" not in {person.key for person in packed_people(settings)}


def test_too_many_missing_images_are_an_error_that_names_them(tmp_path):
    settings = made_dataset(tmp_path, max_left_out=0.25)
    for image in names(8)[:2]:
        (tmp_path / "images" / image).unlink()
    # Two of eight are a quarter, which is allowed.
    assert plan_packing(settings).left_out == {"missing image": ["photo-000_00", "photo-001_00"]}
    for image in names(8)[2:4]:
        (tmp_path / "images" / image).unlink()
    message = (
        "4 of 8 people can't be packed (50.00%), allowed by --max-left-out are 25.00%: "
        "missing image: 4 (photo-000_00, photo-001_00, photo-002_00, ...)"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        plan_packing(settings)
    assert not settings.out.exists()


def test_a_folder_with_none_of_the_images_is_another_folder(tmp_path):
    settings = made_dataset(tmp_path, max_left_out=1.0)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    message = (
        f"--images {elsewhere} holds none of the 8 images of {settings.annotations}, "
        "such as photo-000.jpg"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        plan_packing(replace(settings, images=elsewhere))
    with pytest.raises(ValueError, match=r"^--images .*/nowhere: no such folder$"):
        plan_packing(replace(settings, images=tmp_path / "nowhere"))


def test_an_unreadable_image_is_counted_and_the_others_are_packed(tmp_path):
    settings = made_dataset(tmp_path, max_left_out=0.2)
    (tmp_path / "images" / "photo-005.jpg").write_bytes(b"no photograph")
    index = pack_all(settings)
    assert index.left_out == {"unreadable image": ["photo-005_00"]}
    assert sum(entry.people for entry in index.shards) == 7


def cut_off() -> bytes:
    """Return a JPEG whose header is whole and whose pixels are not."""
    return cv2.imencode(".jpg", photograph())[1].tobytes()[:1500]


def test_packing_again_with_a_greater_share_resumes_from_the_finished_shards(tmp_path):
    settings = made_dataset(tmp_path)
    (tmp_path / "images" / "photo-005.jpg").write_bytes(cut_off())
    message = (
        "1 of 8 people can't be packed (12.50%), allowed by --max-left-out are 0.00%: "
        "unreadable image: 1 (photo-005_00)"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        pack_all(settings)
    shards = sorted(settings.out.glob("*.tar"))
    assert len(shards) == 3
    assert not (settings.out / "index.json").exists()
    plan = plan_packing(replace(settings, max_left_out=0.2))
    finished = open_plan(plan)
    assert sorted(finished) == [path.name for path in shards]
    index = close_plan(plan, [finished[str(job.name)] for job in plan.jobs])
    assert index.left_out == {"unreadable image": ["photo-005_00"]}
    assert sum(entry.people for entry in index.shards) == 7


def test_a_shard_without_people_is_not_written(tmp_path):
    settings = made_dataset(tmp_path, split="train", people_per_shard=1, max_left_out=0.2)
    (tmp_path / "images" / "photo-005.jpg").write_bytes(cut_off())
    index = pack_all(settings)
    assert len(index.shards) == 7
    assert sorted(path.name for path in settings.out.glob("*.tar")) == sorted(
        entry.name for entry in index.shards
    )


def coco_content(sizes: dict[str, tuple[int, int]]) -> dict:
    keypoints = [number for k in range(17) for number in (80 + 2 * k, 60 + 2 * k, 2)]
    return {
        "images": [
            {"id": number, "file_name": image, "width": width, "height": height}
            for number, (image, (width, height)) in enumerate(sizes.items())
        ],
        "annotations": [
            {"image_id": number, "keypoints": keypoints, "bbox": [60, 40, 80, 80], "iscrowd": 0}
            for number in range(len(sizes))
        ]
        + [{"image_id": 0, "iscrowd": 1}],
        "categories": [{"id": 1, "name": "person", "keypoints": list(COCO.joints)}],
    }


def test_an_image_of_another_size_is_left_out(tmp_path):
    write_photographs(tmp_path, names(4))
    sizes = dict.fromkeys(names(4), (200, 160)) | {"photo-002.jpg": (160, 200)}
    write_annotations(tmp_path, coco_content(sizes))
    settings = settings_of(tmp_path, source="coco", max_left_out=0.25)
    index = pack_all(settings)
    assert index.left_out == {"image of another size": ["photo-002_00"]}
    assert index.skipped == {"crowd": 1}


def test_a_frame_outside_its_image_is_left_out(tmp_path):
    write_photographs(tmp_path, names(4))
    records = [hrnet_record(image) for image in names(4)]
    records[1] = hrnet_record("photo-001.jpg", center=[2000.0, 75.0])
    write_annotations(tmp_path, records)
    index = pack_all(settings_of(tmp_path, max_left_out=0.25))
    assert index.left_out == {"frame outside the image": ["photo-001_00"]}


# Annotations of other images


def test_annotations_of_other_sizes_do_not_fit(tmp_path):
    write_photographs(tmp_path, names(4))
    write_annotations(tmp_path, coco_content(dict.fromkeys(names(4), (999, 160))))
    folder = tmp_path / "images"
    message = (
        f"the annotations don't fit the images in {folder}: 4 of 4 looked at; "
        f"{folder / 'photo-000.jpg'} has (200, 160) pixels, expected (999, 160)"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        plan_packing(settings_of(tmp_path, source="coco", max_left_out=1.0))


def test_annotations_with_joints_outside_do_not_fit(tmp_path):
    write_photographs(tmp_path, names(4))
    outside = [[400.0 + k, 300.0] for k in range(16)]
    placed = {"joints": outside, "center": [408.0, 295.0]}
    records = [hrnet_record(image, **placed) for image in names(4)]
    message = (
        f"3 of 4 looked at; {tmp_path / 'images' / 'photo-001.jpg'} of (200, 160) pixels, "
        "joints up to [414.0, 299.0]"
    )
    records[0] = hrnet_record("photo-000.jpg")
    write_annotations(tmp_path, records)
    with pytest.raises(ValueError, match=f"{re.escape(message)}$"):
        plan_packing(settings_of(tmp_path))
    # Half of them might be an odd dataset.
    records[1] = hrnet_record("photo-001.jpg")
    write_annotations(tmp_path, records)
    assert len(plan_packing(settings_of(tmp_path)).jobs) == 2


def test_unreadable_images_are_named_with_their_fault_before_a_shard_is_written(tmp_path):
    settings = made_dataset(tmp_path, 3)
    (tmp_path / "images" / "photo-001.jpg").write_bytes(b"no photograph")
    message = (
        "1 of 3 people can't be packed (33.33%), allowed by --max-left-out are 0.00%: unreadable "
        "image: 1 (photo-001_00); photo-001.jpg: not a readable image (13 bytes)"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        plan_packing(settings)
    assert not settings.out.exists()


def test_an_image_above_the_bound_is_named_with_its_size(tmp_path):
    settings = made_dataset(tmp_path, 4, max_left_out=0.25)
    larger = cv2.resize(photograph(), (400, 320))
    cv2.imwrite(str(tmp_path / "images" / "photo-001.jpg"), larger)
    assert plan_packing(settings).left_out == {}
    plan = plan_packing(replace(settings, max_pixels=127_999))
    reason = "image of more than 127,999 pixels (--max-pixels)"
    assert plan.left_out == {reason: ["photo-001_00"]}
    assert plan.notes[0] == (
        "photo-001.jpg: an image of 400 x 320 pixels, expected at most 127,999 in all"
    )


# Orientation


def save_turned(tmp_path: Path, image: str, orientation: int) -> None:
    """Store a photograph of 200x160 pixels with an EXIF orientation."""
    exif = PillowImage.Exif()
    exif[0x0112] = orientation
    made = PillowImage.fromarray(photograph())
    made.save(tmp_path / "images" / image, quality=95, exif=exif)


def shown_upright(path: Path) -> np.ndarray:
    with PillowImage.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image)).astype(int)


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("stated", ["upright", "stored"])
def test_packed_people_are_where_prediction_would_find_them(tmp_path, orientation, stated):
    write_photographs(tmp_path, names(4))
    upright = (160, 200) if orientation > 4 else (200, 160)
    size = upright if stated == "upright" else (200, 160)
    for image in names(4):
        save_turned(tmp_path, image, orientation)
    content = coco_content(dict.fromkeys(names(4), size))
    # A half turn changes no size, so that only the setting decides.
    exif = "auto" if orientation > 4 else stated
    write_annotations(tmp_path, content)
    settings = settings_of(tmp_path, source="coco", exif=exif, crop=CropSettings(jpeg_quality=100))
    pack_all(settings)
    nose = (80.0, 60.0)
    if stated == "stored":
        nose = {
            2: (119, 60),
            3: (119, 99),
            4: (80, 99),
            5: (60, 80),
            6: (99, 80),
            7: (99, 119),
        }.get(orientation, (60, 119))
    shown = shown_upright(tmp_path / "images" / names(4)[0])
    for sample in ShardReader([str(path) for path in sorted(settings.out.glob("*.tar"))]):
        person = sample.person
        assert person.joints[0] == nose
        assert person.image_size == upright
        crop = sample.crop
        if person.image == names(4)[0]:
            height, width = sample.picture().shape[:2]
            seen = shown[crop.top : crop.top + height, crop.left : crop.left + width]
            assert np.abs(sample.picture() - seen).mean() < 3


def test_the_pack_reports_how_photographs_with_an_orientation_are_read(tmp_path):
    write_photographs(tmp_path, names(4))
    for image, orientation in zip(names(4), (1, 6, 3, 8), strict=True):
        save_turned(tmp_path, image, orientation)
    sizes = dict(zip(names(4), [(200, 160), (160, 200), (200, 160), (200, 160)], strict=True))
    write_annotations(tmp_path, coco_content(sizes))
    plan = plan_packing(settings_of(tmp_path, source="coco"))
    assert plan.notes[2:] == (
        "3 images have an EXIF orientation; their joints are read as of images held "
        "2 upright and 1 stored (--exif auto)",
    )


def test_a_size_that_fits_no_way_of_holding_names_the_orientation(tmp_path):
    write_photographs(tmp_path, names(4))
    for image in names(4):
        save_turned(tmp_path, image, 6)
    write_annotations(tmp_path, coco_content(dict.fromkeys(names(4), (200, 160))))
    message = (
        r"has \(160, 200\) pixels held upright by its EXIF orientation 6, expected \(200, 160\)$"
    )
    with pytest.raises(ValueError, match=message):
        plan_packing(settings_of(tmp_path, source="coco", exif="upright"))


def test_mpii_is_read_as_stored_where_no_size_decides(tmp_path):
    settings = made_dataset(tmp_path, 4)
    save_turned(tmp_path, names(4)[1], 3)
    joints = {
        person.image: person.joints[0]
        for job in plan_packing(settings).jobs
        for person in job.people
    }
    assert joints[names(4)[0]] == (85.0, 60.0)
    # Right and left ankle don't change places, since a half turn mirrors nothing.
    assert joints[names(4)[1]] == (199 - 85.0, 159 - 60.0)


# Depth, names and keys


def test_values_of_12_bits_are_scaled_and_counted(tmp_path):
    write_photographs(tmp_path, names(3))
    grey = np.full((160, 200), 2056, np.uint16)
    grey[:4] = 4095
    folder = tmp_path / "images"
    (folder / "photo-001.jpg").write_bytes(cv2.imencode(".png", grey)[1].tobytes())
    write_annotations(tmp_path, [hrnet_record(image) for image in names(3)])
    settings = settings_of(tmp_path, split="train")
    index = pack_all(settings)
    assert index.converted == {"12 bits a channel scaled to 8": 1}
    assert Index.read(settings.out) == index
    samples = ShardReader([str(path) for path in sorted(settings.out.glob("*.tar"))])
    picture = next(s.picture() for s in samples if s.person.image == "photo-001.jpg")
    assert np.median(picture) == 128


def test_images_whose_paths_make_one_key_get_keys_of_their_own(tmp_path):
    images = ["a.jpg", "a.png", "b-c.jpg", "b/c.jpg", "d.jpg"]
    (tmp_path / "images" / "b").mkdir(parents=True)
    write_photographs(tmp_path, images)
    write_annotations(tmp_path, [hrnet_record(image) for image in images])
    settings = settings_of(tmp_path)
    pack_all(settings)
    keys = {person.image: person.key for person in packed_people(settings)}
    assert set(keys) == set(images)
    assert len(set(keys.values())) == 5
    assert keys["d.jpg"] == "d_00"
    # The first eight digits of the path's SHA-256.
    assert keys["a.jpg"] == f"a-{hashlib.sha256(b'a.jpg').hexdigest()[:8]}_00"


def test_one_image_spelled_in_two_ways_is_one_image(tmp_path):
    (tmp_path / "images" / "day").mkdir(parents=True)
    write_photographs(tmp_path, ["day/a.jpg", "day/b.jpg", "day/c.jpg"])
    spelled = [r"day\a.jpg", "day/a.jpg", "./day/b.jpg", "day/c.jpg"]
    write_annotations(tmp_path, [hrnet_record(image) for image in spelled])
    people = [p for job in plan_packing(settings_of(tmp_path)).jobs for p in job.people]
    found = sorted((person.image, person.person) for person in people)
    assert found == [("day/a.jpg", 0), ("day/a.jpg", 1), ("day/b.jpg", 0), ("day/c.jpg", 0)]
    assert len({person.split for person in people if person.image == "day/a.jpg"}) == 1


def test_a_missing_image_comes_with_the_nearest_that_exists(tmp_path):
    settings = made_dataset(tmp_path, max_left_out=0.2)
    folder = tmp_path / "images"
    (folder / "photo-003.jpg").rename(folder / "PHOTO-003.JPG")
    plan = plan_packing(settings)
    assert plan.left_out == {"missing image": ["photo-003_00"]}
    assert plan.notes[0] == "photo-003.jpg: no such image; did you mean PHOTO-003.JPG?"


# Measures


def test_the_index_counts_the_people_whom_each_measure_needs(tmp_path):
    settings = made_dataset(tmp_path, 4, split="val", people_per_shard=2)
    records = [hrnet_record(image) for image in names(4)]
    shown = [1] * 16
    for record, joint in zip(records, ("left_shoulder", "right_hip", "left_knee"), strict=False):
        record["joints_vis"] = [*shown]
        record["joints_vis"][MPII.joints.index(joint)] = 0
    write_annotations(tmp_path, records)
    index = pack_all(settings)
    # PCK-torso needs the left shoulder and the right hip, PCKh a head size.
    assert [entry.measured for entry in index.shards] == [
        {"pckh": 0, "pck_torso": 0},
        {"pckh": 0, "pck_torso": 2},
    ]
    assert Index.read(settings.out) == index
    assert plan_packing(settings).notes == (
        "validation: none of 4 people has a head size: PCKh is undefined",
    )


def test_a_measure_that_few_people_have_is_told_with_their_share(tmp_path):
    write_photographs(tmp_path, names(6))
    content = coco_content(dict.fromkeys(names(6), (200, 160)))
    for annotation in content["annotations"][1:6]:
        # Without the left shoulder.
        annotation["keypoints"] = [*annotation["keypoints"][:15], 0, 0, 0, *[90, 70, 2] * 11]
    write_annotations(tmp_path, content)
    plan = plan_packing(settings_of(tmp_path, source="coco", split="val"))
    assert plan.notes[1:] == (
        "errors are divided by the distance from left_shoulder to right_hip, which 17% of the "
        "people have (PCK-torso@0.2)",
        "validation: 1 of 6 people (16.7%) have both left_shoulder and right_hip; PCK-torso is of "
        "these alone",
    )


# Splits and shards


def crowd_dataset(tmp_path: Path, **changes) -> PackSettings:
    """Twelve photographs with one, two or three people each: twenty-four people."""
    write_photographs(tmp_path, names(12))
    people = [image for number, image in enumerate(names(12)) for _ in range(1 + number % 3)]
    # Far apart in the file, so that nothing rests on its order.
    write_annotations(tmp_path, [hrnet_record(image) for image in people[::2] + people[1::2]])
    return settings_of(tmp_path, **changes)


def test_a_random_split_holds_out_whole_images(tmp_path):
    plan = plan_packing(crowd_dataset(tmp_path, val_images=5))
    images = {"train": set(), "val": set()}
    for job in plan.jobs:
        images[job.name.split] |= {person.image for person in job.people}
        assert {person.split for person in job.people} == {job.name.split}
    assert (len(images["train"]), len(images["val"])) == (7, 5)
    assert not images["train"] & images["val"]
    assert sum(len(job.people) for job in plan.jobs) == 24


def test_another_seed_holds_out_other_images(tmp_path):
    def held_out(seed: int) -> set[str]:
        plan = plan_packing(settings_of(tmp_path, seed=seed, val_images=5))
        return {p.image for job in plan.jobs for p in job.people if job.name.split == "val"}

    crowd_dataset(tmp_path)
    assert held_out(0) == held_out(0) != held_out(1)


def test_the_people_of_an_image_stay_in_one_shard(tmp_path):
    plan = plan_packing(crowd_dataset(tmp_path, people_per_shard=2))
    where: dict[str, set[str]] = {}
    for job in plan.jobs:
        for person in job.people:
            where.setdefault(person.image, set()).add(str(job.name))
        # Two fill a shard; an image of three may come to one that holds one.
        assert len(job.people) <= 4
    assert {len(shards) for shards in where.values()} == {1}
    assert len(where) == 12


def test_shards_are_numbered_within_their_split(tmp_path):
    plan = plan_packing(made_dataset(tmp_path, 9, val_images=4))
    assert [str(job.name) for job in plan.jobs] == [
        "train-000000.tar",
        "train-000001.tar",
        "val-000000.tar",
        "val-000001.tar",
    ]
    assert [len(job.people) for job in plan.jobs] == [3, 2, 3, 1]


def test_training_images_are_shuffled_and_validation_images_are_not(tmp_path):
    def order(split: str) -> list[str]:
        plan = plan_packing(settings_of(tmp_path, split=split))
        return [person.image for job in plan.jobs for person in job.people]

    made_dataset(tmp_path)
    assert order("val") == names(8)
    assert order("train") != names(8)
    assert sorted(order("train")) == names(8)


def test_too_large_a_validation_split_is_refused(tmp_path):
    settings = made_dataset(tmp_path, val_images=8)
    message = (
        r"^--val-images must be below the 8 images there are, got 8; --split train or --split val "
    )
    with pytest.raises(ValueError, match=message):
        plan_packing(settings)
    assert len(plan_packing(replace(settings, split="train")).jobs) == 3


def test_a_fifth_of_few_images_validates_unless_a_number_is_given(tmp_path):
    plan = plan_packing(made_dataset(tmp_path, 12, val_images=None))
    assert sum(len(job.people) for job in plan.jobs if job.name.split == "val") == 2
    assert "validation: 2 of 12 images, drawn at random (--val-images)" in plan.notes
    # As given, so that a packed dataset is known again.
    assert plan.fingerprint == plan_packing(made_dataset(tmp_path, 12, val_images=2)).fingerprint
    with pytest.raises(ValueError, match="below the 1 images there are, got 1; --split train"):
        plan_packing(made_dataset(tmp_path, 1, val_images=None))


def test_a_file_with_a_split_of_its_own_keeps_it(tmp_path):
    write_photographs(tmp_path, names(5))
    validates = [True, False, False, True, False]
    write_annotations(
        tmp_path,
        [mpii_record(i, validation=v) for i, v in zip(names(5), validates, strict=True)],
    )
    settings = settings_of(tmp_path, source="mpii-json", val_images=1)
    index = pack_all(settings)
    assert index.splits() == {
        "train": {"people": 3, "images": 3, "shards": 1},
        "val": {"people": 2, "images": 2, "shards": 1},
    }
    validation = packed_people(settings, "val-*.tar")
    assert [person.image for person in validation] == ["photo-000.jpg", "photo-003.jpg"]
    # Asked for, a random split replaces it.
    drawn = plan_packing(replace(settings, split="random", val_images=4))
    assert sum(len(job.people) for job in drawn.jobs if job.name.split == "val") == 4


def test_an_image_in_both_splits_is_refused(tmp_path):
    write_photographs(tmp_path, names(2))
    write_annotations(
        tmp_path,
        [
            mpii_record("photo-000.jpg", validation=False),
            mpii_record("photo-001.jpg", validation=False),
            mpii_record("photo-001.jpg", validation=True, person=2),
        ],
    )
    message = r"^photo-001\.jpg is in both splits; expected each image in one$"
    with pytest.raises(ValueError, match=message):
        plan_packing(settings_of(tmp_path, source="mpii-json"))


def test_people_who_share_a_key_are_refused(tmp_path):
    write_photographs(tmp_path, names(1))
    write_annotations(tmp_path, [mpii_record("photo-000.jpg", validation=False)] * 2)
    message = r"^1 people share a key with another, expected each once: \['photo-000_00'\]$"
    with pytest.raises(ValueError, match=message):
        plan_packing(settings_of(tmp_path, source="mpii-json"))


# Interruptions


def test_an_interrupted_pack_is_picked_up(tmp_path):
    settings = made_dataset(tmp_path)
    plan = plan_packing(settings)
    assert open_plan(plan) == {}
    done = [pack_shard(settings, job) for job in plan.jobs[:2]]
    again = plan_packing(settings)
    assert open_plan(again) == {"train-000000.tar": done[0], "train-000001.tar": done[1]}
    index = pack_all(settings)
    assert [entry.name for entry in index.shards] == [str(job.name) for job in plan.jobs]
    assert sum(entry.people for entry in index.shards) == 8


@pytest.mark.parametrize("damage", ["gone", "shorter"])
def test_a_shard_that_is_gone_or_of_another_size_is_packed_again(tmp_path, damage):
    settings = made_dataset(tmp_path)
    plan = plan_packing(settings)
    open_plan(plan)
    kept, lost = (pack_shard(settings, job) for job in plan.jobs[:2])
    path = settings.out / lost.entry.name
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-512])
    assert open_plan(plan) == {kept.entry.name: kept}
    pack_all(settings)
    assert path.stat().st_size == lost.entry.bytes


def test_a_shard_that_is_half_written_is_not_finished(tmp_path, monkeypatch):
    settings = made_dataset(tmp_path)
    plan = plan_packing(settings)
    open_plan(plan)

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.data.packing.cut_crop", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pack_shard(settings, plan.jobs[0])
    assert list(settings.out.glob("*.tar")) == []
    assert open_plan(plan) == {}


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A disk of one mebibyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"mounting a small disk is not allowed here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(disk: Path, but: int) -> Path:
    """Fill a disk but for some bytes."""
    filler = disk / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(disk).free - but))
    return filler


def test_a_full_disk_is_named_and_finished_shards_stay(tmp_path, small_disk, capsys):
    settings = made_dataset(tmp_path, out=small_disk / "out")
    plan = plan_packing(settings)
    assert open_plan(plan) == {}
    first, second, *_ = plan.jobs
    done = pack_shard(settings, first)
    whole = (settings.out / str(first.name)).read_bytes()
    filler = fill(small_disk, but=4096)
    with pytest.raises(SystemExit) as end, clear_errors():
        pack_shard(settings, second)
    assert end.value.code == 1
    message = (
        rf"error: the disk of {re.escape(str(settings.out))} is full: {second.name} "
        r"needs more than the 4,096 bytes available\n"
    )
    assert re.fullmatch(message, capsys.readouterr().err)
    assert {path.name for path in settings.out.iterdir()} == {".packing", str(first.name)}
    assert (settings.out / str(first.name)).read_bytes() == whole
    assert open_plan(plan) == {str(first.name): done}
    filler.unlink()
    assert pack_all(settings).splits()["train"]["people"] == 6
    assert len(packed_people(settings)) == 8


def test_a_disk_that_is_full_when_the_index_is_written_leaves_no_half_of_it(tmp_path, small_disk):
    settings = made_dataset(tmp_path, out=small_disk / "out")
    plan = plan_packing(settings)
    open_plan(plan)
    done = [pack_shard(settings, job) for job in plan.jobs]
    filler = fill(small_disk, but=0)
    with pytest.raises(OSError, match=f"the disk of {re.escape(str(settings.out))} is full"):
        close_plan(plan, done)
    assert {path.suffix for path in settings.out.iterdir() if path.is_file()} == {".tar"}
    filler.unlink()
    assert close_plan(plan, done) == Index.read(settings.out)


def test_a_pack_that_found_no_room_for_its_plan_can_be_begun_again(tmp_path, small_disk):
    settings = made_dataset(tmp_path, out=small_disk / "out")
    plan = plan_packing(settings)
    filler = fill(small_disk, but=0)
    with pytest.raises(OSError, match="is full: plan needs more than the 0 bytes"):
        open_plan(plan)
    filler.unlink()
    assert open_plan(plan) == {}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_shard_for_which_there_is_no_room_leaves_the_one_before_alone(
    tmp_path, monkeypatch, number
):
    settings = made_dataset(tmp_path)
    plan = plan_packing(settings)
    open_plan(plan)
    pack_shard(settings, plan.jobs[0])
    before = (settings.out / str(plan.jobs[0].name)).read_bytes()

    def full(self: TarWriter, sample: dict) -> None:
        self.tarstream.fileobj.write(b"half")
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(TarWriter, "write", full)
    with pytest.raises(OSError, match=f"the disk of {re.escape(str(settings.out))} is full") as end:
        pack_shard(settings, plan.jobs[0])
    assert end.value.errno == number
    assert (settings.out / str(plan.jobs[0].name)).read_bytes() == before
    assert not list(settings.out.glob("*.part"))


def test_a_finished_pack_is_recognised_and_leaves_no_other_files(tmp_path):
    settings = made_dataset(tmp_path)
    pack_all(settings)
    assert open_plan(plan_packing(settings)) is None
    assert sorted(path.name for path in settings.out.iterdir()) == [
        "index.json",
        "members.npz",
        "train-000000.tar",
        "train-000001.tar",
        "val-000000.tar",
    ]
    # Moved photographs are the same dataset.
    (tmp_path / "images").rename(tmp_path / "moved")
    assert open_plan(plan_packing(replace(settings, images=tmp_path / "moved"))) is None


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"val_images": 3}, {"crop": CropSettings(person_px=65)}]
)
def test_a_folder_with_another_dataset_is_refused(tmp_path, change):
    settings = made_dataset(tmp_path)
    pack_all(settings)
    message = f"--out {settings.out} holds another dataset; choose an empty folder"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        open_plan(plan_packing(replace(settings, **change)))


def test_a_folder_with_an_unfinished_pack_of_other_annotations_is_refused(tmp_path):
    settings = made_dataset(tmp_path)
    open_plan(plan_packing(settings))
    write_annotations(tmp_path, [hrnet_record(image, scale=0.41) for image in names(8)])
    message = (
        f"--out {settings.out} holds an unfinished pack of other data or settings; "
        "choose an empty folder or remove it"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        open_plan(plan_packing(settings))


# The index


def test_the_index_records_the_people_and_settings_of_a_pack(tmp_path):
    settings = made_dataset(tmp_path)
    index = pack_all(settings)
    assert Index.read(settings.out) == index
    assert (index.source, index.joint_set) == ("mpii-hrnet", MPII)
    file_sum = hashlib.sha256((tmp_path / "annotations.json").read_bytes()).hexdigest()
    assert index.annotations == {"annotations.json": file_sum}
    assert index.conventions == {
        "split": "auto",
        "val_images": 2,
        "seed": 0,
        "index_base": 1,
        "center_adjusted": False,
        "exif": "auto",
    }
    assert index.crop == CropSettings(person_px=64)
    assert (index.skipped, index.left_out) == ({}, {})
    assert [(e.name, e.split, e.people, e.images, e.head_sizes) for e in index.shards] == [
        ("train-000000.tar", "train", 3, 3, 0),
        ("train-000001.tar", "train", 3, 3, 0),
        ("val-000000.tar", "val", 2, 2, 0),
    ]
    for entry in index.shards:
        data = (settings.out / entry.name).read_bytes()
        assert (entry.bytes, entry.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    content = json.loads((settings.out / "index.json").read_text())
    assert content["splits"]["train"] == {"people": 6, "images": 6, "shards": 2}


def test_a_packed_person_is_the_annotated_one(tmp_path):
    joints = hrnet_record("")["joints"]
    joints[4] = [-1.0, -1.0]
    record = hrnet_record("photo-000.jpg", joints=joints, joints_vis=[1] * 4 + [0] + [1] * 11)
    write_photographs(tmp_path, names(1))
    write_annotations(tmp_path, [record])
    settings = settings_of(tmp_path, split="train")
    pack_all(settings)
    [person] = packed_people(settings)
    # From 1-based to 0-based; 75 + 15 * 0.4 - 1 is 80.
    assert person.center == pytest.approx((100.0, 80.0))
    assert person.scale == pytest.approx(0.5)
    assert person.joints[0] == (85.0, 60.0)
    assert person.visibility[3:6] == (Visibility.VISIBLE, Visibility.MISSING, Visibility.VISIBLE)
    # The size is the photograph's, which the annotations do not state.
    assert person.image_size == (200, 160)


def test_the_same_pack_gives_equal_bytes_in_any_order(tmp_path):
    settings = crowd_dataset(tmp_path)
    pack_all(settings)
    other = replace(settings, out=tmp_path / "other")
    plan = plan_packing(other)
    open_plan(plan)
    backwards = [pack_shard(other, job) for job in reversed(plan.jobs)]
    close_plan(plan, backwards[::-1])
    files = sorted(path.name for path in settings.out.iterdir())
    assert files == sorted(path.name for path in other.out.iterdir())
    for name in files:
        assert (settings.out / name).read_bytes() == (other.out / name).read_bytes()


def test_a_finished_shard_survives_its_record(tmp_path):
    settings = made_dataset(tmp_path)
    plan = plan_packing(settings)
    open_plan(plan)
    done = pack_shard(settings, plan.jobs[0])
    assert isinstance(done, ShardDone)
    assert open_plan(plan)["train-000000.tar"].entry == done.entry


# Settings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations": None}, "--annotations is required for mpii-hrnet"),
        ({"source": "synthetic"}, "--images is not for synthetic"),
        ({"source": "a.json"}, "--annotations is not for a.json"),
        ({"source": "table"}, "--joint-set is required for table"),
        ({"val_images": 0}, "val_images must be at least 1, got 0"),
        ({"people_per_shard": 0}, "people_per_shard must be at least 1, got 0"),
        ({"scenes": 1}, "scenes must be at least 2, got 1"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"max_left_out": 1.5}, "max_left_out must be from 0 to 1, got 1.5"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(tmp_path, change, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        settings_of(tmp_path, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"person_px": 31}, "crop.person_px must be from 32 to 4096, got 31"),
        ({"margin": 0.9}, "crop.margin must be from 1 to 4, got 0.9"),
        ({"jpeg_quality": 101}, "crop.jpeg_quality must be from 1 to 100, got 101"),
    ],
)
def test_crop_settings_out_of_range_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        CropSettings(**change)


# Rendered people


def test_rendered_people_are_packed_and_called_synthetic(tmp_path):
    settings = PackSettings(
        source="synthetic", out=tmp_path / "out", scenes=8, val_images=2, people_per_shard=4
    )
    index = pack_all(settings)
    assert (index.source, index.joint_set, index.annotations) == ("synthetic", SYNTHETIC, {})
    assert index.conventions == {"split": "auto", "val_images": 2, "seed": 0, "scenes": 8}
    assert index.splits()["val"]["images"] == 2
    assert index.splits()["train"]["images"] == 6
    assert all(entry.head_sizes == entry.people for entry in index.shards)
    people = packed_people(settings)
    assert {person.image for person in people} == {f"synthetic-{k:06d}.jpg" for k in range(8)}


# The real files


@pytest.mark.slow
def test_the_photographs_of_mpii_are_packed_with_the_heads_of_their_validation_people(
    tmp_path, mpii_dir
):
    settings = PackSettings(
        source="mpii-json",
        images=mpii_dir / "images",
        annotations=mpii_dir / "mpii_annotations.json.gz",
        head_boxes=mpii_dir / "detections_our_format.mat",
        out=tmp_path / "out",
        max_left_out=1.0,
    )
    index = pack_all(settings)
    assert sorted(index.annotations) == ["detections_our_format.mat", "mpii_annotations.json.gz"]
    validation = packed_people(settings, "val-*.tar")
    truth = scipy.io.loadmat(mpii_dir / "detections_our_format.mat")["headboxes_src"][..., :5]
    sizes = 0.6 * np.hypot(*(truth[1] - truth[0]))
    assert [person.head_size for person in validation] == pytest.approx(sizes.tolist())
    theirs = json.loads((mpii_dir / "hrnet_style.json").read_text())
    assert [person.image for person in validation] == [record["image"] for record in theirs]
    # The other seven photographs are of people whom the file leaves out.
    assert index.splits() == {"val": {"people": 5, "images": 5, "shards": 1}}
    assert len(index.left_out["missing image"]) == 25_204 - 5


def test_the_photographs_of_coco_are_packed(tmp_path, coco_dir):
    settings = PackSettings(
        source="coco",
        images=coco_dir / "images",
        annotations=coco_dir / "person_keypoints.json",
        out=tmp_path / "out",
        val_images=1,
        max_left_out=0.0,
    )
    index = pack_all(settings)
    assert sum(entry.people for entry in index.shards) == 12
    assert index.splits()["val"]["images"] == 1
    assert index.splits()["train"]["images"] == 3
    assert index.skipped == {"no labelled joint": 2}
    assert all(person.box is not None for person in packed_people(settings))


def test_the_first_shard_of_leeds_sports_pose_extended_is_packed(tmp_path, lspet_dir):
    settings = PackSettings(
        source="lspet",
        images=lspet_dir / "images",
        annotations=lspet_dir / "joints.mat",
        out=tmp_path / "out",
        people_per_shard=16,
        max_left_out=0.0,
    )
    plan = plan_packing(settings)
    assert sum(len(job.people) for job in plan.jobs if job.name.split == "val") == 500
    open_plan(plan)
    done = pack_shard(settings, plan.jobs[0])
    assert done.left_out == {}
    assert (done.entry.people, done.entry.images, done.entry.head_sizes) == (16, 16, 0)
    for sample in ShardReader([str(settings.out / "train-000000.tar")]):
        with PillowImage.open(lspet_dir / "images" / sample.person.image) as image:
            assert sample.person.image_size == image.size
        shown = np.array(sample.person.visibility) != Visibility.MISSING
        crop = cv2.imdecode(np.frombuffer(sample.crop.jpeg, np.uint8), cv2.IMREAD_COLOR)
        on_crop = transform(np.array(sample.person.joints)[shown], sample.crop.from_original)
        assert (on_crop > -1).all()
        assert (on_crop < (crop.shape[1] + 1, crop.shape[0] + 1)).all()


def fault_settings(folder: Path, out: Path, name: str, images: str = "img") -> PackSettings:
    """Pack a fault's table or COCO file as its README does."""
    is_table = name.endswith(".csv")
    joint_set = folder / ("05/mouse.toml" if name.startswith("05") else "lsp14.toml")
    return PackSettings(
        source="table" if is_table else "coco",
        images=folder / images,
        annotations=folder / name,
        joint_set=joint_set if is_table else None,
        out=out,
        val_images=4,
        people_per_shard=8,
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("04/a.json", "images[0] (im00001.jpg) and images[8] (im00009.jpg) share the id 1"),
        ("05/t.csv", "flip_pairs lacks ['leftear', 'rightear']"),
        ("07/a.json", "annotations[0]: keypoints of left_shoulder, which is labelled: expected"),
        ("10/CollectedData_me.csv", "got DeepLabCut's rows scorer, bodyparts and coords"),
        ("28/t.csv", "27 of 224 joints that are not missing lie at (-1, -1)"),
    ],
)
def test_a_known_fault_is_refused_by_name(tmp_path, faults_dir, name, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        plan_packing(fault_settings(faults_dir, tmp_path / "out", name))


@pytest.mark.parametrize(
    ("name", "images", "people", "skipped"),
    [
        ("01/animal17.json", "img", 16, {}),
        ("01/reordered.json", "img", 16, {}),
        ("08/animal12.json", "img", 16, {}),
        ("08/cvat14.json", "img", 16, {}),
        ("18/bbox_empty.json", "img", 16, {}),
        ("18/bbox_null.json", "img", 16, {}),
        ("18/coordinate_null.json", "img", 16, {}),
        ("18/keypoints_null.json", "img", 15, {"no keypoints": 1}),
        ("18/no_width.json", "img", 16, {}),
        ("19/a.json", "img", 16, {"no keypoints": 1}),
        ("20/no_boxes.json", "img", 16, {}),
        ("20/one_zero_box.json", "img", 16, {}),
        ("22/a.json", "22/root", 16, {}),
        ("22/t.csv", "22/root", 16, {}),
        ("23/t.csv", "23/img", 16, {}),
    ],
)
def test_a_known_fault_is_packed_and_counted(tmp_path, faults_dir, name, images, people, skipped):
    plan = plan_packing(fault_settings(faults_dir, tmp_path / "out", name, images))
    keys = [person.key for job in plan.jobs for person in job.people]
    assert len(set(keys)) == len(keys) == people
    assert (plan.skipped, plan.left_out) == (skipped, {})


@pytest.mark.parametrize("name", ["02/t.csv", "02/coco_upright_sizes.json"])
def test_phone_photographs_are_packed_as_their_upright_copies(tmp_path, faults_dir, name):
    # The folder img has the same photographs without an orientation.
    pictures = []
    for number, images in enumerate(("02/img", "img")):
        settings = fault_settings(faults_dir, tmp_path / f"out{number}", name, images)
        pack_all(settings)
        shards = [str(path) for path in sorted(settings.out.glob("*.tar"))]
        pictures.append([(sample.person, sample.picture()) for sample in ShardReader(shards)])
    for (turned, seen), (upright, expected) in zip(*pictures, strict=True):
        assert turned == upright
        assert seen.shape == expected.shape
        # JPEG was written once more.
        assert np.abs(seen.astype(int) - expected).mean() < 8


def test_known_pictures_of_12_bits_are_as_bright_as_their_copies(tmp_path, faults_dir):
    settings = fault_settings(faults_dir, tmp_path / "out", "25/t.csv", "25/img")
    index = pack_all(settings)
    assert index.converted == {"12 bits a channel scaled to 8": 16}
    shards = [str(path) for path in sorted(settings.out.glob("*.tar"))]
    assert np.mean([sample.picture().mean() for sample in ShardReader(shards)]) > 50
