"""Shards: what is written is read back, and what is damaged is refused by name."""

import json
import os
import re
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import webdataset
from factories import add_member, index_of, person, sample, samples

from pipeline.data.shards.index import Index, find_shards
from pipeline.data.shards.reader import ShardReader
from pipeline.data.shards.sample import BadSampleError, record_of, sample_from
from pipeline.data.shards.writer import ShardName, write_shard
from pipeline.pose.joint_sets import COCO, MPII
from pipeline.pose.person import Visibility

TRAIN_0 = ShardName(split="train", number=0)


# Writing and reading


def test_samples_come_back_as_they_were_written(pack):
    written = samples(5)
    first, second = pack(written[:3], written[3:])
    reader = ShardReader([str(first), str(second)])
    assert list(reader) == written
    assert reader.bounds.tolist() == [0, 3, 5]
    assert len(reader) == 5


def test_every_field_of_a_person_survives(pack):
    states = (Visibility.MISSING, Visibility.OCCLUDED, Visibility.VISIBLE)
    made = sample(
        joint_set=COCO,
        person=7,
        image="a/b.c.jpg",
        center=(99.123456789, 80.5),
        joints=((0.1, -3.7), *((1 / 3, 2e3),) * 16),
        visibility=tuple(states[k % 3] for k in range(17)),
        head_size=None,
        box=(1.5, 2.0, 30.25, 40.0),
        image_size=(200, 160),
        split="val",
    )
    [path] = pack([made], joint_set=COCO)
    [back] = ShardReader([str(path)])
    assert back == made
    assert all(type(state) is Visibility for state in back.person.visibility)
    assert back.key == "a-b-c_07"


def test_a_position_before_the_first_counts_from_the_end(pack):
    written = samples(5)
    reader = ShardReader([str(path) for path in pack(written[:3], written[3:])])
    assert [reader[-1], reader[-3], reader[-5]] == [written[4], written[2], written[0]]


# WebDataset leaves the file to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_webdataset_reads_the_shard(pack):
    [path] = pack(samples(3))
    records = list(webdataset.WebDataset(str(path), shardshuffle=False))
    assert [record["__key__"] for record in records] == [
        "photo-000_00",
        "photo-001_00",
        "photo-002_00",
    ]
    made = sample(1)
    assert records[1]["jpg"] == made.crop.jpeg
    assert records[1]["json"] == record_of(made)
    assert json.loads(records[1]["json"])["center"] == [100.0, 80.0]


def test_the_index_entry_counts_people_images_and_head_sizes(tmp_path):
    written = [sample(0), sample(0, person=1, head_size=None), sample(1, head_size=None)]
    entry = write_shard(tmp_path, ShardName(split="val", number=12), written)
    assert entry.name == "val-000012.tar"
    assert (entry.split, entry.people, entry.images, entry.head_sizes) == ("val", 3, 2, 1)
    assert entry.bytes == (tmp_path / "val-000012.tar").stat().st_size


def test_equal_samples_give_equal_bytes(tmp_path):
    first = write_shard(tmp_path, TRAIN_0, samples(3))
    data = (tmp_path / "train-000000.tar").read_bytes()
    second = write_shard(tmp_path, TRAIN_0, samples(3))
    assert (tmp_path / "train-000000.tar").read_bytes() == data
    assert first == second
    assert write_shard(tmp_path, TRAIN_0, samples(3, first=1)).sha256 != first.sha256


def test_samples_that_cannot_be_made_leave_no_file_and_an_earlier_one_alone(tmp_path):
    def failing():
        yield sample(5)
        raise RuntimeError("the second photograph is gone")

    with pytest.raises(RuntimeError, match="the second photograph is gone"):
        write_shard(tmp_path, TRAIN_0, failing())
    assert list(tmp_path.iterdir()) == []
    write_shard(tmp_path, TRAIN_0, samples(1))
    before = (tmp_path / "train-000000.tar").read_bytes()
    with pytest.raises(RuntimeError, match="the second photograph is gone"):
        write_shard(tmp_path, TRAIN_0, failing())
    assert (tmp_path / "train-000000.tar").read_bytes() == before


# Damage


def member_of(path: Path, name: str) -> tarfile.TarInfo:
    with tarfile.open(path) as tar:
        return tar.getmember(name)


@pytest.mark.parametrize(
    ("suffix", "extra", "last"),
    [("jpg", 1000, "002"), ("json", 0, "002"), ("jpg", 0, "001"), ("jpg", 100, "001")],
    ids=["within a photograph", "before a record", "before a header", "within a header"],
)
def test_a_tar_that_is_cut_off_is_refused(pack, suffix, extra, last):
    [path] = pack(samples(3))
    end = member_of(path, f"photo-002_00.{suffix}").offset + extra
    path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(ValueError, match=rf"train-000000\.tar: .*photo-{last}_00"):
        ShardReader([str(path)])


