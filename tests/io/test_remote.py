"""Remote shards: patterns, reads and downloads from real servers, and the cache."""

import errno
import gzip
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import boto3
import fsspec.config
import pytest
from factories import samples
from s3_server import s3_server, set_aws_environment
from trainers import alone, task_of
from web_server import CONTENT, SIZE, WebServer, publish
from yarl import URL

from pipeline.data.sampler import epoch_order
from pipeline.data.shards.index import find_shards
from pipeline.data.shards.reader import ShardReader
from pipeline.data.shards.sample import BadSampleError, BadSamples, record_of
from pipeline.data.shards.streaming import ShardStream
from pipeline.io import location, remote, transport
from pipeline.io.atomic import atomic_write
from pipeline.io.cache import ShardCache
from pipeline.io.location import is_remote, local_path, name_of, sibling, spell_out
from pipeline.io.own import open_own, read_own
from pipeline.io.remote import expand, fetch, read_all, read_range, size_of
from pipeline.pose.joint_sets import MPII
from pipeline.run.plan import plan_training
from pipeline.settings import Settings


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(autouse=True)
def waits(monkeypatch) -> list[float]:
    """Record the waits between retries, in seconds, and skip them."""
    waited: list[float] = []
    monkeypatch.setattr(remote, "sleep", waited.append)
    return waited


