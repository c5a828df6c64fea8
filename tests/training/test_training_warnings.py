"""Warnings about collapsed heatmaps and stalled accuracy."""

import numpy as np
import pytest
import torch
from factories import rendered_people

from pipeline.data.loader import SampleLoader
from pipeline.evaluation.evaluate import Evaluator, evaluate_people
from pipeline.model.build import build_network
from pipeline.model.loss import is_flat
from pipeline.run.metadata import Plateau
from pipeline.settings import EvaluationSettings, ModelSettings, OptimSettings, Settings
from pipeline.training.console_logger import TrainingWarnings
from pipeline.training.schedule import learning_rate
from pipeline.training.step import build_optimizer, set_learning_rate, train_step

CPU = torch.device("cpu")


def test_with_squared_error_heatmaps_below_a_tenth_of_the_peak_are_flat():
    # Means over two joints: 0.45, 0.75, 1.05 and 5 of a peak of 10.
    heights = torch.tensor([[0.4, 0.5], [1.5, 0.0], [0.9, 1.2], [10.0, 0.0]])
    assert is_flat(heights, "mse", 10.0, 256).tolist() == [True, True, False, False]
    assert is_flat(heights, "mse", 1.0, 256).tolist() == [False] * 4


def test_with_cross_entropy_heatmaps_below_twice_the_uniform_distribution_are_flat():
    # In units of 1/256: means of 1, 1.9 and 2.1.
    heights = torch.tensor([[1.0, 1.0], [1.0, 2.8], [1.2, 3.0]]) / 256
    for peak in (1.0, 10.0):
        assert is_flat(heights, "cross-entropy", peak, 256).tolist() == [True, True, False]


@pytest.fixture(scope="module")
def people(tmp_path_factory) -> SampleLoader:
    """32 rendered people as pictures of 64 pixels, heatmaps of 16."""
    return rendered_people(tmp_path_factory.mktemp("people"), 32)


def flat_after(people: SampleLoader, steps: int, **changes) -> int:
    """For how many of the 32 people heatmaps are flat after some steps."""
    recipe = {"optimizer": "adamw", "learning_rate": 1e-2, "sigma_px": 0.5}
    optim = OptimSettings(**recipe | changes)
    model = ModelSettings(stacks=1, features=8, order=2, joints=16, input_px=64)
    network = build_network(model, 0, CPU, zero_heads=optim.zero_heads)
    optimizer = build_optimizer(network, optim)
    batch = people.batch(np.arange(32))
    for step in range(steps):
        set_learning_rate(optimizer, learning_rate(optim, step, steps))
        rows = np.random.default_rng(step).permutation(32)[:8]
        train_step(network.train(), optimizer, batch.rows(rows), optim, CPU, torch.float32)
    settings = Settings(optim=optim, evaluation=EvaluationSettings(flip_test=False))
    evaluator = Evaluator(network=network, loader=people, settings=settings, device=CPU)
    return evaluate_people(evaluator.predict([batch]), people)[0].flat


def test_a_collapsed_network_has_flat_heatmaps_for_all_people(people):
    # The highest are at three quarters of what counts as flat.
    assert flat_after(people, 60, zero_heads=False) == 32


def test_a_network_that_learns_by_cross_entropy_has_no_flat_heatmaps(people):
    # The lowest heatmaps were 7 times as high as flat ones from each of ten starts.
    assert flat_after(people, 60, loss="cross-entropy") == 0


@pytest.mark.slow
def test_a_network_that_learns_by_squared_error_has_few_flat_heatmaps(people):
    # How soon heights rise from zero depends on rounding, and so on the processor: at step 60 they
    # are up for 20 people on one, for 29 on another. That they rise does not: after 300 steps, at
    # a rate that falls so that weights and statistics settle, the lowest were 1.2 times and the
    # fourth lowest 1.7 times as high as flat ones, and rising, from each of six starts: three
    # seeds, and weights changed by a millionth, with and without wide vector instructions.
    assert flat_after(people, 300, target_peak=10.0, schedule="cosine") <= 3


def warned(warnings: TrainingWarnings, percents: list[float]) -> list[int]:
    """The epochs with a warning about flat heatmaps."""
    found = []
    for epoch, percent in enumerate(percents, start=1):
        if warnings.after(epoch, percent, Plateau()):
            found.append(epoch)
    return found


def test_a_collapse_is_reported_once_at_its_second_evaluation_and_again_after_a_recovery():
    assert warned(TrainingWarnings("PCKh@0.5"), [100.0, 94.9, 95.0, 100.0, 99.0, 100.0]) == [4]
    assert warned(TrainingWarnings("PCKh@0.5"), [95.0] * 3 + [10.0] + [95.0] * 3) == [2, 6]


def test_a_collapse_is_reported_with_remedies():
    warnings = TrainingWarnings("PCKh@0.5")
    warnings.after(1, 100.0, Plateau())
    [line] = warnings.after(2, 98.4, Plateau())
    assert line.startswith("warning: heatmaps are flat for 98% of validation people: ")
    for setting in ("optim.zero_heads=True", "optim.target_peak=10", "optim.loss=cross-entropy"):
        assert setting in line


def lines_of(accuracies: list[float]) -> dict[int, list[str]]:
    """The warnings by epoch for a sequence of accuracies."""
    warnings, plateau, found = TrainingWarnings("PCKh@0.5"), Plateau(), {}
    for epoch, accuracy in enumerate(accuracies, start=1):
        plateau = plateau.after(accuracy, float("inf"))
        lines = warnings.after(epoch, 0.0, plateau)
        if lines:
            found[epoch] = lines
    return found


def test_ten_epochs_without_improvement_are_reported_once_until_there_is_one():
    rising = [float(epoch) for epoch in range(1, 21)]
    found = lines_of(rising + [20.0] * 15 + [21.0] + [0.0] * 25)
    assert list(found) == [30, 46]
    assert found[30] == [
        "warning: PCKh@0.5 has not improved in 10 epochs; its best, 20.00, was after epoch 20"
    ]
    assert found[46][0].endswith("its best, 21.00, was after epoch 36")
    assert lines_of(rising + [20.0] * 9 + [21.0] + [20.0] * 9) == {}


def first_warning(accuracies: np.ndarray) -> float:
    return min(lines_of(accuracies.tolist()), default=np.inf)


def test_noise_is_reported_as_no_progress_and_progress_within_noise_is_not():
    noise = np.random.default_rng(0).normal(0, 0.5, (100, 60))
    firsts = [first_warning(row) for row in 10 + noise]
    # In 500 such runs 5% were reported by epoch 11, half by 17, all by 40.
    assert np.median(firsts) < 25
    assert max(firsts) < 60
    # As much as the noise's standard deviation in two epochs.
    rising = [first_warning(row) for row in 10 + 0.25 * np.arange(60) + noise]
    assert min(rising) == np.inf


def test_a_run_that_never_beats_its_first_epochs_is_reported():
    found = lines_of([3.0, 5.0] + [4.0] * 30)
    assert list(found) == [12]
    [line] = found[12]
    assert line.startswith(
        "warning: PCKh@0.5 has not improved in 10 epochs; its best, 5.00, was after epoch 2: the "
        "network is no better than at the start; "
    )
