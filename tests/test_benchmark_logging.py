"""The benchmark of what recording costs: what it counts, the server that is far away, and that it measures."""

import http.client
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
import torch
from factories import pack_samples, samples
from web_server import CONTENT

from pipeline.benchmark.share.data import pack_rendered, settings_for
from pipeline.benchmark.share.logging.arms import drive_recorded, drive_unrecorded, meter_of
from pipeline.benchmark.share.logging.measure import LoggingBenchmark, check_recorded
from pipeline.benchmark.share.logging.meter import (
    DrawingLearner,
    Meter,
    MeteredKeeper,
    SilentKeeper,
)
from pipeline.benchmark.share.logging.proxy import Proxy
from pipeline.benchmark.share.logging.report import logging_report
from pipeline.benchmark.share.logging.shares import ARMS, shares
from pipeline.benchmark.share.rounds import take_turns
from pipeline.benchmark.share.side import Side
from pipeline.benchmark.share.turns import Turns
from pipeline.joints import MPII
from pipeline.journal import Journal, RunSpec
from pipeline.learner import Task
from pipeline.loop import Host, train
from pipeline.settings import Settings
from pipeline.tracking import recorded


@pytest.fixture
def far(web) -> Iterator[Proxy]:
    """A proxy that has the test's web server 50 ms away."""
    web.files = {"/file": CONTENT}
    with Proxy(web.server_address[1], 0.05) as proxy:
        yield proxy


@pytest.fixture
def connected(far) -> Iterator[Callable[[], http.client.HTTPConnection]]:
    """A function that makes connections to the far server; they are closed in the end."""
    made: list[http.client.HTTPConnection] = []

    def connect() -> http.client.HTTPConnection:
        made.append(http.client.HTTPConnection("127.0.0.1", far.port, timeout=30))
        made[-1].connect()
        return made[-1]

    yield connect
    for connection in made:
        connection.close()


def asked(connection: http.client.HTTPConnection) -> bytes:
    connection.request("GET", "/file")
    with connection.getresponse() as answer:
        return answer.read()


# The server


def test_a_question_takes_the_round_trip_and_connecting_another(connected):
    start = time.monotonic()
    connection = connected()
    assert asked(connection) == CONTENT
    assert time.monotonic() - start >= 0.1
    start = time.monotonic()
    assert asked(connection) == CONTENT
    assert time.monotonic() - start >= 0.05


def test_a_server_that_is_down_refuses_and_cuts_what_was_open(far, connected):
    before = connected()
    asked(before)
    far.refuse()
    assert before.sock.recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        connected()


def test_a_server_that_hangs_takes_connections_and_never_answers(far, connected):
    before = connected()
    asked(before)
    far.fall_silent()
    for connection in (before, connected()):
        connection.sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            asked(connection)


# What is counted


def turn(epoch_s: dict[str, float], others_cpu_s: float = 0.0) -> dict:
    """A turn in which an epoch takes ten seconds unless said otherwise, all of them CPU time."""
    made = {}
    for name in ARMS:
        seconds = epoch_s.get(name, 10.0)
        others = others_cpu_s if name not in ("nothing", "again") else 0.01
        made[name] = {"epoch_s": seconds, "epoch_cpu_s": seconds, "epoch_others_cpu_s": others}
    return made


def meter(journal_s: float) -> Meter:
    """Of four epochs."""
    return Meter(epochs=4, journal_s=journal_s, journal_cpu_s=0.004, file_s=0.04, picture_s=2.0)


def test_shares_are_medians_of_the_turns_own():
    turns = [
        turn({"local": 10.1, "server": 10.3, "refused": 9.9, "hanging": 10.0}, 0.11),
        turn({"local": 10.2, "server": 10.2, "refused": 10.0, "hanging": 10.4}, 0.11),
        turn(
            {"nothing": 20.0, "local": 20.1, "server": 20.2, "refused": 20.0, "hanging": 20.2}, 0.11
        ),
    ]
    for told in turns:
        told["again"]["epoch_s"] = told["nothing"]["epoch_s"] * 1.001
    found = shares(turns, {name: meter(0.36 if name == "server" else 0.16) for name in ARMS})
    assert found["local_percent"] == pytest.approx(1.0)
    assert found["server_percent"] == pytest.approx(2.0)
    # The worse of the two: 1.0 beside 0.0.
    assert found["away_percent"] == pytest.approx(1.0)
    assert found["noise_percent"] == pytest.approx(0.1)
    assert found["arms"]["local"]["turns"] == pytest.approx([1.0, 2.0, 0.5])
    assert (found["arms"]["local"]["min"], found["arms"]["local"]["max"]) == pytest.approx((0.5, 2))
    assert found["arms"]["local"]["cpu_percent"] == pytest.approx(1.0)
    assert found["epoch_s"] == 10.0
    # 0.1 s of journal and pictures an epoch, of epochs of 10.3 s.
    assert found["blocked_percent"] == pytest.approx(100 * 0.1 / 10.3)
    assert found["arms"]["local"]["blocked_percent"] == pytest.approx(100 * 0.05 / 10.2)
    # 0.1 s more than with nothing in each of three turns.
    assert found["courier_cpu_percent"] == pytest.approx(100 * 0.3 / 39.9)
    assert found["arms"]["local"]["picture_percent"] == pytest.approx(100 * 0.5 / 10.2)


