"""`jobs.inspect` writes card, page and pictures, of sound and of damaged shards."""

import io
import json
import os
import re
import tarfile
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from factories import pack_samples, sample, samples
from matplotlib.figure import Figure

import jobs.inspect
from pipeline.data.inspection.anomalies import anomalies
from pipeline.data.inspection.columns import columns_of
from pipeline.data.inspection.sheets import SHEET_FILES, draw_sheets
from pipeline.data.loader import SampleLoader
from pipeline.data.pictures import draw_augmented, draw_truth
from pipeline.data.shards.index import Index
from pipeline.data.shards.reader import ShardReader
from pipeline.data.shards.sample import record_of
from pipeline.pose.joint_sets import MPII
from pipeline.pose.person import Visibility
from pipeline.settings import DataSettings

HEAD = "head size not within 2-50% of the frame side"
NO_JOINT = "no annotated joint"
UNREADABLE = "picture not decodable"


def inspect(*arguments: object) -> None:
    jobs.inspect.main([str(argument) for argument in arguments])


@pytest.mark.slow
def test_the_command_writes_card_page_and_pictures(tmp_path, capsys):
    broken = sample(3)
    broken = replace(broken, crop=replace(broken.crop, jpeg=b"nothing"))
    train = [*samples(3), broken, sample(4, head_size=0.0)]
    pack_samples(tmp_path / "train", [train])
    pack_samples(tmp_path / "val", [samples(2, first=2)], split="val")
    out = tmp_path / "out" / "new"
    inspect(*(f"{tmp_path}/{split}/*.tar" for split in ("train", "val")), "--out", out)
    printed = capsys.readouterr().out
    assert printed.startswith(
        "made, joint set mpii: 7 people in 5 images, 2 shards, 7 people with a head size\n"
    )
    assert "crops identical to the byte: 1\n  train/photo-002_00 = val/photo-002_00\n" in printed
    content = json.loads((out / "card.json").read_text())
    assert content["splits"] == {
        "train": {"people": 5, "images": 5},
        "val": {"people": 2, "images": 2},
    }
    assert content["leaks"] == ["photo-002.jpg", "photo-003.jpg"]
    [anomaly] = content["anomalies"][UNREADABLE]
    assert (anomaly["key"], anomaly["split"]) == ("photo-003_00", "train")
    assert [entry["key"] for entry in content["anomalies"][HEAD]] == ["photo-004_00"]
    assert sorted(path.name for path in out.glob("*.png")) == sorted(SHEET_FILES)
    page = (out / "index.html").read_text()
    assert re.findall(
        r'<img class="broad" alt="([^"]+)" src="data:image/png;base64,iVBOR', page
    ) == list(SHEET_FILES)
    # Nothing is fetched from anywhere.
    assert not re.search(r"https?:|<script|<link", page)


def test_a_sheet_without_people_is_removed(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "suspicious-stored.png").write_bytes(b"of an earlier look")
    pack_samples(tmp_path / "packed", [samples(2)])
    inspect(tmp_path / "packed" / "*.tar", "--out", out)
    assert not (out / "suspicious-stored.png").exists()
    assert Path(out / "random-stored.png").exists()


# Damage


def member_of(shard: Path, name: str) -> tarfile.TarInfo:
    with tarfile.open(shard) as tar:
        return tar.getmember(name)


def flip_byte(shard: Path, member: str) -> tuple[str, str]:
    """Damage a member's 100th byte; return the checksums it has and should have."""
    start, size = member_of(shard, member).offset_data, member_of(shard, member).size
    content = bytearray(shard.read_bytes())
    sound = zlib.crc32(content[start : start + size])
    content[start + 99] ^= 1
    shard.write_bytes(content)
    return f"{zlib.crc32(content[start : start + size]):08x}", f"{sound:08x}"


def said_of_damage(capsys, *arguments: object) -> tuple[str, str]:
    """Return what a failing command prints, and its error; it must end with status 1."""
    with pytest.raises(SystemExit) as end:
        inspect(*arguments)
    assert end.value.code == 1
    printed = capsys.readouterr()
    return printed.out, printed.err


@pytest.mark.slow
def test_other_bytes_than_were_packed_are_listed_and_all_the_rest_is_written(tmp_path, capsys):
    train = [*samples(3), sample(3, head_size=0.0), sample(4)]
    [shard] = pack_samples(tmp_path / "train", [train], members=True)
    pack_samples(tmp_path / "val", [samples(2, first=10)], split="val", members=True)
    found, expected = flip_byte(shard, "photo-000_00.jpg")
    out = tmp_path / "out"
    patterns = (f"{tmp_path}/train/*.tar", f"{tmp_path}/val/*.tar")
    printed, failure = said_of_damage(capsys, *patterns, "--out", out)
    problem = f"train-000000.tar: photo-000_00.jpg: checksum {found}, expected {expected}"
    assert printed.startswith(
        "made, joint set mpii: 6 people in 6 images, 2 shards, 6 people with a head size; "
        "damaged samples, left out of these counts: 1\n"
    )
    assert f"\ndamaged samples: 1\n  {problem}\n" in printed
    assert failure == f"error: damaged samples: 1; all are in {out}/card.json\n"
    content = json.loads((out / "card.json").read_text())
    assert content["damaged_samples"] == [problem]
    assert content["splits"]["train"] == {"people": 4, "images": 4}
    assert content["joints"]["right_ankle"]["visible"] == 6
    assert [entry["key"] for entry in content["anomalies"][HEAD]] == ["photo-003_00"]
    assert sorted(path.name for path in out.glob("*.png")) == sorted(SHEET_FILES)
    page = (out / "index.html").read_text()
    assert 'damaged samples: <span class="failed">1</span>' in page
    assert f"<li><b>{problem}</b></li>" in page


