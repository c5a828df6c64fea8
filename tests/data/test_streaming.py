"""Shards read front to back: compressed, foreign and broken ones, in equal steps."""

import gzip
import itertools
import json
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
from factories import add_member, sample, samples
from trainers import alone, save, task_of

from pipeline.data.shards.sample import BadSampleError, BadSamples, Sample, record_of
from pipeline.data.shards.streaming import ShardStream
from pipeline.run.plan import plan_training
from pipeline.settings import DataSettings, Settings


def compressed(paths: list[Path]) -> list[str]:
    """The shards as .tar.gz, in a folder without an index."""
    folder = paths[0].parent.with_name("compressed")
    folder.mkdir()
    made = []
    for path in paths:
        target = folder / f"{path.name}.gz"
        target.write_bytes(gzip.compress(path.read_bytes()))
        made.append(str(target))
    return made


def stream_of(locations: list[str], **changes) -> ShardStream:
    given = {"locations": locations, "seed": 0, "rank": 0, "workers": 1, "window": 4} | changes
    return ShardStream(**given)


def keys_of(stream: ShardStream, steps: range, *, epoch: int = 0, size: int = 2) -> list[list[str]]:
    batches = stream.batches(epoch, size, steps, BadSamples(0))
    return [[one.key for one in held] for _, held in batches]


def test_compressed_shards_give_the_samples_that_were_packed(pack):
    written = samples(5)
    locations = compressed(pack(written[:3], written[3:]))
    [(numbers, held)] = stream_of(locations, window=1).batches(0, 5, range(1), BadSamples(0))
    assert numbers.tolist() == [0, 1, 2, 3, 4]
    assert sorted(held, key=lambda one: one.key) == written


def test_a_sample_comes_from_its_own_shard_pass_after_pass(pack):
    written = samples(6)
    locations = [str(path) for path in pack(written[:3], written[3:])]
    taken = itertools.chain(*keys_of(stream_of(locations, window=1), range(6)))
    halves = [sorted(itertools.islice(taken, 6)) for _ in range(2)]
    # Twelve samples of six: two whole passes, since nothing waits in a buffer of one.
    assert halves == [[one.key for one in written]] * 2


