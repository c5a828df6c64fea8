"""Networks of all sizes overfit eight pictures and do not collapse to all-zero heatmaps."""

import numpy as np
import pytest
import torch
from factories import rendered_people

from pipeline.data.loader import SampleLoader
from pipeline.evaluation.evaluate import Evaluator, evaluate_people
from pipeline.model.build import build_network
from pipeline.pose.joint_sets import MPII
from pipeline.settings import EvaluationSettings, ModelSettings, OptimSettings, Settings
from pipeline.training.step import build_optimizer, train_step

CPU = torch.device("cpu")
STEPS = 120


@pytest.fixture(scope="module")
def people(tmp_path_factory) -> SampleLoader:
    """Eight rendered people as pictures of 64 pixels, heatmaps of 16."""
    return rendered_people(tmp_path_factory.mktemp("people"), 8)


def pckh_by_heart(people: SampleLoader, stacks: int, optim: OptimSettings, order: int = 2) -> float:
    """Return PCKh@0.5 on the pictures that a network of 16 features was trained on."""
    model = ModelSettings(stacks=stacks, features=16, order=order, joints=16, input_px=64)
    network = build_network(model, 0, CPU, zero_heads=optim.zero_heads)
    optimizer = build_optimizer(network, optim)
    batch = people.batch(np.arange(8))
    for _ in range(STEPS):
        train_step(network.train(), optimizer, batch, optim, CPU, torch.float32)
    settings = Settings(optim=optim, evaluation=EvaluationSettings(flip_test=False))
    evaluator = Evaluator(network=network, loader=people, settings=settings, device=CPU)
    return evaluate_people(evaluator.predict([batch]), people)[0].scores(MPII)["pckh"].headline


def recipe(**changes) -> OptimSettings:
    return OptimSettings(**{"optimizer": "adamw", "learning_rate": 1e-2, "sigma_px": 1.0} | changes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "stacks", "order"),
    [("mse", 1, 2), ("mse", 8, 1), ("cross-entropy", 1, 2), ("cross-entropy", 2, 2)],
)
def test_the_network_overfits_eight_pictures(people, loss, stacks, order):
    assert pckh_by_heart(people, stacks, recipe(loss=loss), order) > 85


@pytest.mark.slow
def test_from_random_heads_squared_error_stays_with_all_zero_heatmaps(people):
    assert pckh_by_heart(people, 1, recipe(zero_heads=False)) < 50