@pytest.mark.slow
def test_every_sample_beyond_the_end_of_a_shard_cut_short_is_listed(tmp_path, capsys):
    first, second = pack_samples(
        tmp_path / "packed", [samples(4), samples(1, first=4)], members=True
    )
    # Photo 1 keeps 20 bytes of its record, of photos 2 and 3 nothing is left.
    os.truncate(first, member_of(first, "photo-001_00.json").offset_data + 20)
    printed, _ = said_of_damage(capsys, first, second, "--out", tmp_path / "out")
    content = json.loads((tmp_path / "out" / "card.json").read_text())
    pictures = [len(made.crop.jpeg) for made in samples(4)]
    record = len(record_of(sample(1)))
    assert content["damaged_samples"] == [
        f"train-000000.tar: photo-001_00.json: cut off, {record - 20:,} of its bytes are missing",
        f"train-000000.tar: photo-002_00.jpg: cut off, {pictures[2]:,} of its bytes are missing",
        f"train-000000.tar: photo-003_00.jpg: cut off, {pictures[3]:,} of its bytes are missing",
    ]
    assert content["people"] == 2
    assert "damaged samples: 3\n" in printed


def test_a_shard_that_holds_nothing_any_more_leaves_a_page_without_sheets(tmp_path, capsys):
    [shard] = pack_samples(tmp_path / "packed", [samples(2)], members=True)
    os.truncate(shard, 0)
    said_of_damage(capsys, shard, "--out", tmp_path / "out")
    assert len(json.loads((tmp_path / "out" / "card.json").read_text())["damaged_samples"]) == 2
    assert "<img" not in (tmp_path / "out" / "index.html").read_text()
    assert not list((tmp_path / "out").glob("*.png"))


def test_a_record_that_is_not_json_is_listed(tmp_path, capsys):
    # Without members.npz there are no checksums: only the record itself shows the damage.
    [shard] = pack_samples(tmp_path / "packed", [samples(2)])
    content = bytearray(shard.read_bytes())
    content[member_of(shard, "photo-001_00.json").offset_data] = ord("?")
    shard.write_bytes(content)
    said_of_damage(capsys, shard, "--out", tmp_path / "out")
    [problem] = json.loads((tmp_path / "out" / "card.json").read_text())["damaged_samples"]
    assert problem.startswith(
        "train-000000.tar: photo-001_00: not a sample record: JSONDecodeError"
    )


def test_a_shard_longer_than_in_its_index_is_another_shard(tmp_path, capsys):
    [shard] = pack_samples(tmp_path / "packed", [samples(2)], members=True)
    [entry] = Index.read(shard.parent).shards
    os.truncate(shard, entry.bytes + 512)
    with pytest.raises(SystemExit) as end:
        inspect(shard, "--out", tmp_path / "out")
    assert end.value.code == 2
    assert f"expected {entry.bytes:,} by its index" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_people_that_training_refuses_are_no_damage(tmp_path):
    people = [*samples(2), sample(2, visibility=(Visibility.MISSING,) * 16)]
    pack_samples(tmp_path / "packed", [people], members=True)
    inspect(tmp_path / "packed" / "*.tar", "--out", tmp_path / "out")
    content = json.loads((tmp_path / "out" / "card.json").read_text())
    assert [entry["key"] for entry in content["anomalies"][NO_JOINT]] == ["photo-002_00"]
    assert content["damaged_samples"] == []


def test_sheets_show_the_people_they_name_past_damaged_samples(pack):
    packed = [*samples(3), sample(3, head_size=0.0)]
    [shard] = pack(packed, members=True)
    flip_byte(shard, "photo-000_00.jpg")
    reader = ShardReader([str(shard)])
    read = columns_of(reader, ["train"] * 4, MPII)
    flags = anomalies(read, MPII)
    loader = SampleLoader(reader, MPII, 64)
    shown = {s.name: s for s in draw_sheets(loader, read, flags, DataSettings(), seed=0)}
    suspicious = shown["suspicious"]
    assert [name for name, _ in suspicious.captions] == ["train/photo-003_00"]
    # The same pictures as of this one person, the fourth in the shard.
    figure = draw_truth(
        SampleLoader(packed, MPII, 64), np.array([3]), "suspicious records: stored crops"
    )
    assert suspicious.files["suspicious-stored.png"] == png(figure)
    figure = draw_augmented(
        SampleLoader(packed, MPII, 64),
        DataSettings(),
        np.array([3]),
        "suspicious records: as training sees them",
    )
    assert suspicious.files["suspicious-training.png"] == png(figure)


def png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return file.getvalue()
