"""Security: secrets in URIs, pickles, and tar members that are not plain files."""

import importlib
import io
import os
import pickle
import re
import tarfile
import traceback
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from factories import TINY_NETWORK, sample, samples
from mlflow import MlflowClient
from mlflow.environment_variables import MLFLOW_ALLOW_PICKLE_DESERIALIZATION
from web_server import publish

import jobs.evaluate
import jobs.train
import pipeline.tracking
from pipeline.data.shards.index import find_shards
from pipeline.data.shards.reader import ShardReader
from pipeline.data.shards.sample import BadSamples, record_of
from pipeline.data.shards.streaming import ShardStream
from pipeline.io import remote
from pipeline.io.cache import ShardCache
from pipeline.io.console import fail
from pipeline.model.hourglass import StackedHourglass
from pipeline.pose.joint_sets import MPII
from pipeline.run.checkpoint import load_network, take_snapshot, write_checkpoint
from pipeline.run.metadata import CheckpointMetadata, Progress
from pipeline.settings import Settings
from pipeline.tracking.links import link
from pipeline.tracking.runs import start_run

SECRET = "hunter2"
QUERY = f"?X-Amz-Signature={SECRET}"

# Secrets


def options(settings: dict[str, object]) -> list[str]:
    return [word for key, value in settings.items() for word in (f"--{key}", str(value))]


def test_a_dry_run_shows_no_secret(web, pack, tmp_path, capsys):
    train = publish(web, pack(samples(6), samples(6, first=6), members=True)) + QUERY
    settings = TINY_NETWORK | {
        "data.train": train,
        "data.val": str(pack(samples(2), split="val", folder="val")[0]),
        "ray.storage": tmp_path / "runs",
        "tracking.uri": f"postgresql://anna:{SECRET}@host/runs",
    }
    jobs.train.main([*options(settings), "--dry-run"])
    out = capsys.readouterr().out
    assert f"data.train = {train.replace(SECRET, '***')!r}" in out
    assert "tracking.uri = 'postgresql://***@host/runs'" in out
    assert SECRET not in out


@pytest.mark.parametrize(
    "train",
    [
        f"http://HOST/absent.tar{QUERY}",
        f"http://anna:{SECRET}@HOST/absent-*.tar",
        f"pipe:curl http://anna:{SECRET}@HOST/train.tar",
        f"s3:bucket/train.tar{QUERY}",
        f"/absent.tar{QUERY}",
    ],
)
def test_an_error_shows_no_secret(web, capsys, train):
    settings = {"data.train": train.replace("HOST", web.url[7:]), "data.val": "any"}
    with pytest.raises(SystemExit) as end:
        jobs.train.main(options(settings))
    output = capsys.readouterr()
    assert end.value.code == 2
    assert "***" in output.err
    assert SECRET not in output.out + output.err


def test_an_error_of_another_library_shows_no_secret(capsys):
    with pytest.raises(SystemExit):
        fail(f"training failed: can't connect to http://anna:{SECRET}@host")
    assert capsys.readouterr().err.endswith("http://***@host\n")


def test_an_error_in_a_worker_shows_no_secret(web, pack, monkeypatch):
    monkeypatch.setattr(remote, "sleep", lambda seconds: None)
    [location] = find_shards(
        "data.train", publish(web, pack(samples(2), members=True)) + QUERY
    ).paths
    reader = ShardReader([location])
    web.statuses += [503] * remote.ATTEMPTS
    with pytest.raises(ConnectionError, match=r"X-Amz-Signature=\*\*\*: given up") as raised:
        reader[0]
    assert SECRET not in "".join(traceback.format_exception(raised.value))


def saved_with_secrets(folder: Path) -> CheckpointMetadata:
    settings = Settings.from_flat(
        TINY_NETWORK
        | {"data.train": f"https://h/a.tar{QUERY}", "tracking.uri": f"http://a:{SECRET}@h"}
    )
    metadata = CheckpointMetadata(
        settings=settings, joint_set=MPII, progress=Progress(), metrics={}
    )
    folder.mkdir()
    write_checkpoint(folder, take_snapshot(StackedHourglass(settings.model), metadata))
    return metadata


