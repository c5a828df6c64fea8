"""Objects in buckets: reads, conditional writes and errors, against a server that speaks S3."""

import hashlib
import os
import socket
from collections.abc import Iterator

import pytest
from obstore.store import MemoryStore
from s3_server import BUCKET, make_bucket, s3_server, set_aws_environment

from jobs.benchmark.timing import environment
from jobs.chaos.store import Store, executable
from pipeline.io import objects as home
from pipeline.io.location import bucket_and_key, is_store
from pipeline.io.objects import AbsentError, ConflictError, Objects, StoreError

LOCATION = f"s3://{BUCKET}/runs/pose"


@pytest.fixture(autouse=True)
def fresh_clients() -> Iterator[None]:
    home._store.cache_clear()
    yield
    home._store.cache_clear()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server() as found:
        yield found


@pytest.fixture(scope="module")
def seaweedfs(tmp_path_factory) -> Iterator[Store]:
    try:
        executable()
    except ValueError as error:
        pytest.skip(str(error))
    store = Store(tmp_path_factory.mktemp("store"))
    try:
        with environment(store.environment):
            store.start()
            store.wait()
        yield store
    finally:
        store.close()


# Two servers that have nothing in common, and none.
@pytest.fixture(params=["moto", "seaweedfs", "memory"])
def objects(request, monkeypatch) -> Objects:
    if request.param == "memory":
        return Objects(LOCATION, MemoryStore())
    if request.param == "moto":
        set_aws_environment(monkeypatch, request.getfixturevalue("endpoint"), "AWS_ENDPOINT_URL")
    else:
        set_aws_environment(monkeypatch, "", "AWS_ENDPOINT_URL")
        for name, value in request.getfixturevalue("seaweedfs").environment.items():
            monkeypatch.setenv(name, value)
    make_bucket()
    found = Objects(LOCATION)
    found.delete([one.name for one in found.found()])
    return found


def test_what_was_put_is_read_back(objects, tmp_path):
    objects.put("a/b", b"content")
    assert objects.get("a/b")[0] == b"content"
    assert (objects.head("a/b").name, objects.head("a/b").size) == ("a/b", 7)
    objects.fetch("a/b", tmp_path / "b", 7, hashlib.sha256(b"content").hexdigest())
    assert (tmp_path / "b").read_bytes() == b"content"


def test_a_large_file_travels_in_parts(objects, tmp_path):
    content = os.urandom(2**20) * 9  # above the size of a part
    (tmp_path / "large").write_bytes(content)
    with (tmp_path / "large").open("rb") as file:
        objects.put("large", file)
    sha256 = hashlib.sha256(content).hexdigest()
    objects.fetch("large", tmp_path / "fetched", len(content), sha256)
    assert (tmp_path / "fetched").read_bytes() == content


def test_only_the_stated_bytes_of_an_object_that_has_grown_are_fetched(objects, tmp_path):
    objects.put("journal", b"first\nsecond\n")
    objects.fetch("journal", tmp_path / "journal", 6, hashlib.sha256(b"first\n").hexdigest())
    assert (tmp_path / "journal").read_bytes() == b"first\n"


def test_other_content_than_was_written_is_refused(objects, tmp_path):
    objects.put("a", b"other")
    with pytest.raises(StoreError, match=f"^{LOCATION}/a: other content than was written"):
        objects.fetch("a", tmp_path / "a", 5, hashlib.sha256(b"wrote").hexdigest())


def test_objects_below_a_folder_are_listed(objects):
    for name in ("a/1", "a/2", "ab/3"):
        objects.put(name, b"")
    assert sorted(found.name for found in objects.found("a")) == ["a/1", "a/2"]
    assert len(list(objects.found())) == 3


def test_an_object_is_created_once(objects):
    objects.create("owner", b"one")
    with pytest.raises(ConflictError, match=f"^{LOCATION}/owner: another process has written it"):
        objects.create("owner", b"two")
    assert objects.get("owner")[0] == b"one"


def test_an_object_is_replaced_only_in_the_version_last_seen(objects):
    first = objects.create("manifest", b"one")
    second = objects.replace("manifest", b"two", first)
    with pytest.raises(ConflictError):
        objects.replace("manifest", b"three", first)
    objects.replace("manifest", b"four", second)
    assert objects.get("manifest")[0] == b"four"


def test_an_absent_object_is_named(objects):
    for read in (objects.get, objects.head):
        with pytest.raises(AbsentError, match=f"^{LOCATION}/none: no such object$"):
            read("none")
    objects.delete(["none"])


def test_a_suitable_store_passes_and_keeps_no_probe(objects):
    objects.check_conditions()
    assert list(objects.found()) == []


def test_a_bucket_that_does_not_exist_is_named(endpoint, monkeypatch):
    set_aws_environment(monkeypatch, endpoint, "AWS_ENDPOINT_URL_S3")
    with pytest.raises(
        ValueError, match=r"^s3://none/runs: no such bucket; expected a bucket that"
    ):
        Objects("s3://none/runs").check_conditions()


def test_a_store_that_does_not_answer_is_named_without_its_credentials(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    set_aws_environment(monkeypatch, f"http://127.0.0.1:{port}", "AWS_ENDPOINT_URL")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "never-shown")
    with pytest.raises(
        StoreError, match=r"^s3://pose/runs/pose/a: the store does not answer"
    ) as error:
        Objects(LOCATION).get("a")
    assert "never-shown" not in str(error.value)
    assert "\n" not in str(error.value)


def test_credentials_of_a_profile_are_used(tmp_path, monkeypatch, endpoint):
    set_aws_environment(monkeypatch, endpoint, "AWS_ENDPOINT_URL")
    make_bucket()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    (tmp_path / "credentials").write_text(
        "[lab]\naws_access_key_id = made\naws_secret_access_key = made\nregion = us-east-1\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    objects = Objects(LOCATION)
    objects.put("a", b"1")
    assert objects.get("a")[0] == b"1"


@pytest.mark.parametrize(
    "location",
    [
        "s3://",
        "s3:///key",
        "s3://bucket/../other",
        "s3://a/./b",
        "s3://user:word@bucket/a",
        "gs://?",
    ],
)
def test_a_location_that_is_no_bucket_is_refused_without_its_secrets(location):
    with pytest.raises(ValueError, match="expected s3://BUCKET/FOLDER") as error:
        bucket_and_key(location)
    assert "word" not in str(error.value)


def test_buckets_are_told_from_folders():
    assert all(map(is_store, ("s3://a/b", "gs://a", "az://a/b")))
    assert not any(map(is_store, ("a/b", "file:///a", "http://host/a", "s3", "s3:a")))
    assert bucket_and_key("s3://bucket/runs/") == ("bucket", "runs")