def test_the_report_says_what_was_measured():
    result = shares(
        [turn({"local": 10.05, "hanging": 10.2}, 0.02)], dict.fromkeys(ARMS, meter(0.0))
    )
    told = logging_report(
        result
        | {
            "machine": {
                "cores": 2,
                "load_average": 0.5,
                "load_average_before": 0.25,
                "mlflow": "3.17",
                "torch": "2.13",
            },
            "settings": {"rounds": 1, "round_trip_s": 0.05},
        }
    )
    assert "local_percent 0.50   server_percent 0.00   away_percent 2.00" in told
    assert "the server answers after 50 ms" in told
    rows = [line.split() for line in told.splitlines()]
    assert ["a", "server", "that", "hangs", *("2.00",) * 4, "0.10", "0.10"] in rows


def test_no_round_is_refused():
    with pytest.raises(ValueError, match="--rounds must be at least 1, got 0"):
        LoggingBenchmark(rounds=0)


# What is measured


@pytest.mark.parametrize("kind", [MeteredKeeper, SilentKeeper])
def test_keepers_train_alike_and_only_one_of_them_records(tmp_path, kind):
    [shard] = pack_samples(tmp_path / "train", [samples(4)])
    [val] = pack_samples(tmp_path / "val", [samples(1, first=9)], split="val")
    settings = {
        "model.stacks": 1,
        "model.features": 8,
        "model.joints": 16,
        "model.input_px": 64,
        "optim.batch_size": 2,
        "optim.epochs": 2,
        "evaluation.overlays": 1,
        # Which epoch is the better one is chance here.
        "tracking.models": 0,
    }
    task = Task(settings=settings, joint_set=MPII.to_json(), train=(str(shard),), val=(str(val),))
    turns = Turns(tmp_path)
    for number in range(2):
        turns.go(number).touch()
    learner = DrawingLearner(turns, task, 0, 1, torch.device("cpu"))
    with kind(learner, tmp_path / "run") as keeper:
        train(learner, keeper, Host())
    found = keeper.meter
    assert found.epochs == 2
    assert min(found.picture_s, found.file_s) > 0
    kinds = [entry.kind for entry in Journal(tmp_path / "run").entries()]
    if kind is SilentKeeper:
        assert (kinds, found.journal_s, found.journal_cpu_s) == ([], 0.0, 0.0)
    else:
        assert kinds == ["file", "metrics"] * 2
        assert found.journal_s > 0
    assert len(list((tmp_path / "run" / "overlays").iterdir())) == 2


def test_an_arm_that_delivered_what_it_could_not_or_kept_what_it_could_is_an_error(tmp_path):
    uri = "http://127.0.0.1:1"
    journal = Journal(tmp_path / "run")
    journal.run(
        RunSpec(uri=uri, experiment="e", name="run", params={}, tags={}, artifacts=tmp_path)
    )
    flat = {"ray.storage": str(tmp_path), "ray.name": "run", "tracking.uri": uri}
    settings = Settings.from_flat(flat)
    check_recorded({"refused": settings})
    with pytest.raises(RuntimeError, match="the arm server has MLflow lacks 1 entry"):
        check_recorded({"server": settings})
    nothing = Settings.from_flat(flat | {"ray.name": "other"})
    check_recorded({"server": nothing})
    with pytest.raises(RuntimeError, match="the arm hanging has delivered everything"):
        check_recorded({"hanging": nothing})


# Four processes that import torch, on a machine that may be busy.
@pytest.mark.timeout(900)
def test_both_kinds_of_arms_train_in_turns_and_one_ends_with_all_in_mlflow(tmp_path):
    data = tmp_path / "data"
    pack_rendered(data, 24)
    changes = {"optim.epochs": 2, "optim.batch_size": 8, "evaluation.overlays": 1}
    told = {
        name: settings_for(data, "train-*.tar", changes | {"ray.name": name})
        for name in ("nothing", "local")
    }
    with ExitStack() as ending:
        sides = {
            name: ending.enter_context(
                Side(name, drive, told[name].flat(), tmp_path / name, inherits={})
            )
            for name, drive in (("nothing", drive_unrecorded), ("local", drive_recorded))
        }
        first, last = take_turns(sides, 1)
    for name in told:
        assert min(first[name]["epoch_s"], first[name]["epoch_cpu_s"]) > 0
        assert first[name]["epoch_s"] >= first[name]["seconds"]
        assert "epoch_s" not in last[name]
        assert meter_of(tmp_path / name).epochs == 2
    assert not (tmp_path / "runs" / "nothing" / "journal.jsonl").exists()
    check_recorded({"local": told["local"]})
    [rows] = recorded(told["local"].tracking.uri, "hourglass", "local")
    assert sorted(row.step for row in rows if row.name == "val_loss") == [1, 2]
