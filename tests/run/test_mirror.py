"""Runs in a bucket: what is uploaded, what counts, who may write, and how a machine resumes."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from obstore.store import LocalStore, MemoryStore
from waiting import until

from pipeline.io import objects as home
from pipeline.io.objects import ConflictError, Objects, StoreError
from pipeline.run import mirror as mirrors
from pipeline.run import mirror_sync, ownership
from pipeline.run.layout import LostError
from pipeline.run.manifest import MANIFEST, Manifest
from pipeline.run.mirror import Mirror
from pipeline.run.mirror_sync import MirrorSync, join
from pipeline.run.ownership import HeldError, Owner, SupersededError, Writer, note_claim
from pipeline.run.storage import fetch_patiently, fetch_run, folder_here, hold, working
from pipeline.settings import RaySettings

LOCATION = "s3://bucket/runs/pose"


def owner(name: str = "one", machine: str = "elsewhere") -> Owner:
    return Owner(token=name, host=name, machine=machine, pid=1, ticks=1, since="now")


class Machine:
    """A machine with a scratch folder of its own."""

    def __init__(self, folder: Path, store: MemoryStore) -> None:
        self.folder, self.objects = folder, Objects(LOCATION, store)
        self.mirror = Mirror(folder, LOCATION, self.objects)

    def start(self, who: Owner) -> Writer:
        """Claim the run as a driver does."""
        self.mirror.pull()
        self.mirror.note_claims()
        newest = mirrors.newest_claim(self.folder)
        note_claim(self.folder, (newest.generation if newest else 0) + 1, who)
        writer = Writer(self.folder, who)
        self.mirror.claim(writer)
        return writer

    def write(self, name: str, content: bytes = b"content") -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def files(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in self.folder.rglob("*")
            if path.is_file() and path.name[0] != "." and path.parent.name != "owners"
        }


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def one(tmp_path, store) -> Machine:
    return Machine(tmp_path / "one", store)


@pytest.fixture
def other(tmp_path, store) -> Machine:
    return Machine(tmp_path / "other", store)


@pytest.fixture
def quick(monkeypatch) -> None:
    """Let the threads look often."""
    for name in ("_LOOK_S", "_LONGEST_S"):
        monkeypatch.setattr(mirror_sync, name, 0.02)


def in_bucket(machine: Machine) -> list[str]:
    return sorted(found.name for found in machine.objects.found())


def test_a_machine_that_has_never_seen_a_run_gets_all_that_was_pushed(one, other):
    writer = one.start(owner())
    one.write("journal.jsonl", b"line\n")
    one.write("epoch_0001/weights.safetensors", bytes(3 * 2**20))
    one.write("epoch_0001/checkpoint.json", b"{}")
    assert one.mirror.push(writer)
    assert other.mirror.pull()
    assert other.files() == one.files()


def test_a_run_that_the_bucket_does_not_have_is_absent(one):
    assert not one.mirror.pull()
    assert in_bucket(one) == []


def test_files_of_one_machine_or_one_moment_stay_there(one):
    writer = one.start(owner())
    for name in ("heartbeats/1/rank_00000.json", "hangs/a.txt", "stop"):
        one.write(name, b"{}")
    one.write("starting")
    one.write(".writing-abc/weights.safetensors")
    one.write("figures/curves.png.part")
    one.write("epoch_0002/weights.safetensors")  # being removed: it has no metadata any more
    one.write("figures/joints.png")
    one.mirror.push(writer)
    manifest = Manifest.parsed(one.objects.get(MANIFEST)[0], "it")
    assert list(manifest.files) == ["figures/joints.png"]


def test_nothing_counts_before_the_manifest_names_it(one, other, monkeypatch):
    writer = one.start(owner())
    one.write("epoch_0001/weights.safetensors")
    one.write("epoch_0001/checkpoint.json", b"{}")

    def fail(*arguments):
        raise StoreError("the store is away")

    with monkeypatch.context() as patch:
        patch.setattr(one.objects, "replace", fail)
        with pytest.raises(StoreError, match="away"):
            one.mirror.push(writer)
    assert len([name for name in in_bucket(one) if "epoch_0001" in name]) == 2
    assert other.mirror.pull()
    assert other.files() == {}
    # What was sent before is not sent again.
    sent = in_bucket(one)
    assert one.mirror.push(writer)
    assert in_bucket(one) == sent
    other.mirror.pull()
    assert set(other.files()) == {"epoch_0001/weights.safetensors", "epoch_0001/checkpoint.json"}


def test_metadata_of_a_checkpoint_is_sent_after_its_other_files(one, monkeypatch):
    writer, sent = one.start(owner()), []
    put = one.objects.put
    monkeypatch.setattr(
        one.objects, "put", lambda name, content: sent.append(Path(name).name) or put(name, content)
    )
    for name in ("checkpoint.json", "weights.safetensors", "optimizer.pt"):
        one.write(f"epoch_0001/{name}")
    one.mirror.push(writer)
    assert sent[-1] == "checkpoint.json"
    assert len(sent) == 3


def test_what_is_superseded_leaves_the_bucket_and_other_machines(one, other):
    writer = one.start(owner())
    one.write("epoch_0001/checkpoint.json", b"{}")
    one.write("journal.jsonl", b"first\n")
    one.mirror.push(writer)
    other.mirror.pull()
    shutil.rmtree(one.folder / "epoch_0001")
    one.write("epoch_0002/checkpoint.json", b"{ }")
    one.write("journal.jsonl", b"first\nsecond\n")
    one.mirror.push(writer)
    other.mirror.follow()
    assert other.files() == one.files()
    assert not (other.folder / "epoch_0001").exists()
    paths = [name.partition("/")[2] for name in in_bucket(one) if name[0] == "0"]
    assert sorted(paths) == ["epoch_0002/checkpoint.json", "journal.jsonl"]


def test_a_driver_that_follows_keeps_the_files_that_it_alone_writes(one, other):
    writer = one.start(owner())
    one.write("delivered.json", b"1")
    one.mirror.push(writer)
    other.mirror.pull()
    other.write("delivered.json", b"2")
    one.write("journal.jsonl", b"line\n")
    one.mirror.push(writer)
    other.mirror.follow()
    assert other.files() == {"delivered.json": b"2", "journal.jsonl": b"line\n"}


def test_what_a_machine_did_not_send_is_kept_while_no_other_has_written_since(one):
    writer = one.start(owner())
    one.write("journal.jsonl", b"first\n")
    one.mirror.push(writer)
    one.write("epoch_0001/checkpoint.json", b"{}")
    again = Mirror(one.folder, LOCATION, one.objects)
    again.pull()
    assert set(one.files()) == {"journal.jsonl", "epoch_0001/checkpoint.json"}


def test_what_a_machine_did_not_send_is_dropped_once_another_has_written(one, other):
    writer = one.start(owner())
    one.write("journal.jsonl", b"first\n")
    one.mirror.push(writer)
    one.write("epoch_0001/checkpoint.json", b"{}")
    next_writer = other.start(owner("two"))
    other.write("journal.jsonl", b"first\nother\n")
    other.mirror.push(next_writer)
    Mirror(one.folder, LOCATION, one.objects).pull()
    assert one.files() == {"journal.jsonl": b"first\nother\n"}


def test_a_writer_that_was_taken_over_writes_nothing_more(one, other):
    former = one.start(owner())
    one.write("journal.jsonl", b"first\n")
    one.mirror.push(former)
    other.start(owner("two"))
    one.write("journal.jsonl", b"first\nlate\n")
    with pytest.raises(SupersededError, match="taken over by process 1 on host two"):
        one.mirror.push(former)
    other.mirror.pull()
    assert other.files() == {"journal.jsonl": b"first\n"}


def test_of_two_claims_at_once_one_fails(one, other):
    one.mirror.pull()
    other.mirror.pull()
    for machine, name in ((one, "one"), (other, "two")):
        note_claim(machine.folder, 1, owner(name))
    one.mirror.claim(Writer(one.folder, owner("one")))
    with pytest.raises(HeldError, match="was taken by process 1 on host one"):
        other.mirror.claim(Writer(other.folder, owner("two")))


def test_a_start_that_was_too_late_does_not_release_the_run_of_the_other(one, other):
    other.mirror.pull()
    one.start(owner())
    note_claim(other.folder, 1, owner("two"))
    writer = Writer(other.folder, owner("two"))
    with pytest.raises(HeldError):
        other.mirror.claim(writer)
    writer.release()
    other.mirror.release()
    assert Manifest.parsed(one.objects.get(MANIFEST)[0], "it").owner == owner()


def test_a_run_that_was_released_is_free_at_once(one, other):
    writer = one.start(owner())
    writer.release()
    one.mirror.release()
    assert in_bucket(one) == [MANIFEST]
    other.mirror.pull()
    other.mirror.await_end("run pose")
    other.start(owner("two"))


def test_a_claim_takes_along_what_the_former_writer_added_at_the_last_moment(one, other):
    writer = one.start(owner())
    other.mirror.pull()
    other.mirror.note_claims()
    one.write("journal.jsonl", b"last\n")
    one.mirror.push(writer)
    note_claim(other.folder, 2, owner("two"))
    other.mirror.claim(Writer(other.folder, owner("two")))
    assert other.files() == {"journal.jsonl": b"last\n"}
    other.mirror.push(Writer(other.folder, owner("two")))
    assert list(Manifest.parsed(other.objects.get(MANIFEST)[0], "it").files) == ["journal.jsonl"]


def test_an_owner_that_gives_signs_of_life_holds_the_run(one, other, monkeypatch):
    one.start(owner())
    other.mirror.pull()
    monkeypatch.setattr(time, "sleep", lambda seconds: one.mirror.sign(owner()))
    with pytest.raises(HeldError, match="run pose is held by process 1 on host one"):
        other.mirror.await_end("run pose")


def test_an_owner_without_a_sign_of_life_is_replaced(one, other, monkeypatch):
    one.start(owner())
    other.mirror.pull()
    monkeypatch.setattr(ownership, "LEASE_S", 0.0)
    other.mirror.await_end("run pose")


def test_an_owner_that_releases_the_run_meanwhile_is_not_waited_for(one, other, monkeypatch):
    writer = one.start(owner())
    other.mirror.pull()

    def release(seconds: float) -> None:
        writer.release()
        one.mirror.release()

    monkeypatch.setattr(time, "sleep", release)
    other.mirror.await_end("run pose")
    other.start(owner("two"))


def test_an_owner_that_has_only_just_claimed_the_run_holds_it(one, other, monkeypatch):
    one.start(owner())
    one.objects.delete(["live/owner"])
    other.mirror.pull()
    monkeypatch.setattr(time, "sleep", lambda seconds: one.mirror.sign(owner()))
    with pytest.raises(HeldError, match="run pose is held by process 1 on host one"):
        other.mirror.await_end("run pose")


def test_a_dead_owner_elsewhere_is_waited_for_once(one, store, tmp_path, monkeypatch, capsys):
    one.start(owner())
    monkeypatch.setattr(home, "_store", lambda scheme, bucket: store)
    monkeypatch.setattr(ownership, "LEASE_S", 0.0)
    ray = RaySettings(storage="s3://bucket/runs", scratch=str(tmp_path), name="pose")
    fetch_run(ray)
    with hold(folder_here(ray, ""), "run pose") as writer:
        assert writer.check() == 2
    assert "waiting" not in capsys.readouterr().out


def test_a_run_that_was_removed_from_the_bucket_starts_over(one):
    writer = one.start(owner())
    one.write("journal.jsonl", b"first\n")
    one.mirror.push(writer)
    one.objects.delete(in_bucket(one))
    assert not Mirror(one.folder, LOCATION, one.objects).pull()
    assert one.files() == {}


def test_a_run_of_which_the_bucket_lacks_something_is_not_removed_with_the_bucket(one):
    writer = one.start(owner())
    one.write("journal.jsonl", b"first\n")
    one.mirror.push(writer)
    one.write("epoch_0001/checkpoint.json", b"{}")
    # As with a bucket that was made anew, or another server's.
    one.objects.delete(in_bucket(one))
    with pytest.raises(
        ValueError,
        match=r"s3://bucket/runs/pose has no run, but .*one has one; never uploaded: 1 file, "
        r"0\.0 MB in all \(epoch_0001\); check the endpoint",
    ):
        Mirror(one.folder, LOCATION, one.objects).pull()
    assert set(one.files()) == {"journal.jsonl", "epoch_0001/checkpoint.json"}


def with_files(machine: Machine, change) -> None:
    """Push a run, and change the files that its manifest names."""
    writer = machine.start(owner())
    machine.write("journal.jsonl", b"first\n")
    machine.mirror.push(writer)
    content = json.loads(machine.objects.get(MANIFEST)[0])
    stored = content["files"].pop("journal.jsonl")
    content["files"] |= change(stored)
    machine.objects.put(MANIFEST, json.dumps(content).encode())


def under(stored: dict, path: str) -> dict:
    return {path: stored | {"key": f"{stored['key'].partition('/')[0]}/{path}"}}


@pytest.mark.parametrize(
    "path",
    [
        *("../outside", "figures/../../outside", "/etc/passwd", "", "./", "figures/", "a//b"),
        *(".mirror.json", "owners/1.json", "epoch_0001/.mirror.json", "figures/owners/1.json"),
        *("x" * 250, "figures/" + "x" * 300, "a\0b"),
    ],
)
def test_a_manifest_can_name_no_file_outside_the_run(one, path):
    with_files(one, lambda stored: under(stored, path))
    with pytest.raises(ValueError, match=r"manifest\.json: files\."):
        one.mirror.pull()


def test_an_object_stands_for_one_file(one):
    with_files(one, lambda stored: {"journal.jsonl": stored, "copy.jsonl": stored})
    with pytest.raises(ValueError, match=r"copy\.jsonl\.key must be BATCH/copy\.jsonl, got"):
        one.mirror.pull()


def test_a_manifest_has_no_file_in_the_place_of_a_folder(one):
    with_files(one, lambda stored: under(stored, "a/b/c") | under(stored, "a/b"))
    with pytest.raises(ValueError, match=r"manifest\.json: files: 'a/b' is a file and a folder"):
        one.mirror.pull()


def test_a_manifest_of_more_than_64_mib_is_not_read(one, monkeypatch):
    monkeypatch.setattr(home, "_MOST_BYTES", 1000)
    one.objects.put(MANIFEST, bytes(1001))
    with pytest.raises(ValueError, match=r"manifest\.json has 1,001 bytes, expected at most 1,000"):
        one.mirror.pull()


@pytest.mark.parametrize("named", [{}, [], {"token": "one"}, vars(owner()) | {"pid": "1"}])
def test_a_manifest_whose_owner_is_none_is_refused(one, named):
    one.start(owner())
    content = json.loads(one.objects.get(MANIFEST)[0])
    one.objects.put(MANIFEST, json.dumps(content | {"owner": named}).encode())
    with pytest.raises(ValueError, match=r"manifest\.json: owner"):
        one.mirror.pull()


def test_a_large_file_that_grows_while_it_is_sent_counts_as_it_was(one, other, monkeypatch):
    writer = one.start(owner())
    path = one.write("system.jsonl", bytes(2 * 2**20))
    sha256 = mirrors._sha256

    def grow(file, size):
        with path.open("ab") as more:
            more.write(b"line")
        return sha256(file, size)

    monkeypatch.setattr(mirrors, "_sha256", grow)
    one.mirror.push(writer)
    other.mirror.pull()
    assert other.files() == {"system.jsonl": bytes(2 * 2**20)}


def test_of_two_that_publish_a_folder_the_first_counts(one, other):
    one.write("checkpoint.json", b"first")
    other.write("checkpoint.json", b"other")
    one.mirror.publish()
    sent = in_bucket(one)
    with pytest.raises(ConflictError):
        other.mirror.publish()
    assert in_bucket(one) == sent
    other.mirror.pull()
    assert other.files() == {"checkpoint.json": b"first"}


LARGE = b"first\nsecond\n" + bytes(2 * 2**20)


def lost_folder(machine: Machine) -> None:
    shutil.rmtree(machine.folder)


def begun_anew(machine: Machine) -> None:
    shutil.rmtree(machine.folder)
    machine.write("journal.jsonl", b"third\n")
    machine.write("epoch_0002/checkpoint.json", b"{}")


def without(name: str, content: bytes | None = None) -> Callable[[Machine], None]:
    def lose(machine: Machine) -> None:
        machine.write("epoch_0002/checkpoint.json", b"{}")
        (machine.folder / name).unlink()
        if content is not None:
            machine.write(name, content)

    return lose


@pytest.mark.parametrize(
    "lose",
    [
        lost_folder,
        begun_anew,
        without(".mirror.json"),
        without("journal.jsonl"),
        without("journal.jsonl", b""),
        without("journal.jsonl", b"first\n"),
        without("journal.jsonl", b"third\n"),
        without("journal.jsonl", b"other\nsecond\nthird\n"),
        without("journal.jsonl", b"other\n" + LARGE),
    ],
)
@pytest.mark.parametrize("sent", [b"first\nsecond\n", LARGE])
def test_what_a_bucket_has_of_a_run_outlasts_the_loss_of_its_folder(one, other, lose, sent):
    writer = one.start(owner())
    one.write("journal.jsonl", sent)
    one.write("epoch_0001/checkpoint.json", b"{}")
    one.mirror.push(writer)
    stored = in_bucket(one)
    lose(one)
    for _ in range(2):
        with pytest.raises(LostError, match=r"one.* was removed or .* the same command continues"):
            one.mirror.push(writer)
    assert in_bucket(one) == stored
    other.mirror.pull()
    expected = {"journal.jsonl": sent, "epoch_0001/checkpoint.json": b"{}"}
    assert other.files() == expected
    # The next start on this machine has it again.
    next_writer = one.start(owner())
    assert one.files() == expected
    one.write("journal.jsonl", sent + b"third\n")
    one.mirror.push(next_writer)
    other.mirror.pull()
    assert other.files() == expected | {"journal.jsonl": sent + b"third\n"}


def test_what_waits_is_kept_where_the_figures_of_the_machine_alone_are_lost(one, other):
    writer = one.start(owner())
    for name in ("journal.jsonl", "system.jsonl"):
        one.write(name, b"first\n")
    one.mirror.push(writer)
    (one.folder / "system.jsonl").unlink()
    one.write("epoch_0001/checkpoint.json", b"{}")
    one.mirror.pull()
    one.mirror.push(writer)
    other.mirror.pull()
    assert other.files() == {"journal.jsonl": b"first\n", "epoch_0001/checkpoint.json": b"{}"}


@pytest.mark.parametrize("name", ["a" * 201, "epoch_0001/" + "é" * 101, "a\nb"])
def test_a_file_that_no_manifest_may_name_is_not_uploaded(one, other, name):
    writer = one.start(owner())
    one.write("journal.jsonl", b"first\n")
    one.write("epoch_0001/checkpoint.json", b"{}")
    one.write(name, b"of somebody")
    for _ in range(2):
        assert one.mirror.push(writer)
    other.mirror.pull()
    assert other.files() == {"journal.jsonl": b"first\n", "epoch_0001/checkpoint.json": b"{}"}


def test_a_torn_line_that_was_uploaded_is_cut_off(one, other):
    writer = one.start(owner())
    one.write("journal.jsonl", b"first\nsec")
    one.mirror.push(writer)
    for content in (b"first\n", b"first\nsecond\nthird\n"):
        one.write("journal.jsonl", content)
        assert one.mirror.push(writer)
        other.mirror.pull()
        assert other.files() == {"journal.jsonl": content}


def test_a_folder_that_is_lost_beside_the_run_is_reported_once(one, quick, capsys):
    sync = MirrorSync(one.mirror, one.start(owner()), is_driver=True)
    one.write("journal.jsonl", b"first\n")
    sync.upload()
    # At once, since the threads write to it.
    one.folder.rename(one.folder.with_name("gone"))
    until(lambda: not sync._threads[0].is_alive())
    with pytest.raises(LostError):
        sync.close()
    assert capsys.readouterr().out.count("nothing more is uploaded") == 1


def test_a_damaged_object_is_refused(one, other):
    writer = one.start(owner())
    one.write("journal.jsonl", b"first\n")
    one.mirror.push(writer)
    [name] = [name for name in in_bucket(one) if name.endswith("journal.jsonl")]
    one.objects.put(name, b"other\n")
    with pytest.raises(StoreError, match="other content than was written"):
        other.mirror.pull()
    assert other.files() == {}


def test_a_store_without_conditions_is_refused(tmp_path):
    with pytest.raises(ValueError, match="ignores the conditions of writes"):
        Objects(LOCATION, LocalStore(tmp_path)).check_conditions()


def test_a_store_that_ignores_a_condition_is_refused(store, monkeypatch):
    objects = Objects(LOCATION, store)
    monkeypatch.setattr(
        objects, "replace", lambda name, content, version: objects.put(name, content)
    )
    with pytest.raises(ValueError, match=r"If-Match is ignored"):
        objects.check_conditions()
    assert list(objects.found()) == []


def test_a_write_whose_answer_was_lost_has_succeeded(store):
    objects = Objects(LOCATION, store)
    first = objects.create("name", b"one")
    assert objects.create("name", b"one") == first
    with pytest.raises(ConflictError):
        objects.create("name", b"two")


# Beside a run


def test_files_are_uploaded_beside_the_run(one, other, quick):
    sync = MirrorSync(one.mirror, one.start(owner()), is_driver=True)
    one.write("journal.jsonl", b"first\n")
    until(lambda: other.mirror.pull() and other.files() == {"journal.jsonl": b"first\n"})
    sync.close()


def test_a_store_that_is_away_is_reported_once_and_gets_what_is_there_then(
    one, quick, monkeypatch, capsys
):
    sync = MirrorSync(one.mirror, one.start(owner()), is_driver=True)
    with monkeypatch.context() as away:

        def fail(*arguments):
            raise StoreError("s3://bucket: the store does not answer")

        away.setattr(one.objects, "put", fail)
        one.write("epoch_0001/checkpoint.json", b"{}")
        until(lambda: sync._failures > 4)
        shutil.rmtree(one.folder / "epoch_0001")
        one.write("epoch_0002/checkpoint.json", b"{}")
    sync.close()
    manifest = Manifest.parsed(one.objects.get(MANIFEST)[0], "it")
    assert list(manifest.files) == ["epoch_0002/checkpoint.json"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(
        "s3://bucket: the store does not answer: training continues; to be sent later: 1 file, "
        "0.0 MB in all (epoch_0001)"
    )
    assert sum("does not answer" in line for line in lines) == 1


@pytest.mark.parametrize(
    "error", [ValueError("manifest.json: not JSON"), NotImplementedError("no such request")]
)
def test_an_answer_that_can_not_be_read_is_a_failure_of_the_store(
    one, other, quick, monkeypatch, capsys, error
):
    sync = MirrorSync(one.mirror, one.start(owner()), is_driver=True)
    with monkeypatch.context() as away:

        def fail(*arguments):
            raise error

        away.setattr(one.objects, "put", fail)
        one.write("journal.jsonl", b"first\n")
        until(lambda: sync._failures > 4)
    until(lambda: other.mirror.pull() and other.files() == {"journal.jsonl": b"first\n"})
    sync.close()
    assert capsys.readouterr().out.count(f"{error}: training continues") == 1


def test_at_the_end_what_the_bucket_lacks_is_named(one, quick, monkeypatch, capsys):
    sync = MirrorSync(one.mirror, one.start(owner()), is_driver=True)
    monkeypatch.setattr(mirror_sync, "PATIENCE_S", 0.0)

    def fail(*arguments):
        raise StoreError("s3://bucket: refused")

    monkeypatch.setattr(one.objects, "put", fail)
    one.write("epoch_0001/checkpoint.json", b"{}")
    sync.close()
    assert (
        "s3://bucket/runs/pose lacks 1 file, 0.0 MB in all (epoch_0001): s3://bucket: refused"
    ) in capsys.readouterr().out


def test_driver_and_workers_take_turns_over_the_bucket_alone(one, other, quick):
    driver = one.start(owner())
    sync = MirrorSync(one.mirror, driver, is_driver=True)
    one.write("journal.jsonl", b"start\n")
    sync.hand_over()
    writer = join(other.mirror, owner())
    assert other.files() == {"journal.jsonl": b"start\n"}
    workers = MirrorSync(other.mirror, writer, is_driver=False)
    other.write("journal.jsonl", b"start\nepoch\n")
    until(lambda: one.files()["journal.jsonl"] == b"start\nepoch\n")
    sync.take_back()
    # The workers are cut off from now on.
    other.write("journal.jsonl", b"start\nepoch\nlate\n")
    with pytest.raises(SupersededError):
        other.mirror.push(writer)
    one.write("journal.jsonl", b"start\nepoch\nend\n")
    sync.close()
    workers.stop()
    assert other.mirror.pull()
    assert other.files() == {"journal.jsonl": b"start\nepoch\nend\n"}


def test_what_the_driver_alone_has_written_meanwhile_outlasts_the_turn_of_the_workers(one, other):
    driver = one.start(owner())
    sync = MirrorSync(one.mirror, driver, is_driver=True)
    one.write("delivered.json", b"1")
    sync.hand_over()
    one.write("delivered.json", b"2")
    writer = join(other.mirror, owner())
    other.write("journal.jsonl", b"epoch\n")
    other.mirror.push(writer)
    sync.take_back()
    assert one.files() == {"delivered.json": b"2", "journal.jsonl": b"epoch\n"}
    sync.stop()


def test_a_light_copy_lacks_weights_until_a_process_trains_with_it(one, other):
    writer = one.start(owner())
    for name in ("checkpoint.json", "weights.safetensors", "ema.safetensors", "optimizer.pt"):
        one.write(f"epoch_0001/{name}")
    one.mirror.push(writer)
    assert other.mirror.pull(is_light=True)
    assert set(other.files()) == {"epoch_0001/checkpoint.json"}
    other.mirror.complete("epoch_0001")
    assert set(one.files()) - set(other.files()) == {"epoch_0001/optimizer.pt"}
    assert other.mirror.pull()
    assert other.files() == one.files()


def test_of_two_readers_of_a_light_copy_each_keeps_the_weights_of_the_other(one, other):
    writer = one.start(owner())
    for name in ("checkpoint.json", "weights.safetensors"):
        one.write(f"epoch_0001/{name}")
        one.write(f"epoch_0002/{name}")
    one.mirror.push(writer)
    for checkpoint in ("epoch_0001", "epoch_0002"):
        reader = Mirror(other.folder, LOCATION, other.objects)
        assert reader.pull(is_light=True)
        reader.complete(checkpoint)
    assert Mirror(other.folder, LOCATION, other.objects).pull(is_light=True)
    assert other.files() == one.files()
    # Weights that are no longer those of the run go.
    one.write("epoch_0002/weights.safetensors", b"better")
    one.mirror.push(writer)
    assert Mirror(other.folder, LOCATION, other.objects).pull(is_light=True)
    assert set(one.files()) - set(other.files()) == {"epoch_0002/weights.safetensors"}


def test_a_light_copy_is_none_where_a_driver_follows(one, other, quick):
    driver = one.start(owner())
    sync = MirrorSync(one.mirror, driver, is_driver=True)
    sync.hand_over()
    writer = join(other.mirror, owner())
    other.write("epoch_0001/weights.safetensors")
    other.write("epoch_0001/checkpoint.json")
    other.mirror.push(writer)
    one.write("delivered.json", b"of this machine alone")
    assert Mirror(one.folder, LOCATION, one.objects).pull(is_light=True)
    assert "epoch_0001/weights.safetensors" in one.files()
    other.write("journal.jsonl", b"epoch\n")
    other.mirror.push(writer)
    until(lambda: "journal.jsonl" in one.files())
    assert one.files()["delivered.json"] == b"of this machine alone"
    sync.stop()


def test_all_ranks_have_the_checkpoint_that_only_the_first_one_had(
    tmp_path, store, one, monkeypatch
):
    monkeypatch.setattr(home, "_store", lambda scheme, bucket: store)
    one.start(owner())
    first, second = (
        RaySettings(storage="s3://bucket/runs", name="pose", scratch=str(tmp_path / name))
        for name in ("first", "second")
    )
    # Its machine had not sent the checkpoint when the former workers were lost.
    fetch_run(first)
    unsent = folder_here(first, "") / "epoch_0001" / "checkpoint.json"
    unsent.parent.mkdir()
    unsent.write_text("{}")
    with working(first, folder_here(first, ""), owner()):
        fetch_run(second)
    assert (folder_here(second, "") / "epoch_0001" / "checkpoint.json").read_text() == "{}"


def test_ranks_that_do_not_write_wait_for_a_store_that_is_away(tmp_path, store, one, monkeypatch):
    monkeypatch.setattr(home, "_store", lambda scheme, bucket: store)
    writer = one.start(owner())
    one.write("journal.jsonl", b"first\n")
    one.mirror.push(writer)
    get, refusals = Objects.get, [StoreError("full")] * 3

    def refuse(objects, name):
        if refusals:
            raise refusals.pop()
        return get(objects, name)

    monkeypatch.setattr(Objects, "get", refuse)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    ray = RaySettings(storage="s3://bucket/runs", name="pose", scratch=str(tmp_path / "second"))
    fetch_patiently(ray)
    assert (folder_here(ray, "") / "journal.jsonl").read_bytes() == b"first\n"


def test_workers_enter_one_claim_however_often_the_store_refuses_it(one, other, monkeypatch):
    one.start(owner())
    replace, refusals = other.objects.replace, [StoreError("full")] * 3

    def refuse(*arguments):
        if refusals:
            raise refusals.pop()
        return replace(*arguments)

    monkeypatch.setattr(other.objects, "replace", refuse)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    assert join(other.mirror, owner()).check() == 2


def test_the_end_of_workers_that_the_store_does_not_take_is_named(one, monkeypatch):
    sync = MirrorSync(one.mirror, one.start(owner()), is_driver=True)
    sync.hand_over()
    monkeypatch.setattr(mirror_sync, "PATIENCE_S", 0.0)

    def fail(*arguments):
        raise StoreError("s3://bucket: full")

    monkeypatch.setattr(one.objects, "replace", fail)
    with pytest.raises(StoreError, match=r"^s3://bucket: full; .* the same command continues"):
        sync.take_back()
    sync.stop()


def test_workers_of_another_start_may_not_join(one, other):
    one.start(owner())
    with pytest.raises(SupersededError, match="is owned by process 1 on host one"):
        join(other.mirror, owner("two"))


def test_a_request_to_stop_reaches_workers_on_another_machine(one, other, quick):
    sync = MirrorSync(one.mirror, one.start(owner()), is_driver=True)
    sync.hand_over()
    workers = MirrorSync(other.mirror, join(other.mirror, owner()), is_driver=False)
    (one.folder / "stop").touch()
    until((other.folder / "stop").exists)
    workers.stop()
    sync.stop()


def test_a_request_to_stop_of_an_earlier_start_is_ignored(one, other):
    one.start(owner())
    other.mirror.pull()
    (one.folder / "stop").touch()
    one.mirror.pass_stop_on(owner("former"), False)
    other.mirror.receive_stop(owner())
    assert not (other.folder / "stop").exists()


def test_workers_do_not_heed_a_request_to_stop_that_an_earlier_start_made(
    tmp_path, one, memory_store
):
    ray = RaySettings(storage="s3://bucket/runs", name="pose", scratch=str(tmp_path))
    driver = Mirror(one.folder, LOCATION)
    machine = Machine(folder_here(ray, ""), memory_store)
    request = machine.folder / "stop"
    one.mirror, one.objects = driver, Objects(LOCATION)
    one.start(owner())
    with working(ray, machine.folder, owner()):
        (one.folder / "stop").touch()
        driver.pass_stop_on(owner(), False)
        machine.mirror.receive_stop(owner())
        assert request.exists()
    one.start(owner("two"))
    with working(ray, machine.folder, owner("two")):
        assert not request.exists()
    # One for this start stands, and so does one by hand.
    for content in ("two", ""):
        request.write_text(content)
        with working(ray, machine.folder, owner("two")):
            assert request.exists()


def test_a_claim_elsewhere_ends_the_former_owner_on_its_own_machine(one, other, quick):
    former = one.start(owner())
    sync = MirrorSync(one.mirror, former, is_driver=True)
    other.start(owner("two"))

    def is_over() -> bool:
        try:
            former.check()
        except SupersededError:
            return True
        return False

    until(is_over)
    sync.stop()
