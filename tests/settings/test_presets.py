"""Recipes: valid settings, and none of the network, the data or the machine."""

import pytest

from pipeline.settings import Settings
from pipeline.settings.presets import MODERN, NEWELL2016

# Settings of training that a recipe leaves open.
_OTHERS = {
    "optim.accumulate",
    "optim.checkpointing",
    "optim.compile",
    "optim.precision",
    "optim.seed",
    "optim.sync_batchnorm",
}


@pytest.mark.parametrize("recipe", [NEWELL2016, MODERN], ids=("newell2016", "modern"))
def test_every_setting_of_a_recipe_is_accepted(recipe):
    flat = Settings().replaced(recipe).flat()
    for key, value in recipe.items():
        assert flat[key] == value
        assert type(flat[key]) is type(value), key


@pytest.mark.parametrize("recipe", [NEWELL2016, MODERN], ids=("newell2016", "modern"))
def test_a_recipe_sets_how_to_train_and_nothing_else(recipe):
    assert {key.partition(".")[0] for key in recipe} <= {"optim", "data", "evaluation"}
    assert not _OTHERS & recipe.keys()


def test_the_papers_recipe_is_the_defaults_with_a_drop_and_the_authors_length():
    settings = Settings().replaced(NEWELL2016)
    assert settings == Settings().replaced(
        {
            "optim.schedule": "plateau",
            "optim.epochs": 216,
            "optim.target_px": 7,
            "optim.norm_weights": "uniform",
            "optim.zero_heads": False,
        }
    )
    # The authors count 8,000 steps of 6 as an epoch, and take 100 of them.
    assert round(100 * 8000 * 6 / 22_246) == 216


def test_the_modern_recipe_has_its_distinctive_settings():
    optim = Settings().replaced(MODERN).optim
    assert (optim.optimizer, optim.schedule, optim.missing_joints) == ("adamw", "cosine", "mask")
    assert min(optim.warmup_samples, optim.ema_samples, optim.weight_decay) > 0
