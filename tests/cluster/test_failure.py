"""The error that a failed training reports is the one that caused it."""

import pytest
from ray.train import ControllerError, TrainingFailedError, WorkerGroupError

from pipeline.cluster.launch import FailureReporter, reason
from pipeline.run.checkpoint_manager import StorageError
from pipeline.training.bad_steps import BadStepsError

GLOO = RuntimeError(
    "[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer"
)


@pytest.mark.parametrize(
    "error",
    [ValueError("no such file"), BadStepsError("the loss is nan"), StorageError("disk full")],
)
def test_what_would_come_again_is_tried_once_and_told_in_its_own_words(tmp_path, error):
    with pytest.raises(ControllerError) as raised:
        FailureReporter(tmp_path).after_exception(None, {0: GLOO, 1: error})
    assert reason(raised.value) == str(error)


def test_what_may_pass_is_left_to_be_tried_again(tmp_path):
    FailureReporter(tmp_path).after_exception(None, {0: GLOO, 1: RuntimeError("out of memory")})


def test_the_rank_that_failed_is_named_and_not_those_that_missed_it():
    failures = {0: GLOO, 1: TypeError("an int, not a str"), 2: GLOO}
    error = WorkerGroupError("Traceback (most recent call last): ...", failures)
    assert reason(error) == "rank 1: TypeError: an int, not a str"
    lost = WorkerGroupError("...", {1: GLOO, 0: GLOO})
    assert reason(lost).startswith("rank 0: RuntimeError: [../third_party/gloo")


def test_other_failures_speak_for_themselves():
    assert reason(TrainingFailedError("no room for the workers")) == "no room for the workers"