def test_a_checkpoint_has_no_secret_and_is_read_without_it(tmp_path):
    metadata = saved_with_secrets(tmp_path / "saved")
    text = (tmp_path / "saved" / "checkpoint.json").read_text()
    assert SECRET not in text
    assert '"data.train": "https://h/a.tar?X-Amz-Signature=***"' in text
    _, read = load_network(tmp_path / "saved", torch.device("cpu"))
    assert read.settings.model == metadata.settings.model


def test_a_checkpoint_is_evaluated_on_other_data(web, pack, tmp_path, capsys):
    saved_with_secrets(tmp_path / "saved")
    publish(web, pack(samples(2), split="val", members=True))
    val = f"{web.url}/pose/val-000000.tar"
    out = tmp_path / "scores.json"
    jobs.evaluate.main(
        ["--checkpoint", str(tmp_path / "saved"), "--data.val", val + QUERY]
        + ["--json", str(out), "--threads", "1"]
    )
    assert "X-Amz-Signature=***" in out.read_text()
    assert SECRET not in out.read_text() + capsys.readouterr().out


def test_mlflow_keeps_no_secret(tmp_path, new_database):
    uri = new_database(tmp_path / "mlflow.db")

    def started(train: str):
        return start_run(
            *(uri, "any", "run"),
            params={"data.train": train},
            tags={"source": f"s3://key:{SECRET}@bucket"},
            artifacts=tmp_path,
        )

    started(f"https://h/a.tar{QUERY}")
    run = started(f"https://h/b.tar{QUERY}")
    kept = MlflowClient(uri).get_run(run.run_id).data
    assert kept.params["data.train"] == "https://h/a.tar?X-Amz-Signature=***"
    assert kept.tags["changed.data.train"] == "https://h/b.tar?X-Amz-Signature=***"
    assert kept.tags["source"] == "s3://***@bucket"
    assert SECRET.encode() not in (tmp_path / "mlflow.db").read_bytes()


@pytest.mark.parametrize("uri", ["nosuch://anna:{}@host/runs", "http://anna:{}@127.0.0.1:1"])
def test_an_error_of_mlflow_shows_no_secret(tmp_path, uri):
    with pytest.raises(ValueError, match=r"^tracking\.uri=.*\*\*\*@") as raised:
        start_run(uri.format(SECRET), "any", "run", params={}, tags={}, artifacts=tmp_path)
    assert SECRET not in "".join(traceback.format_exception(raised.value))


def test_a_link_to_mlflow_shows_no_secret():
    assert (
        link(f"http://anna:{SECRET}@host", "a") == "http://host/#/a?workflowType=machine_learning"
    )


# Pickles


