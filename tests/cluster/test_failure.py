"""The error that a failed training reports is the one that caused it."""

import pytest
from ray.train import ControllerError, TrainingFailedError, WorkerGroupError

from pipeline.cluster import launch
from pipeline.cluster.failures import FailureReporter, reason
from pipeline.run.layout import StorageError
from pipeline.training.bad_steps import BadStepsError

GLOO = RuntimeError(
    "[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer"
)


@pytest.mark.parametrize(
    "error",
    [ValueError("no such file"), BadStepsError("the loss is nan"), StorageError("disk full")],
)
def test_a_permanent_error_is_not_retried_and_is_reported_as_raised(tmp_path, error):
    with pytest.raises(ControllerError) as raised:
        FailureReporter(tmp_path).after_exception(None, {0: GLOO, 1: error})
    assert reason(raised.value) == str(error)


def test_a_transient_error_is_left_to_be_retried(tmp_path):
    FailureReporter(tmp_path).after_exception(None, {0: GLOO, 1: RuntimeError("out of memory")})


def test_the_failed_rank_is_named_and_not_those_that_lost_contact():
    failures = {0: GLOO, 1: TypeError("an int, not a str"), 2: GLOO}
    error = WorkerGroupError("Traceback (most recent call last): ...", failures)
    assert reason(error) == "rank 1: TypeError: an int, not a str"
    lost = WorkerGroupError("...", {1: GLOO, 0: GLOO})
    assert reason(lost).startswith("rank 0: RuntimeError: [../third_party/gloo")


def test_other_failures_are_reported_as_raised():
    assert reason(TrainingFailedError("no room for the workers")) == "no room for the workers"


class AwayTurns:
    """The turns of a driver whose store does not answer."""

    def hand_over(self) -> None:
        pass

    def start_over(self, remove) -> None:
        remove()

    def take_back(self) -> None:
        raise OSError("s3://bucket: full")


def test_a_store_that_is_away_hides_no_failure_of_the_workers():
    failed = WorkerGroupError("", {0: RuntimeError("CUDA out of memory")})
    with (
        pytest.raises(OSError, match="RuntimeError: CUDA out of memory; and s3://bucket: full"),
        launch._turn_of_workers(AwayTurns()),
    ):
        raise failed
    with (
        pytest.raises(OSError, match=r"^s3://bucket: full"),
        launch._turn_of_workers(AwayTurns()),
    ):
        pass