@pytest.fixture(autouse=True)
def fresh_connections(monkeypatch) -> Iterator[None]:
    """Give every test new connections, without a proxy."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    transport._filesystem.cache_clear()
    yield
    transport._filesystem.cache_clear()


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    with s3_server() as endpoint:
        yield endpoint


@pytest.fixture
def bucket(s3_endpoint, monkeypatch) -> str:
    """Make a bucket with CONTENT as two training shards and a validation shard."""
    set_aws_environment(monkeypatch, s3_endpoint, "AWS_ENDPOINT_URL")
    client = boto3.client("s3")
    client.create_bucket(Bucket="pose")
    for name in ("train-000000.tar", "train-000001.tar", "val-000000.tar"):
        client.put_object(Bucket="pose", Key=f"mpii/{name}", Body=CONTENT)
    client.close()
    return "s3://pose/mpii"


# Locations


@pytest.mark.parametrize("scheme", ["http", "https", "s3", "gs"])
def test_remote_urls_are_remote(scheme):
    assert is_remote(f"{scheme}://pose/train-000000.tar")


@pytest.mark.parametrize(
    "location", ["out/train.tar", "/out/a:b.tar", "file:///out/train.tar", "a b.tar"]
)
def test_paths_and_file_urls_are_local(location):
    assert not is_remote(location)


@pytest.mark.parametrize(
    "location", ["pipe:cat train.tar", "ftp://host/train.tar", "s3:pose/train.tar", "HTTP://h/a"]
)
def test_other_schemes_are_refused_by_name(location):
    message = (
        f"{location}: expected a local path or one of file://, gs://, http://, https://, s3://"
    )
    for question in (is_remote, local_path, expand):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            question(location)


@pytest.mark.parametrize(
    ("location", "path"),
    [
        ("out/train.tar", "out/train.tar"),
        ("file:///out/a%20b/train-?.tar", "/out/a b/train-?.tar"),
        ("file://localhost/out/train.tar", "/out/train.tar"),
        ("file:/out/train.tar", "/out/train.tar"),
    ],
)
def test_a_file_url_is_the_path_in_it(location, path):
    assert local_path(location) == path


@pytest.mark.parametrize("location", ["file://host/out/train.tar", "file:train.tar", "file://"])
def test_a_file_url_of_another_host_or_without_a_path_is_refused(location):
    with pytest.raises(ValueError, match=f"^{re.escape(location)}: expected an absolute path"):
        local_path(location)


@pytest.mark.parametrize(
    ("location", "beside", "name"),
    [
        ("/out/train.tar", "/out/index.json", "train.tar"),
        ("train.tar", "index.json", "train.tar"),
        ("file:///out/train.tar", "file:///out/index.json", "train.tar"),
        ("s3://pose/a?b/train#1.tar", "s3://pose/a?b/index.json", "train#1.tar"),
        ("http://h/out/train.tar?key=a/b", "http://h/out/index.json?key=a/b", "train.tar"),
    ],
)
def test_a_sibling_lies_in_the_same_folder(location, beside, name):
    assert sibling(location, "index.json") == beside
    assert name_of(location) == name


# Patterns


def test_local_patterns_name_files_by_absolute_paths_once_each(tmp_path, monkeypatch):
    for name in ("train-1.tar", "train-0.tar", "val-0.tar", "val-1.tar"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    pattern = f"train-*.tar, {tmp_path}/train-1.tar,file://{tmp_path}/val-?.tar,"
    names = ("train-0.tar", "train-1.tar", "val-0.tar", "val-1.tar")
    assert expand(pattern) == [str(tmp_path / name) for name in names]
    assert expand("{train,val}-{0..1}.tar") == expand(pattern)
    assert expand("test-*.tar") == expand("test.tar") == []


def test_a_local_shard_that_braces_name_but_is_not_there_is_refused(tmp_path):
    (tmp_path / "train-0.tar").touch()
    pattern = f"{tmp_path}/train-{{0..1}}.tar"
    message = f"{tmp_path}/train-1.tar: no such file, expected what {pattern!r} names"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        expand(pattern)


def test_braces_are_expanded_over_http_with_commas_inside_them():
    assert expand("http://h/{train,val}-{08..10}.tar?key=[1],https://h/a.tar") == [
        *(f"http://h/train-{number}.tar?key=[1]" for number in ("08", "09", "10")),
        *(f"http://h/val-{number}.tar?key=[1]" for number in ("08", "09", "10")),
        "https://h/a.tar",
    ]


def test_a_wildcard_over_http_is_refused_for_braces():
    with pytest.raises(ValueError, match=r"^http://h/train-\*\.tar: http can't list a folder"):
        expand("http://h/train-*.tar")


def test_unclosed_braces_are_refused():
    with pytest.raises(ValueError, match=r"^http://h/\{0\.\.9\.tar: Unbalanced braces"):
        expand("http://h/{0..9.tar")


@pytest.mark.parametrize("braces", ["{0..1000}", "{0..99999999999}", "{0..9}" * 4, "{a,b}" * 10])
def test_braces_of_more_names_than_shards_are_refused(monkeypatch, braces):
    monkeypatch.setattr(location, "_MOST_NAMES", 1000)
    with pytest.raises(ValueError, match=r"braces of more than 1,000,000 names$"):
        list(spell_out(f"http://h/{braces}.tar"))


def test_wildcards_match_in_a_bucket(bucket):
    train = [f"{bucket}/train-000000.tar", f"{bucket}/train-000001.tar"]
    assert expand(f"{bucket}/train-*.tar") == train
    assert expand(f"{bucket}/{{train,val}}-*.tar") == [*train, f"{bucket}/val-000000.tar"]
    assert expand(f"{bucket}/test-*.tar") == []


def test_a_name_in_a_bucket_is_not_looked_up():
    assert expand("s3://nowhere/{a,b}.tar") == ["s3://nowhere/a.tar", "s3://nowhere/b.tar"]


# Reading


def test_a_file_is_read_fully_and_in_part_over_http(web):
    web.files["/index.json"] = b'{"format": 1}'
    assert size_of(web.shard) == SIZE
    assert read_all(sibling(web.shard, "index.json")) == b'{"format": 1}'
    assert read_range(web.shard, 1_234, 40_000) == CONTENT[1_234:41_234]
    assert read_range(web.shard, 5, 0) == b""


def test_several_threads_read_at_once(web):
    starts = range(0, SIZE - 5_000, 5_000)
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(lambda start: read_range(web.shard, start, 5_000), starts))
    assert read == [CONTENT[start : start + 5_000] for start in starts]


def test_a_broken_read_resumes(web, waits):
    web.breaks = [100, 0, 0, 200, 0]
    assert read_range(web.shard, 50, 1_000) == CONTENT[50:1_050]
    assert web.served == [100, 0, 0, 200, 0, 700]
    assert waits == [0.5, 0.5, 1.0, 0.5, 0.5]


def test_a_busy_server_gets_a_retry(web, waits):
    web.statuses = [503, 429]
    assert size_of(web.shard) == SIZE
    assert waits == [0.5, 1.0]


@pytest.mark.parametrize(
    ("status", "answer"), [(200, "404 Not Found"), (403, "403 Forbidden"), (401, "401 Unauth")]
)
def test_a_file_that_is_absent_or_closed_is_an_error_at_once(web, waits, tmp_path, status, answer):
    location = f"{web.url}/absent.tar"
    message = f"^{re.escape(location)}: the server answers {answer}.*, expected a file that may be"
    for read in (
        lambda: size_of(location),
        lambda: read_all(location),
        lambda: read_range(location, 0, 10),
        lambda: fetch(location, tmp_path / "a.tar", size=SIZE, sha256=None),
    ):
        web.statuses = [status]
        with pytest.raises(ValueError, match=message):
            read()
    assert waits == []
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_ignores_ranges_is_refused_except_from_the_start(web):
    web.serves_ranges = False
    assert read_range(web.shard, 0, 1_000) == CONTENT[:1_000]
    with pytest.raises(ValueError, match=r"tar: the server ignores Range requests, expected"):
        read_range(web.shard, 1, 1_000)


def test_a_server_that_stalls_is_given_up(web, waits, monkeypatch):
    monkeypatch.setattr(transport, "STALL_SECONDS", 0.1)
    monkeypatch.setattr(remote, "ATTEMPTS", 2)
    web.stalls_after = 0
    message = "given up after 2 attempts without progress, with 0 of 10 bytes: Timeout on reading"
    with pytest.raises(ConnectionError, match=message):
        read_range(web.shard, 0, 10)
    assert waits == [0.5]


def test_a_server_that_is_not_there_is_given_up(web, waits):
    gone = WebServer()
    gone.server_close()
    message = f"^{re.escape(gone.shard)}: given up after 6 attempts without progress: "
    with pytest.raises(ConnectionError, match=message):
        size_of(gone.shard)
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0]


# Downloading


def test_a_shard_is_downloaded_whole(web, tmp_path):
    target = tmp_path / "train.tar"
    fetch(web.shard, target, size=SIZE, sha256=sha256(CONTENT))
    assert target.read_bytes() == CONTENT
    assert list(tmp_path.iterdir()) == [target]
    assert web.served == [SIZE]


def test_a_broken_download_resumes_where_it_broke(web, waits, tmp_path):
    target = tmp_path / "train.tar"
    web.breaks = [100_000, 100_000, 50_000]
    fetch(web.shard, target, size=SIZE, sha256=sha256(CONTENT))
    assert target.read_bytes() == CONTENT
    assert web.served == [100_000, 100_000, 50_000, SIZE - 250_000]
    assert waits == [0.5, 0.5, 0.5]


def test_a_download_resumes_from_the_part_of_a_crashed_one(web, tmp_path):
    target = tmp_path / "train.tar"
    (tmp_path / "train.tar.part").write_bytes(CONTENT[:300_000])
    fetch(web.shard, target, size=SIZE, sha256=sha256(CONTENT))
    assert target.read_bytes() == CONTENT
    assert web.served == [SIZE - 300_000]


@pytest.mark.parametrize("left", [b"another file's", CONTENT + b"more"])
def test_a_part_of_another_file_is_dropped(web, tmp_path, left):
    target = tmp_path / "train.tar"
    (tmp_path / "train.tar.part").write_bytes(left)
    fetch(web.shard, target, size=SIZE, sha256=sha256(CONTENT))
    assert target.read_bytes() == CONTENT
    assert list(tmp_path.iterdir()) == [target]


def test_a_download_without_progress_is_given_up_and_keeps_its_part(web, waits, tmp_path):
    web.breaks = [100_000, 0, 0, 0, 0, 0, 0]
    message = (
        f"^{re.escape(web.shard)}: given up after 6 attempts without progress, "
        f"with 100,000 of {SIZE:,} bytes: "
    )
    with pytest.raises(ConnectionError, match=message):
        fetch(web.shard, tmp_path / "train.tar", size=SIZE, sha256=None)
    assert waits == [0.5, 0.5, 1.0, 2.0, 4.0, 8.0]
    assert [path.name for path in tmp_path.iterdir()] == ["train.tar.part"]
    assert (tmp_path / "train.tar.part").read_bytes() == CONTENT[:100_000]


def test_a_server_that_ignores_ranges_corrupts_no_download(web, tmp_path):
    target = tmp_path / "train.tar"
    web.serves_ranges = False
    web.breaks = [100_000, 150_000]
    fetch(web.shard, target, size=SIZE, sha256=None)
    assert target.read_bytes() == CONTENT
    assert web.served == [100_000, 150_000, SIZE]


def test_a_checksum_mismatch_is_named_and_leaves_nothing(web, tmp_path):
    expected = "0" * 64
    message = f"{web.shard}: SHA-256 {sha256(CONTENT)}, expected {expected}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        fetch(web.shard, tmp_path / "train.tar", size=SIZE, sha256=expected)
    assert list(tmp_path.iterdir()) == []


def test_a_size_mismatch_is_named_before_the_download(web, tmp_path):
    message = f"{web.shard}: {SIZE:,} bytes, expected 1,000"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        fetch(web.shard, tmp_path / "train.tar", size=1_000, sha256=None)
    assert list(tmp_path.iterdir()) == []
    assert web.served == []


# Object stores


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_a_shard_is_read_from_the_endpoint_that_the_environment_names(
    bucket, s3_endpoint, variable, tmp_path, monkeypatch
):
    monkeypatch.setattr(transport, "_CHUNK_BYTES", 150_000)
    set_aws_environment(monkeypatch, s3_endpoint, variable)
    shard = f"{bucket}/train-000000.tar"
    assert size_of(shard) == SIZE
    assert read_all(shard) == CONTENT
    assert read_range(shard, 1_234, 40_000) == CONTENT[1_234:41_234]
    fetch(shard, tmp_path / "train.tar", size=SIZE, sha256=sha256(CONTENT))
    assert (tmp_path / "train.tar").read_bytes() == CONTENT


def test_several_threads_read_from_a_bucket(bucket):
    starts = range(0, SIZE - 20_000, 20_000)
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(lambda s: read_range(f"{bucket}/train-000000.tar", s, 20_000), starts))
    assert read == [CONTENT[start : start + 20_000] for start in starts]


@pytest.mark.parametrize("absent", ["s3://pose/absent.tar", "s3://absent/train.tar"])
def test_an_object_that_is_absent_is_an_error_at_once(bucket, waits, absent):
    message = f"^{re.escape(absent)}: no such file, expected one that may be read$"
    for read in (lambda: size_of(absent), lambda: read_range(absent, 0, 10)):
        with pytest.raises(ValueError, match=message):
            read()
    assert waits == []


def test_an_object_store_without_credentials_is_an_error_at_once(bucket, waits, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    with pytest.raises(ValueError, match=r"0\.tar: can't be read: .*credentials"):
        size_of(f"{bucket}/train-000000.tar")
    assert waits == []


def test_an_object_store_that_is_not_there_is_given_up(web, waits, monkeypatch):
    gone = WebServer()
    gone.server_close()
    set_aws_environment(monkeypatch, gone.url, "AWS_ENDPOINT_URL")
    for read in (lambda: size_of("s3://pose/a.tar"), lambda: expand("s3://pose/*.tar")):
        with pytest.raises(ConnectionError, match=r"^s3://pose/.*\.tar: given up after 6 "):
            read()
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0] * 2


def test_gs_is_read_by_gcsfs(web, waits, monkeypatch):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", web.url)
    monkeypatch.setitem(fsspec.config.conf, "gs", {"token": "anon"})
    described = {"bucket": "pose", "name": "train.tar", "size": str(SIZE)}
    web.files |= {
        "/storage/v1/b/pose/o/train.tar": json.dumps(described).encode(),
        "/download/storage/v1/b/pose/o/train.tar": CONTENT,
    }
    assert size_of("gs://pose/train.tar") == SIZE
    assert read_range("gs://pose/train.tar", 1_234, 40_000) == CONTENT[1_234:41_234]
    with pytest.raises(ValueError, match=r"^gs://pose/absent\.tar: no such file, expected one"):
        size_of("gs://pose/absent.tar")
    assert waits == []


@pytest.mark.parametrize(
    ("scheme", "package", "module"), [("s3", "s3fs", "s3fs"), ("gs", "gcsfs", "gcsfs.core")]
)
def test_a_missing_package_is_named_with_its_install_command(monkeypatch, scheme, package, module):
    monkeypatch.setitem(sys.modules, module, None)
    location = f"{scheme}://pose/train.tar"
    message = f"{location} needs the package {package}: pip install 'hourglass-ray[remote]'"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        size_of(location)


# The cache


@pytest.fixture
def shards(web) -> list[tuple[str, int, str]]:
    """Serve four shards of 1,000 bytes; return their locations, sizes and checksums."""
    contents = {f"/train-{n}.tar": bytes([n]) * 1_000 for n in range(4)}
    web.files |= contents
    return [(web.url + path, 1_000, sha256(content)) for path, content in contents.items()]


def copies(folder: Path) -> list[str]:
    return sorted(path.name.partition("-")[2] for path in folder.glob("?*-*"))


def copy_of(cache: ShardCache, location: str, size: int, checksum: str) -> Path:
    cache.open(location, size, checksum).close()
    return cache.folder / f"{checksum}-{location.rpartition('/')[2]}"


def test_a_shard_is_downloaded_into_the_cache_once(web, shards, tmp_path):
    cache = ShardCache(tmp_path / "cache", 10_000)
    path = copy_of(cache, *shards[1])
    assert path.read_bytes() == b"\1" * 1_000
    assert path.name == f"{shards[1][2]}-train-1.tar"
    assert copy_of(cache, *shards[1]) == path
    assert copy_of(ShardCache(tmp_path / "cache", 10_000), *shards[1]) == path
    assert web.served == [1_000]


def test_a_full_disk_of_the_cache_is_named(web, tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    cache = ShardCache(tmp_path / "cache", SIZE)
    with monkeypatch.context() as patch:
        patch.setattr(remote, "_pour", full)
        with pytest.raises(OSError, match=f"the disk of {cache.folder} is full: .*train-000000"):
            copy_of(cache, web.shard, SIZE, sha256(CONTENT))
    assert copy_of(cache, web.shard, SIZE, sha256(CONTENT)).read_bytes() == CONTENT


def test_equal_names_of_two_datasets_do_not_collide(web, tmp_path):
    web.files |= {"/a/train.tar": b"a" * 10, "/b/train.tar": b"b" * 10}
    cache = ShardCache(tmp_path, 100)
    first = copy_of(cache, f"{web.url}/a/train.tar", 10, sha256(b"a" * 10))
    second = copy_of(cache, f"{web.url}/b/train.tar", 10, sha256(b"b" * 10))
    assert (first.read_bytes(), second.read_bytes()) == (b"a" * 10, b"b" * 10)


def test_the_least_recently_used_copy_makes_room(web, shards, tmp_path):
    cache = ShardCache(tmp_path, 3_500)
    for used in (0, 1, 2, 0, 3):
        copy_of(cache, *shards[used])
    assert copies(tmp_path) == ["train-0.tar", "train-2.tar", "train-3.tar"]
    copy_of(cache, *shards[1])
    assert copies(tmp_path) == ["train-0.tar", "train-1.tar", "train-3.tar"]


def test_the_limit_counts_the_present_download(web, shards, tmp_path):
    cache = ShardCache(tmp_path, 2_000)
    for used in (0, 1):
        copy_of(cache, *shards[used])
    web.breaks = [400] + [0] * 6
    with pytest.raises(ConnectionError):
        copy_of(cache, *shards[2])
    assert copies(tmp_path) == ["train-1.tar", "train-2.tar.part"]
    assert copy_of(cache, *shards[2]).read_bytes() == b"\2" * 1_000
    assert web.served[-1] == 600


def test_parts_of_crashed_downloads_are_removed_and_other_files_are_not(shards, tmp_path):
    (tmp_path / f"{'0' * 64}-train.tar.part").write_bytes(bytes(9_000))
    (tmp_path / "notes.txt").write_bytes(bytes(9_000))
    copy_of(ShardCache(tmp_path, 2_000), *shards[0])
    assert copies(tmp_path) == ["train-0.tar"]
    assert (tmp_path / "notes.txt").exists()


def test_a_copy_of_another_size_is_downloaded_again(shards, tmp_path):
    cache = ShardCache(tmp_path, 10_000)
    copy_of(cache, *shards[1]).write_bytes(b"cut off")
    assert copy_of(cache, *shards[1]).read_bytes() == b"\1" * 1_000


def test_a_shard_larger_than_the_cache_is_refused(shards, tmp_path):
    message = f"{shards[0][0]}: 1,000 bytes, expected at most the 999 of the cache"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        copy_of(ShardCache(tmp_path, 999), *shards[0])


def test_an_invalid_checksum_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"^http://h/a\.tar: expected a SHA-256 of 64 digits, got"):
        copy_of(ShardCache(tmp_path / "cache", 999), "http://h/a.tar", 10, "../../a")


def test_an_open_copy_stays_readable_when_it_is_evicted(shards, tmp_path):
    cache = ShardCache(tmp_path, 1_000)
    with cache.open(*shards[1]) as file:
        copy_of(cache, *shards[2])
        assert copies(tmp_path) == ["train-2.tar"]
        assert file.read() == b"\1" * 1_000


def test_processes_that_want_the_same_shard_download_it_once(web, tmp_path):
    program = (
        "import sys; from pathlib import Path; from pipeline.io.cache import ShardCache\n"
        "cache = ShardCache(Path(sys.argv[1]), 10**6)\n"
        "print('ready', flush=True)\n"
        "with cache.open(sys.argv[2], int(sys.argv[3]), sys.argv[4]) as file:\n"
        "    print(len(file.read()))\n"
    )
    arguments = [str(tmp_path), web.shard, str(SIZE), sha256(CONTENT)]
    command = [sys.executable, "-W", "error", "-c", program, *arguments]
    web.unblocked.clear()
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in started:
        assert process.stdout.readline() == "ready\n"
    web.unblocked.set()
    assert [process.communicate()[0] for process in started] == [f"{SIZE}\n"] * 2
    assert web.served == [SIZE]


# Redirects


@pytest.fixture
def netrc(monkeypatch, tmp_path):
    """Passwords for this machine by both of its names."""
    path = tmp_path / "netrc"
    path.write_text(
        "".join(f"machine {h} login a password b\n" for h in ("127.0.0.1", "localhost"))
    )
    path.chmod(0o600)
    monkeypatch.setenv("NETRC", str(path))
    return "Basic YTpi"


def test_a_redirect_within_a_server_keeps_the_password(web, netrc):
    web.redirects["/old"] = "/train-000000.tar"
    assert read_range(f"{web.url}/old", 4, 8) == CONTENT[4:12]
    assert web.authorizations == [netrc, netrc]


@pytest.mark.parametrize("user", ["", "x:y@"])
def test_a_redirect_to_another_server_takes_no_password_along(web, netrc, user):
    other = web.url.replace("127.0.0.1", "localhost")
    web.redirects["/old"] = f"{other.replace('//', '//' + user)}/train-000000.tar"
    assert read_range(f"{web.url}/old", 4, 8) == CONTENT[4:12]
    assert web.authorizations == [netrc, None]


def test_a_password_in_the_address_is_not_taken_along_either(web):
    web.redirects["/old"] = f"{web.url.replace('127.0.0.1', 'localhost')}/train-000000.tar"
    location = web.url.replace("//", "//c:d@")
    assert read_range(f"{location}/old", 4, 8) == CONTENT[4:12]
    assert web.authorizations == ["Basic Yzpk", None]
    web.redirects["/old"] = "/train-000000.tar"
    assert read_range(f"{location}/old", 4, 8) == CONTENT[4:12]
    assert web.authorizations[2:] == ["Basic Yzpk"] * 2


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://h/a", "gopher://h/", "", "http://", "//", "data:,x"]
)
def test_a_redirect_to_what_is_no_web_server_is_refused_at_once(web, monkeypatch, target):
    monkeypatch.setattr(remote, "sleep", lambda seconds: pytest.fail("retried"))
    web.redirects["/old"] = target or " "
    with pytest.raises(ValueError, match=r"/old: (the server redirects to|more than 10 redirects)"):
        read_range(f"{web.url}/old", 0, 1)


def test_a_redirect_to_a_weaker_scheme_is_refused():
    first = URL("https://host/a.tar")
    with pytest.raises(ValueError, match=r"redirects from https to http, to host; expected"):
        transport._next(first, first, "http://host/a.tar", str(first))
    # The other way the password may go along, to the same host alone.
    assert transport._is_same_server(URL("http://host/"), URL("https://host/"))
    assert not transport._is_same_server(URL("http://host/"), URL("https://other/"))
    assert not transport._is_same_server(URL("https://host/"), URL("https://host:8443/"))


def test_redirects_in_a_circle_end(web):
    web.redirects["/old"] = "/old"
    with pytest.raises(ValueError, match=r"/old: more than 10 redirects"):
        read_range(f"{web.url}/old", 0, 1)


def planted(path: Path, kind: str, victim: Path) -> None:
    """Put what another user may leave at a name that is known beforehand."""
    match kind:
        case "link":
            path.symlink_to(victim)
        case "second name":
            path.hardlink_to(victim)
        case "FIFO":
            os.mkfifo(path)
        case "folder":
            path.mkdir()


KINDS = ("link", "second name", "FIFO", "folder")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [".lock", "{}-train-1.tar.part", "{}-train-1.tar"])
def test_nothing_planted_in_a_cache_is_followed_or_waited_for(shards, tmp_path, kind, name):
    victim, cache = tmp_path / "victim", ShardCache(tmp_path / "cache", 2_000)
    victim.write_bytes(b"\1" * 1_000)
    planted(cache.folder / name.format(shards[1][2]), kind, victim)
    if name.endswith(".tar") and kind != "folder":
        assert copy_of(cache, *shards[1]).read_bytes() == b"\1" * 1_000
        assert copies(cache.folder) == ["train-1.tar"]
    else:
        with pytest.raises(OSError, match=re.escape(str(cache.folder))):
            copy_of(cache, *shards[1])
    assert victim.read_bytes() == b"\1" * 1_000
    assert victim.stat().st_nlink == (2 if kind == "second name" and name[-4:] != ".tar" else 1)


def test_a_planted_copy_of_equal_size_is_downloaded_again(web, shards, tmp_path):
    first = ShardCache(tmp_path / "cache", 10_000)
    path = copy_of(first, *shards[1])
    path.write_bytes(b"\7" * 1_000)
    (first.folder / f"{shards[2][2]}-train-2.tar").write_bytes(b"\7" * 1_000)
    next_start = ShardCache(tmp_path / "cache", 10_000)
    assert copy_of(next_start, *shards[1]).read_bytes() == b"\1" * 1_000
    assert copy_of(next_start, *shards[2]).read_bytes() == b"\2" * 1_000
    # Another file that takes its place later is not believed either.
    aside = tmp_path / "aside"
    aside.write_bytes(b"\7" * 1_000)
    aside.replace(path)
    assert copy_of(next_start, *shards[1]).read_bytes() == b"\1" * 1_000


def test_a_file_of_another_user_is_not_opened(tmp_path, monkeypatch):
    (tmp_path / "theirs").write_bytes(b"1")
    own = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: own + 1)
    with pytest.raises(OSError, match=r"theirs is not a plain file of this user \(of user"):
        open_own(tmp_path / "theirs")
    assert read_own(tmp_path / "theirs") is None


def test_a_new_cache_is_private_and_of_another_a_line_is_printed(tmp_path, capsys):
    ShardCache(tmp_path / "new", 1)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    assert not capsys.readouterr().out
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    ShardCache(tmp_path / "open", 1)
    assert "is not this user's alone: others may remove copies" in capsys.readouterr().out


@pytest.mark.parametrize("kind", KINDS)
def test_an_atomic_write_follows_no_link_at_its_temporary_name(tmp_path, kind):
    victim, path = tmp_path / "victim", tmp_path / "index.json"
    victim.write_text("kept")
    planted(tmp_path / "index.json.part", kind, victim)
    if kind == "folder":
        with pytest.raises(OSError, match=r"index.json.part is not a plain file of this user"):
            atomic_write(path).__enter__()
    else:
        with atomic_write(path) as aside:
            aside.write_text("written")
        assert path.read_text() == "written"
        assert path.stat().st_nlink == 1
    assert victim.read_text() == "kept"


def test_a_written_file_has_the_mode_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        with atomic_write(tmp_path / "a") as aside:
            aside.write_text("written")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


# Shards of samples


def test_remote_samples_are_read_one_by_one(web, pack):
    written = samples(5)
    pattern = publish(web, pack(written[:3], written[3:], members=True))
    found = find_shards("data.train", pattern)
    assert (found.people, found.joint_set) == (5, MPII)
    reader = ShardReader(found.paths)
    web.served.clear()
    assert reader[4] == written[4]
    # Only the sample was sent: its picture, its record, and the tar headers around them.
    [served] = web.served
    assert served < len(written[4].crop.jpeg) + len(record_of(written[4])) + 2048
    assert list(reader) == written


def test_a_connection_that_breaks_within_a_sample_resumes(web, pack):
    written = samples(3)
    publish(web, pack(written, members=True))
    reader = ShardReader([f"{web.url}/pose/train-000000.tar"])
    web.breaks += [700, 0, 5]
    assert list(reader) == written


def test_a_remote_shard_that_changed_is_named_sample_by_sample(web, pack):
    [path] = pack(samples(2), members=True)
    publish(web, [path])
    web.files["/pose/train-000000.tar"] = bytes(path.stat().st_size)
    with pytest.raises(
        BadSampleError,
        match=r"^train-000000\.tar: photo-001_00\.jpg: checksum 0*[0-9a-f]+, expected",
    ):
        ShardReader([f"{web.url}/pose/train-000000.tar"])[1]


@pytest.mark.parametrize("absent", ["index.json", "members.npz", "train-000001.tar"])
def test_a_missing_file_of_a_remote_dataset_is_named(web, pack, absent):
    pattern = publish(web, pack(samples(1), samples(1, first=1), members=True))
    del web.files[f"/pose/{absent}"]
    message = f"{web.url}/pose/{absent}: the server answers 404 "
    with pytest.raises(ValueError, match=re.escape(message)):
        find_shards("data.train", pattern)


def test_a_cache_downloads_a_shard_once_for_all_epochs_and_readers(web, pack, tmp_path):
    written = samples(6)
    paths = pack(written[:2], written[2:4], written[4:], members=True)
    locations = find_shards("data.train", publish(web, paths)).paths
    total = sum(path.stat().st_size for path in paths)
    web.served.clear()
    # Whole downloads work with a server that ignores ranges; reads of samples would not.
    readers = [ShardReader(locations, ShardCache(tmp_path / "cache", total)) for _ in range(2)]
    small = sum(web.served)
    web.serves_ranges = False
    for epoch in range(3):
        for reader in readers:
            order = epoch_order(reader.bounds, 0, epoch, 4).tolist()
            assert [reader[position] for position in order] == [written[at] for at in order]
    assert sum(web.served) - small == total


def test_a_cache_that_holds_one_shard_of_three_still_reads_them_all(web, pack, tmp_path):
    written = samples(6)
    paths = pack(written[:2], written[2:4], written[4:], members=True)
    largest = max(path.stat().st_size for path in paths)
    reader = ShardReader(
        find_shards("data.train", publish(web, paths)).paths, ShardCache(tmp_path / "c", largest)
    )
    for _ in range(2):
        assert list(reader) == written
        held = [copy for copy in (tmp_path / "c").iterdir() if copy.name != ".lock"]
        assert sum(copy.stat().st_size for copy in held) <= largest


def test_a_cache_too_small_for_a_window_of_samples_is_refused_before_training(web, pack, tmp_path):
    paths = pack(*([one] for one in samples(6)), members=True)
    settings = Settings.from_flat(
        {
            "data.train": publish(web, paths),
            "data.val": str(paths[0]),
            "data.cache": str(tmp_path / "cache"),
            "data.cache_gb": 1e-6,
            "data.shuffle_window": 2,
            "ray.storage": str(tmp_path / "runs"),
        }
    )
    with pytest.raises(
        ValueError, match=r"^data\.cache_gb must be at least 0\.\d+ to hold the shards"
    ):
        plan_training(settings)


def test_compressed_shards_stream_from_a_server(web, pack):
    written = samples(4)
    [path] = pack(written)
    web.files["/packed.tar.gz"] = gzip.compress(path.read_bytes())
    web.breaks += [1000]
    stream = ShardStream(
        locations=[f"{web.url}/packed.tar.gz"], seed=0, rank=0, workers=1, window=1
    )
    assert stream.first(4, BadSamples(0)) == written


def test_a_run_is_planned_and_trained_from_an_object_store(bucket, pack, tmp_path):
    client = boto3.client("s3")
    for folder, split in (("t", "train"), ("v", "val")):
        paths = pack(samples(3), samples(2, first=3), folder=folder, split=split, members=True)
        for path in paths[0].parent.iterdir():
            client.upload_file(str(path), "pose", f"{folder}/{path.name}")
    client.close()
    task = task_of(
        [], [], **{"data.train": "s3://pose/t/train-*.tar", "data.val": "s3://pose/v/*.tar"}
    )
    settings = Settings.from_flat(task.settings | {"ray.storage": str(tmp_path / "runs")})
    plan = plan_training(settings)
    assert plan.settings.data.train == "s3://pose/t/train-*.tar"
    trainer = alone(replace(task, train=plan.train.paths, val=plan.val.paths))
    *_, last = trainer.train_epoch(every_s=1e9)
    assert (last.step, trainer.evaluate_people()[0].people) == (2, 5)