def test_a_tar_with_a_damaged_header_is_refused(pack):
    [path] = pack(samples(3))
    data = bytearray(path.read_bytes())
    data[member_of(path, "photo-001_00.jpg").offset] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"train-000000\.tar: .*photo-000_00"):
        ShardReader([str(path)])


@pytest.mark.parametrize("content", [b"", b"<html>404</html>" * 100])
def test_a_file_that_is_no_tar_is_refused(tmp_path, content):
    path = tmp_path / "train-000000.tar"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"train-000000\.tar: not a readable tar: "):
        ShardReader([str(path)])


@pytest.mark.parametrize("absent", ["jpg", "json"])
def test_a_sample_without_one_of_its_members_is_refused(tmp_path, absent):
    path = tmp_path / "train-000000.tar"
    with tarfile.open(path, "w") as tar:
        for key in ("a_00", "b_00"):
            for suffix in ("jpg", "json"):
                if (key, suffix) != ("b_00", absent):
                    add_member(tar, f"{key}.{suffix}", b"data")
    with pytest.raises(ValueError, match=rf"train-000000\.tar: b_00 has no \.{absent}$"):
        ShardReader([str(path)])


def test_an_image_whose_name_could_not_be_written_is_a_bad_sample():
    record = record_of(sample(0)).replace(b"photo-000.jpg", b"\\ud800.jpg")
    with pytest.raises(ValueError, match=r"^a: not a sample record: .*surrogates not allowed"):
        sample_from(b"", record, "a")


@pytest.mark.parametrize("record", [b"{}", b"[1]", b"no JSON", b'{"crop": {}}'])
def test_a_record_that_is_none_is_refused_when_it_is_read(tmp_path, record):
    path = tmp_path / "train-000000.tar"
    with tarfile.open(path, "w") as tar:
        add_member(tar, "a_00.jpg", b"data")
        add_member(tar, "a_00.json", record)
    reader = ShardReader([str(path)])
    with pytest.raises(ValueError, match=r"^train-000000\.tar: a_00: not a sample record: "):
        reader[0]


@pytest.mark.parametrize("name", ["head_size", "area"])
@pytest.mark.parametrize("value", [[], "", {}, -1, 1e9])
def test_a_size_that_is_none_is_refused_by_its_shard_and_key(tmp_path, name, value):
    path = tmp_path / "train-000000.tar"
    record = json.dumps({**json.loads(record_of(sample())), name: value}).encode()
    with tarfile.open(path, "w") as tar:
        add_member(tar, "a_00.jpg", sample().crop.jpeg)
        add_member(tar, "a_00.json", record)
    with pytest.raises(BadSampleError, match=r"^train-000000\.tar: a_00: not a sample record: "):
        ShardReader([str(path)])[0]


# With members.npz


def test_samples_are_found_through_their_members(pack):
    written = samples(5)
    paths = pack(written[:3], written[3:], members=True)
    reader = ShardReader([str(paths[1]), str(paths[0])])
    assert list(reader) == written[3:] + written[:3]
    assert reader.bounds.tolist() == [0, 2, 5]


@pytest.mark.parametrize("members", [True, False])
def test_a_shard_that_is_given_twice_is_read_twice(pack, members):
    written = samples(2)
    [path] = pack(written, members=members)
    assert list(ShardReader([str(path), str(path)])) == written * 2


def test_a_shard_with_members_is_not_read_to_be_opened(pack):
    [path] = pack(samples(3), members=True)
    size = path.stat().st_size
    path.write_bytes(bytes(size))
    reader = ShardReader([str(path)])
    assert len(reader) == 3
    with pytest.raises(
        BadSampleError,
        match=r"^train-000000\.tar: photo-001_00\.jpg: checksum [0-9a-f]{8}, expected ",
    ):
        reader[1]


def test_samples_that_are_cut_off_are_named_one_by_one(pack):
    [path] = pack(samples(3), members=True)
    end = member_of(path, "photo-001_00.json").offset_data + 20
    path.write_bytes(path.read_bytes()[:end])
    reader = ShardReader([str(path)])
    assert reader[0] == samples(1)[0]
    missing = len(record_of(samples(2)[1])) - 20
    message = f"photo-001_00.json: cut off, {missing} of its bytes are missing"
    with pytest.raises(BadSampleError, match=re.escape(message)):
        reader[1]
    with pytest.raises(BadSampleError, match=r"photo-002_00\.jpg: cut off"):
        reader[2]
    path.write_bytes(b"")
    with pytest.raises(BadSampleError, match=r"photo-000_00\.jpg: cut off, "):
        ShardReader([str(path)])[0]