class Trap:
    """Object that makes a folder when it is unpickled."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self):
        return os.mkdir, (str(self.made),)


def pickles(made: Path) -> dict[str, bytes]:
    """Return the trap under each suffix that webdataset, torch or NumPy would unpickle."""
    plain, of_torch, of_numpy = pickle.dumps(Trap(made)), io.BytesIO(), io.BytesIO()
    torch.save(Trap(made), of_torch)
    np.save(of_numpy, np.array([Trap(made)], object))
    return {
        **dict.fromkeys(("pyd", "pkl", "pickle", "pik"), plain),
        **dict.fromkeys(("pth", "pt"), of_torch.getvalue()),
        "npy": of_numpy.getvalue(),
    }


def write_tar(path: Path, members: dict[str | tarfile.TarInfo, bytes]) -> str:
    """Write members by name or by header."""
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            header = tarfile.TarInfo(name) if isinstance(name, str) else name
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    return str(path)


def read_both_ways(path: str) -> list[list]:
    stream = ShardStream(locations=[path], seed=0, rank=0, workers=1, window=1)
    return [list(ShardReader([path])), stream.first(1, BadSamples(0))]


def test_no_pickle_of_a_shard_is_loaded(tmp_path):
    good, made = sample(), tmp_path / "ran"
    members = {f"k.{suffix}": content for suffix, content in pickles(made).items()}
    members |= {"k.jpg": good.crop.jpeg, "k.json": record_of(good)}
    path = write_tar(tmp_path / "t.tar", members)
    assert read_both_ways(path) == [[good], [good]]
    assert not made.exists()
    # The trap works: webdataset's own decoding of this member runs it.
    webdataset.autodecode.basichandlers("pyd", members["k.pyd"])
    assert made.exists()


def test_mlflow_may_load_no_pickle(monkeypatch):
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    assert MLFLOW_ALLOW_PICKLE_DESERIALIZATION.get() is True
    importlib.reload(pipeline.tracking)
    assert MLFLOW_ALLOW_PICKLE_DESERIALIZATION.get() is False


# Members that are not plain files, or have paths of files elsewhere


def files_below(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


@pytest.mark.parametrize("key", ["../escaped", "/tmp/hourglass-escaped", "a/../../escaped"])
def test_a_member_with_the_path_of_a_file_elsewhere_is_skipped_or_refused(
    tmp_path, monkeypatch, key
):
    folder = tmp_path / "deep" / "deeper"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    good = sample()
    elsewhere = {f"{key}.jpg": good.crop.jpeg, f"{key}.json": record_of(good)}
    members = elsewhere | {"k.jpg": good.crop.jpeg, "k.json": record_of(good)}
    path = write_tar(folder / "t.tar", members)
    before = files_below(tmp_path)
    stream = ShardStream(locations=[path], seed=0, rank=0, workers=1, window=1)
    assert [one.place for one in stream.first(2, BadSamples(0))] == ["t.tar: k"] * 2
    with pytest.raises(ValueError, match=re.escape(f"{path}: {key}.jpg: expected a file's name")):
        ShardReader([path])
    assert files_below(tmp_path) == before
    assert not Path("/tmp/hourglass-escaped.jpg").exists()


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE]
)
def test_a_member_that_is_not_a_plain_file_is_refused_or_skipped(tmp_path, kind):
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(sample(3).crop.jpeg)
    good, link = sample(), tarfile.TarInfo("j.jpg")
    link.type, link.linkname = kind, str(secret)
    members = {link: b"", "k.jpg": good.crop.jpeg, "k.json": record_of(good)}
    path = write_tar(tmp_path / "t.tar", members)
    before = files_below(tmp_path)
    stream = ShardStream(locations=[path], seed=0, rank=0, workers=1, window=1)
    assert stream.first(1, BadSamples(0)) == [good]
    with pytest.raises(ValueError, match=r"t\.tar: j\.jpg: expected a file, got a link"):
        ShardReader([path])
    assert files_below(tmp_path) == before


@pytest.mark.parametrize("scheme", ["http", "s3"])
@pytest.mark.parametrize(
    "name", ["..", "../../escaped.tar", "..%2f..%2fescaped.tar", "/escaped.tar", "é b;rm -rf", ""]
)
def test_a_copy_of_a_remote_shard_stays_in_the_cache(tmp_path, monkeypatch, scheme, name):
    def fetch(location: str, target: Path, **_: object) -> None:
        target.write_bytes(b"content")

    monkeypatch.setattr(remote, "fetch", fetch)
    cache, digest = ShardCache(tmp_path / "deep" / "cache", 10**6), sha256(b"content").hexdigest()
    cache.open(f"{scheme}://host/pose/{name}", 7, digest).close()
    lock, copy = sorted(files_below(tmp_path) - {tmp_path / "deep", cache.folder})
    assert lock == cache.folder / ".lock"
    assert (copy.parent, copy.name[:65]) == (cache.folder, f"{digest}-")


def test_an_index_cannot_lead_out_of_the_cache(tmp_path):
    cache = ShardCache(tmp_path / "cache", 10**6)
    with pytest.raises(ValueError, match="expected a SHA-256 of 64 digits"):
        cache.open("http://h/a.tar", 1, "../" + "0" * 61)
