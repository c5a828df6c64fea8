"""Calls on threads of their own, with an end to the wait for them."""

import threading

import pytest

from pipeline.io.threads import beside, within


def test_a_call_within_its_time_returns_its_result():
    assert within(60, lambda: 7) == 7


def test_a_call_that_hangs_is_given_up_with_the_time_that_it_had():
    hangs = threading.Event()
    with pytest.raises(TimeoutError, match=r"^no answer within 0.01 s$"):
        within(0.01, hangs.wait)
    hangs.set()


@pytest.mark.parametrize("error", [ValueError("unknown host"), TimeoutError("the call's own")])
def test_an_error_of_the_call_is_raised_as_it_is(error):
    def fails() -> None:
        raise error

    with pytest.raises(type(error), match=str(error)):
        within(60, fails)
    with pytest.raises(type(error), match=str(error)):
        beside(fails).result(60)