def test_as_many_samples_may_be_cut_off_as_are_allowed(pack):
    [path] = pack(samples(5), members=True)
    end = member_of(path, "photo-003_00.jpg").offset_data
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:end])
    assert find_shards("data.train", str(path), bad_allowed=2).people == 5
    message = f"{path}: {end:,} bytes, expected {size:,} by its index, samples cut off: 2"
    for allowed in (0, 1):
        with pytest.raises(ValueError, match=re.escape(message)):
            find_shards("data.train", str(path), allowed)


def test_a_shard_that_is_cut_short_while_it_is_read_ends_no_process(pack):
    [path] = pack(samples(3), members=True)
    reader = ShardReader([str(path)])
    assert reader[0] == samples(1)[0]
    os.truncate(path, 512)
    with pytest.raises(BadSampleError, match=r"photo-002_00\.jpg: cut off"):
        reader[2]


def test_only_a_few_of_many_shards_are_kept_open(pack):
    paths = pack(*([one] for one in samples(40)), members=True)
    before = len(list(Path("/proc/self/fd").iterdir()))
    reader = ShardReader([str(path) for path in paths])
    assert [one.key for one in reader] == [one.key for one in samples(40)]
    assert len(list(Path("/proc/self/fd").iterdir())) - before <= 16
    del reader
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_members_that_are_gone_or_of_another_packing_are_named(pack):
    [path] = pack(samples(2), members=True)
    members = path.parent / "members.npz"
    content = members.read_bytes()
    members.write_bytes(content + b"\0")
    with pytest.raises(
        ValueError, match=r"members\.npz: checksum mismatch: index\.json was written with another"
    ):
        find_shards("data.train", str(path))
    members.unlink()
    with pytest.raises(
        ValueError, match=r"members\.npz: no such file, but index\.json expects it$"
    ):
        find_shards("data.train", str(path))


def test_members_never_unpickle(tmp_path, pack):
    [path] = pack(samples(1), members=True)

    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "sprung",)

    np.savez(path.parent / "members.npz", shards=np.array([Trap()], object), ends=np.array([1]))
    with pytest.raises(ValueError, match=r"members\.npz: not readable as members of shards: "):
        ShardReader([str(path)])
    assert not (tmp_path / "sprung").exists()


def test_a_pickle_in_a_shard_is_never_read(tmp_path, pack):
    [path] = pack(samples(1))
    with tarfile.open(path, "a") as tar:
        add_member(tar, "photo-000_00.pyd", b"cos\nabort\n(tR.")
    assert list(ShardReader([str(path)])) == samples(1)


# The index


def test_shards_are_found_with_the_facts_of_their_index(pack):
    written = samples(5)
    paths = pack(written[:3], written[3:])
    found = find_shards("data.train", str(paths[0].parent / "*.tar"))
    assert found.paths == tuple(map(str, paths))
    assert (found.people, found.head_sizes) == (5, 5)
    assert found.joint_set.name == "mpii"
    assert found.source == "made"


def test_shards_of_several_folders_are_joined_once_each(pack):
    [first], [second] = pack(samples(1), folder="a"), pack(samples(2), folder="b")
    found = find_shards("data.train", f"{second}, {first.parent}/*.tar,{first}")
    assert found.paths == (str(first), str(second))
    assert found.people == 3


def test_a_relative_glob_is_resolved_where_the_caller_stands(pack, monkeypatch):
    [path] = pack(samples(1))
    monkeypatch.chdir(path.parent)
    assert find_shards("data.val", "train-*.tar").paths == (str(path),)


def test_an_empty_pattern_is_refused_by_its_setting():
    message = "data.val is required: a glob of shards, such as 'out/train-*.tar'; or --data DIR, "
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        find_shards("data.val", "")


def test_a_pattern_without_a_match_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = f"no shards match data.train='train-*.tar' (looked from {tmp_path})"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        find_shards("data.train", "train-*.tar")


def test_shards_without_an_index_are_refused(pack):
    [path] = pack(samples(1))
    (path.parent / "index.json").unlink()
    with pytest.raises(ValueError, match=r"index\.json: no such file; shards need the index"):
        find_shards("data.train", str(path))


def test_a_shard_of_another_size_than_in_its_index_is_refused(pack):
    [path] = pack(samples(1))
    size = path.stat().st_size
    with path.open("ab") as file:
        file.write(b"\0")
    message = f"{path}: {size + 1:,} bytes, expected {size:,} by its index; pack it again"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        find_shards("data.train", str(path))


