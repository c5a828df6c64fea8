"""Progress lines, timed by a fake clock."""

import pytest

from pipeline.io.console import Pace, amount, bar, duration, say


class Clock:
    """Clock that the test advances."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3.0, "0 s"),
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (185.0, "3 min 5 s"),
        (3599.4, "59 min 59 s"),
        (3600.0, "1 h 0 min"),
        (7859.0, "2 h 10 min"),
        (100_000.0, "27 h 46 min"),
    ],
)
def test_a_duration_is_formatted_for_people(seconds, text):
    assert duration(seconds) == text


def test_a_line_is_due_once_every_few_seconds():
    clock = Clock()
    pace = Pace(5.0, clock)
    due = []
    for now in (1001, 1004.9, 1005, 1006, 1009.9, 1010.5, 1015, 1015.5):
        clock.now = now
        due.append(pace.is_due())
    assert due == [False, False, True, False, False, True, False, True]


def test_the_time_left_is_estimated_by_the_mean_pace():
    clock = Clock()
    pace = Pace(1.0, clock)
    clock.now += 30.0
    assert pace.elapsed_s() == 30.0
    # 10 took 30 s, 3 s each, and 15 are left.
    assert pace.left_s(10, 25) == 45.0
    assert pace.left_s(25, 25) == 0.0
    # Before the first is done, the estimate counts it as done.
    assert pace.left_s(0, 25) == 750.0


@pytest.mark.parametrize(
    ("done", "total", "text"),
    [
        (0, 8, "[........] 0/8"),
        (3, 8, "[###.....] 3/8"),
        (8, 8, "[########] 8/8"),
        (1, 3000, "[........] 1/3,000"),
        (0, 0, "[........] 0/0"),
    ],
)
def test_a_bar_fills_up(done, total, text):
    assert bar(done, total, width=8) == text


def test_a_line_is_printed_on_standard_output(capsys):
    say("half way")
    assert capsys.readouterr() == ("half way\n", "")


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [
        (12.345, 2, "12.35"),
        (1234.5, 1, "1,234.5"),
        (0.5, 2, "0.50"),
        (0.1, 2, "0.10"),
        (0.05, 2, "0.050"),
        (0.003_42, 2, "0.0034"),
        (-0.003_42, 2, "-0.0034"),
        (0.4, 1, "0.40"),
        (0.0, 2, "0.00"),
        (1.23e-12, 2, "1.2e-12"),
        (float("nan"), 2, ""),
    ],
)
def test_a_small_quantity_has_two_digits_that_are_not_zero(value, decimals, text):
    assert amount(value, decimals) == text
