"""A signal to a run's driver: what it asks of the workers, and how the run then ends."""

import signal
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
from factories import checkpoint, packed, settings_of

from pipeline.cluster import launch, stop
from pipeline.cluster.launch import train
from pipeline.run import ownership
from pipeline.run.layout import STARTING_NAME, STOP_NAME
from pipeline.run.metadata import Progress
from pipeline.run.ownership import own
from pipeline.run.plan import plan_training
from pipeline.tracking.recording import InterruptedRunError, RunRecorder

METRIC = "pckh_0.5"


@pytest.fixture
def signalled(tmp_path, monkeypatch):
    """Yield a function that handles a run's first signal, and the signals that it then sends."""
    asks, sent = [], []

    @contextmanager
    def orderly_stop(ask):
        asks.append(ask)
        yield

    monkeypatch.setattr(stop, "orderly_stop", orderly_stop)
    monkeypatch.setattr(stop, "_LOOK_S", 0.01)
    monkeypatch.setattr(stop.os, "kill", lambda process, number: sent.append(number))
    monkeypatch.setattr(ownership, "uuid4", lambda: SimpleNamespace(hex="token"))
    with own(tmp_path, "run r") as writer, stop.stopping(tmp_path, writer, METRIC) as request:
        yield lambda: asks[0]("SIGTERM"), sent, request


def test_a_signal_asks_the_workers_for_a_checkpoint(signalled, tmp_path):
    handle, sent, request = signalled
    assert handle()
    assert request.is_asked
    assert (tmp_path / STOP_NAME).read_text() == "token"
    assert sent == []


def test_without_workers_a_signal_asks_for_nothing(signalled, tmp_path):
    handle, _, request = signalled
    (tmp_path / STARTING_NAME).touch()
    assert not handle()
    assert not request.is_asked


def test_a_signal_does_not_wait_for_an_evaluation_which_has_nothing_to_save(
    signalled, tmp_path, monkeypatch
):
    handle, sent, _ = signalled
    handled = stop.threading.Event()
    monkeypatch.setattr(stop.os, "kill", lambda _, number: (sent.append(number), handled.set()))
    checkpoint(tmp_path / "epoch_0000+00009")
    assert handle()
    assert handled.wait(60)
    assert sent == [signal.SIGTERM]


@pytest.mark.parametrize("is_by_signal", [True, False], ids=["signal", "sweep"])
@pytest.mark.parametrize("epochs", [1, 2], ids=["unfinished", "all epochs"])
def test_a_run_that_was_asked_to_stop_is_interrupted_also_when_its_epochs_are_done(
    tmp_path, monkeypatch, epochs, is_by_signal
):
    def fit(plan, recording, request, label):
        request.is_by_signal = is_by_signal
        request.ask()

    monkeypatch.setattr(launch, "check_capacity", lambda settings: None)
    monkeypatch.setattr(launch, "_fit", fit)
    monkeypatch.setattr(launch, "addressed", lambda address: nullcontext())
    monkeypatch.setattr(launch.ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address=""))
    monkeypatch.setattr(launch, "_progress", lambda plan: Progress(epochs=epochs, samples=8))
    monkeypatch.setattr(RunRecorder, "begin", lambda self: None)
    monkeypatch.chdir(tmp_path)
    plan = plan_training(
        settings_of(packed(tmp_path), **{"optim.epochs": 2, "optim.batch_size": 2})
    )
    with own(plan.folder, "run r") as writer:
        recording = RunRecorder(plan.folder, "", writer)
        with pytest.raises(InterruptedRunError, match="a checkpoint after 8 samples; the same"):
            train(plan, recording)
        # Recorded before the cluster ends, so that the upload continues meanwhile. A trial that a
        # sweep stops for good is finished, not killed.
        ends = [(entry.kind, entry.content["status"]) for entry in recording.journal.entries()]
    assert ends == ([("end", "KILLED")] if is_by_signal else [])
    assert not (plan.folder / STOP_NAME).exists()