def test_a_shard_that_its_index_does_not_know_is_refused(pack):
    [path] = pack(samples(1))
    other = path.with_name("train-000009.tar")
    other.write_bytes(path.read_bytes())
    message = f"{other}: not in {path.parent / 'index.json'}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        find_shards("data.train", str(path.parent / "*.tar"))


def test_shards_of_different_joint_sets_are_refused(pack):
    [first] = pack(samples(1), folder="a")
    made = sample(joint_set=COCO, joints=((1.0, 1.0),) * 17, visibility=(Visibility.VISIBLE,) * 17)
    [second] = pack([made], folder="b", joint_set=COCO)
    pattern = f"{first},{second}"
    message = (
        f"data.train={pattern!r}: shards have different joint sets: mpii and coco; expected one"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        find_shards("data.train", pattern)


def test_shards_whose_joint_sets_only_share_the_name_are_refused(pack):
    [first] = pack(samples(1), folder="a")
    [second] = pack(samples(1), folder="b", joint_set=replace(MPII, limbs=()))
    pattern = f"{second},{first}"
    message = (
        f"data.train={pattern!r}: shards have different joint sets: two called mpii that differ in "
        "limbs; expected one"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        find_shards("data.train", pattern)


def test_an_index_comes_back_as_it_was_written(pack):
    [path] = pack(samples(2))
    content = json.loads((path.parent / "index.json").read_text())
    assert content["format"] == 2
    assert content["joint_set"]["flip_pairs"][0] == ["right_ankle", "left_ankle"]
    index = Index.read(path.parent)
    assert index == index_of(index.shards)
    assert find_shards("data.train", str(path)).crop == index.crop
    assert index.splits() == {"train": {"people": 2, "images": 2, "shards": 1}}
    assert [entry.name for entry in path.parent.iterdir() if entry.suffix == ".part"] == []


def test_people_that_were_left_out_stay_listed_in_the_index(tmp_path):
    index = index_of((), skipped={"crowd": 2}, left_out={"image missing": ["a_00", "b_01"]})
    index.write(tmp_path)
    assert Index.read(tmp_path) == index


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"format": 1, "joint_set": "mpii"},
            "expected an index of format 2, got 1; pack the dataset again",
        ),
        ({"format": 3}, "expected an index of format 2, got 3; pack the dataset again"),
        ({"joint_set": "mpii"}, "joint set must be a table of fields, got 'mpii'"),
        (
            {"joint_set": {"name": "mpii", "joint": []}},
            "joint set: unknown field 'joint'; did you mean 'joints'?",
        ),
        ({"surprise": 1}, "index: unknown field 'surprise'"),
        ({"shards": [{"name": "train-000000.tar"}]}, "shards[0]: field 'split' is absent"),
        ({"shards": [1]}, "shards[0] must be a table of fields, got 1"),
        ({"crop": {}}, "crop: field 'person_px' is absent"),
        (
            {"crop": {"person_px": 64, "margin": 5, "jpeg_quality": 90}},
            "crop.margin must be from 1 to 4, got 5",
        ),
        ({"skipped": {"crowd": -1}}, "skipped.crowd must be a whole number of at least 0, got -1"),
    ],
)
def test_an_index_that_cannot_be_used_is_named(pack, change, message):
    [path] = pack(samples(1))
    index = path.parent / "index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | change))
    with pytest.raises(ValueError, match=re.escape(f"{index}: {message}")):
        Index.read(path.parent)


def test_a_checksum_in_an_index_is_one(pack):
    [path] = pack(samples(1))
    index = path.parent / "index.json"
    entry = json.loads(index.read_text())["shards"][0]
    for wrong in ("\udc80", "", "x" * 64, "A" * 64):
        content = json.loads(index.read_text()) | {"shards": [entry | {"sha256": wrong}]}
        index.write_text(json.dumps(content))
        message = f"{index}: shards[0].sha256 must be 64 hexadecimal digits, got {wrong!r}"
        with pytest.raises(ValueError, match=re.escape(message)):
            Index.read(path.parent)


def test_an_index_that_was_cut_off_is_named(pack):
    [path] = pack(samples(1))
    index = path.parent / "index.json"
    index.write_text(index.read_text()[:40])
    with pytest.raises(ValueError, match=r"index\.json: not readable as JSON: "):
        find_shards("data.train", str(path))


def test_a_key_has_no_characters_at_which_a_tar_splits_it():
    assert replace(person(), image="a/b.c.jpeg", person=3).key == "a-b-c_03"
    assert replace(person(), image="plain").key == "plain_00"
