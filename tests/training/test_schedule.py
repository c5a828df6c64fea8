"""The learning rate as a function of samples and of the validation plateau."""

import pytest

from pipeline.run.metadata import Plateau
from pipeline.settings import OptimSettings
from pipeline.training.schedule import describe_course, full_rate, learning_rate


@pytest.mark.parametrize(
    ("schedule", "samples", "rate"),
    [
        ("constant", 0, 0.004),
        ("constant", 540, 0.004),
        ("cosine", 0, 0.004),
        # The cosine of 60 degrees is 1/2.
        ("cosine", 200, 0.003),
        ("cosine", 300, 0.002),
        ("cosine", 400, 0.001),
        ("cosine", 600, 0.0),
        # A run whose epochs were cut short never turns upwards.
        ("cosine", 900, 0.0),
    ],
)
def test_the_learning_rate_follows_its_schedule(schedule, samples, rate):
    settings = OptimSettings(learning_rate=0.004, schedule=schedule)
    assert learning_rate(settings, samples, 600) == pytest.approx(rate, abs=1e-12)


@pytest.mark.parametrize(
    ("samples", "rate"),
    # The step's own five samples count, so the first has a rate above 0, and none exceeds the peak.
    [(0, 0.0002), (20, 0.001), (70, 0.003), (98, 0.004), (100, 0.004), (500, 0.0025)],
)
def test_the_rate_rises_linearly_before_the_schedule_begins(samples, rate):
    # From 100 samples on a cosine of 800, half-way at 500: between 0.004 and a quarter of it.
    settings = OptimSettings(
        learning_rate=0.004,
        batch_size=5,
        schedule="cosine",
        warmup_samples=100,
        cosine_end=0.25,
    )
    assert learning_rate(settings, samples, 900) == pytest.approx(rate)
    assert learning_rate(settings, 900, 900) == pytest.approx(0.001)


def test_a_plateau_drops_the_rate_once_to_the_authors_value():
    settings = OptimSettings(schedule="plateau")
    assert learning_rate(settings, 10, 100) == 2.5e-4
    assert learning_rate(settings, 10, 100, has_dropped=True) == pytest.approx(5e-5)


def test_a_plateau_is_patience_epochs_without_a_better_accuracy():
    state, dropped = Plateau(), []
    for accuracy in (10.0, 12.0, 11.0, 12.5, 12.5, 12.0, 13.0, 1.0, 2.0):
        state = state.after(accuracy, patience=2)
        dropped.append(state.has_dropped)
    # An equal accuracy is no better one; and what has dropped stays so.
    assert dropped == [False] * 5 + [True] * 4
    assert state == Plateau(best=13.0, epochs_since=2, has_dropped=True)


@pytest.mark.parametrize(
    ("scaling", "batch", "rate"),
    [
        ("none", 64, 0.001),
        ("linear", 64, 0.004),
        ("linear", 8, 0.0005),
        ("sqrt", 64, 0.002),
        ("sqrt", 16, 0.001),
    ],
)
def test_the_rate_scales_with_the_batch_as_configured(scaling, batch, rate):
    settings = OptimSettings(
        learning_rate=0.001, rate_scaling=scaling, batch_size=batch, reference_batch=16
    )
    assert full_rate(settings) == pytest.approx(rate)
    assert learning_rate(settings, 5, 100) == pytest.approx(rate)


def test_a_schedule_is_described_in_words():
    assert describe_course(OptimSettings()) == "0.00025, constant"
    assert (
        describe_course(OptimSettings(schedule="plateau"))
        == "0.00025, a drop to 5e-05 after 5 epochs without a better accuracy"
    )
    settings = OptimSettings(
        learning_rate=1e-3,
        batch_size=128,
        rate_scaling="sqrt",
        reference_batch=32,
        schedule="cosine",
        cosine_end=0.1,
        warmup_samples=10_000,
    )
    assert describe_course(settings) == (
        "0.002 (optim.learning_rate=0.001, sqrt in optim.batch_size=128 over 32), "
        "reached after 10,000 samples, then a cosine to 0.0002"
    )