def test_workers_read_shards_of_their_own_and_take_equal_steps(pack):
    written = samples(9)
    locations = [str(p) for p in pack(written[:5], written[5:6], written[6:8], written[8:])]
    ranks = [
        keys_of(stream_of(locations, rank=rank, workers=2, window=1), range(5)) for rank in (0, 1)
    ]
    assert [len(steps) for steps in ranks] == [5, 5]
    assert all(len(step) == 2 for steps in ranks for step in steps)
    # In the first pass no shard is read by both.
    order = np.random.default_rng([0, 0, 0]).permutation(4).tolist()
    held = [written[:5], written[5:6], written[6:8], written[8:]]
    for rank in (0, 1):
        mine = {one.key for shard in order[rank::2] for one in held[shard]}
        assert set(itertools.chain(*ranks[rank][: len(mine) // 2])) <= mine


def test_numbers_of_samples_differ_between_workers_and_steps(pack):
    locations = [str(path) for path in pack(samples(2), samples(2, first=2))]
    seen = [
        number
        for rank in (0, 1)
        for numbers, _ in stream_of(locations, rank=rank, workers=2).batches(
            0, 3, range(2), BadSamples(0)
        )
        for number in numbers.tolist()
    ]
    assert sorted(seen) == list(range(12))


def test_a_stream_resumes_at_any_step(pack):
    locations = [str(path) for path in pack(samples(5), samples(4, first=5))]
    stream = stream_of(locations, window=3)
    whole = keys_of(stream, range(7), epoch=2)
    assert keys_of(stream, range(3, 7), epoch=2) == whole[3:]
    assert keys_of(stream, range(7), epoch=1) != whole


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> str:
    with tarfile.open(path, mode) as tar:
        for name, data in members.items():
            add_member(tar, name, data)
    return str(path)


FOREIGN = {
    "center": [100, 80],
    "scale": 0.5,
    "joints": [[90 + k, 80.5] for k in range(16)],
    "visibility": [2] * 15 + [0],
}


def foreign(path: Path, **changes) -> str:
    record = json.dumps(FOREIGN | changes).encode()
    return write_tar(path, {"a/b.JPG": sample().crop.jpeg, "a/b.json": record}, "w:xz")


def first_of(location: str) -> Sample:
    [one] = stream_of([location]).first(1, BadSamples(0))
    return one


def test_a_foreign_record_needs_no_more_than_joints_and_a_frame(tmp_path):
    one = first_of(foreign(tmp_path / "theirs.tar.xz"))
    assert (one.person.image, one.person.person, one.person.head_size) == ("a/b", 0, None)
    assert one.person.joints[3] == (93, 80.5)
    # The picture is the whole original: pixel (5, 7) is pixel (5, 7).
    assert one.crop.from_original.tolist() == np.eye(3).tolist()


@pytest.mark.parametrize("absent", FOREIGN)
def test_a_foreign_record_without_one_of_those_is_named(tmp_path, absent):
    kept = {name: value for name, value in FOREIGN.items() if name != absent}
    members = {"k.jpg": sample().crop.jpeg, "k.json": json.dumps(kept).encode()}
    path = write_tar(tmp_path / "theirs.tar", members)
    with pytest.raises(BadSampleError, match=rf"^theirs\.tar: k: not a sample record: .*{absent}"):
        first_of(path)


@pytest.mark.parametrize("record", [b"no JSON", b"[1]", b"3"])
def test_a_foreign_record_that_is_none_is_named(tmp_path, record):
    path = write_tar(tmp_path / "t.tar", {"k.jpg": b"x", "k.json": record})
    with pytest.raises(BadSampleError, match=r"^t\.tar: k: not a sample record: "):
        first_of(path)


def test_a_sample_without_picture_or_record_is_named(tmp_path):
    path = write_tar(tmp_path / "t.tar", {"k.json": b"{}", "l.jpg": b"x"})
    with pytest.raises(BadSampleError, match=r"^t\.tar: k: expected a picture and a \.json$"):
        first_of(path)


def test_a_pickle_among_the_members_is_never_read(tmp_path):
    good = sample()
    members = {"k.pyd": b"cos\nabort\n(tR.", "k.jpg": good.crop.jpeg, "k.json": record_of(good)}
    path = write_tar(tmp_path / "t.tar", members)
    assert first_of(path) == good


def broken(pack) -> list[str]:
    written = samples(6)
    locations = compressed(pack(written[:3], written[3:]))
    path = Path(locations[0])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return locations


def test_a_stream_that_breaks_off_is_an_error_by_default(pack):
    with pytest.raises(
        BadSampleError,
        match=r"^train-000000\.tar\.gz: broke off after (its start|photo-\d\d\d_00): "
        r"Compressed file ended before the end-of-stream marker was reached$",
    ):
        keys_of(stream_of(broken(pack)), range(5))


def test_a_stream_that_breaks_off_is_skipped_and_counted_once(pack):
    bad = BadSamples(1)
    batches = list(stream_of(broken(pack), window=1).batches(0, 2, range(6), bad))
    assert [len(held) for _, held in batches] == [2] * 6
    assert list(bad.found) == ["train-000000.tar.gz"]


def test_shards_without_a_sample_are_an_error_not_a_hang(tmp_path):
    path = write_tar(tmp_path / "readme.tar", {"README.txt": b"none here"})
    with pytest.raises(BadSampleError, match=r"no samples in .*readme\.tar"):
        keys_of(stream_of([path]), range(1))


def test_a_file_that_is_no_tar_is_named(tmp_path):
    path = tmp_path / "page.tar"
    path.write_bytes(b"<html>404</html>" * 100)
    with pytest.raises(BadSampleError, match=r"^page\.tar: broke off after its start: "):
        keys_of(stream_of([str(path)]), range(1))


# Training from a stream


def streaming(pack, **changes) -> dict:
    train = compressed(pack(samples(4), samples(3, first=4)))
    val = pack(samples(3, first=20), folder="val", split="val")
    return {
        "data.train": str(Path(train[0]).parent / "*.tar.gz"),
        "data.val": str(val[0]),
        "data.reading": "streaming",
        "data.epoch_samples": 7,
        "optim.batch_size": 2,
    } | changes


def test_a_plan_takes_the_joint_set_from_the_validation_shards(pack, tmp_path):
    settings = Settings.from_flat(streaming(pack) | {"ray.storage": str(tmp_path / "runs")})
    plan = plan_training(settings)
    assert (plan.train.people, plan.train.joint_set.name) == (7, "mpii")
    assert [Path(path).name for path in plan.train.paths] == [
        "train-000000.tar.gz",
        "train-000001.tar.gz",
    ]


def test_more_workers_than_streamed_shards_are_refused(pack):
    settings = Settings.from_flat(streaming(pack, **{"ray.workers": 4, "optim.batch_size": 4}))
    with pytest.raises(ValueError, match=r"has 2 shards, expected at least ray\.workers=4"):
        plan_training(settings)


@pytest.mark.slow
def test_a_trainer_trains_from_a_stream_and_resumes_within_an_epoch(pack, tmp_path):
    settings = streaming(pack)
    paths = sorted(Path(settings["data.train"]).parent.glob("*.tar.gz"))
    task = task_of(paths, [Path(settings["data.val"])], **settings)
    straight = alone(task)
    assert straight.steps_per_epoch == 3
    losses = [report.loss for report in straight.train_epoch(every_s=0.0)]
    first = alone(task)
    reports = first.train_epoch(every_s=0.0)
    next(reports)
    reports.close()
    save(first, tmp_path, {})
    second = alone(task)
    second.state.restore(tmp_path)
    *_, last = second.train_epoch(every_s=0.0)
    # The epoch's mean counts the step before the interruption.
    assert last.loss == losses[-1]
    assert second.state.progress == straight.state.progress


@pytest.mark.parametrize(
    ("changes", "got"),
    [({"reading": "streaming"}, 0), ({"epoch_samples": 5}, 5)],
)
def test_the_length_of_an_epoch_belongs_to_streaming_alone(changes, got):
    message = f"data.epoch_samples must be above 0 with data.reading=streaming, else 0, got {got}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        DataSettings(**changes)
