"""Recipes: settings that exist, and none of them the network's, the data's or the machine's."""

import pytest

from pipeline.recipes import RECIPES
from pipeline.settings import Settings

# What a recipe leaves to whoever trains.
_OTHERS = {
    "optim.accumulate",
    "optim.precision",
    "optim.seed",
    "optim.sync_batchnorm",
}


@pytest.mark.parametrize("name", RECIPES)
def test_every_setting_of_a_recipe_is_accepted(name):
    flat = Settings().replaced(RECIPES[name]).flat()
    for key, value in RECIPES[name].items():
        assert flat[key] == value
        assert type(flat[key]) is type(value), key


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_how_to_train_and_nothing_else(name):
    assert {key.partition(".")[0] for key in RECIPES[name]} <= {"optim", "data", "evaluation"}
    assert not _OTHERS & RECIPES[name].keys()


def test_the_papers_recipe_is_the_defaults_with_a_drop_and_the_authors_length():
    settings = Settings().replaced(RECIPES["newell2016"])
    assert settings == Settings().replaced({"optim.schedule": "plateau", "optim.epochs": 216})
    # The authors count 8,000 steps of 6 as an epoch, and take 100 of them.
    assert round(100 * 8000 * 6 / 22_246) == 216


def test_the_modern_recipe_is_what_it_is_named_for():
    optim = Settings().replaced(RECIPES["modern"]).optim
    assert (optim.optimizer, optim.schedule, optim.missing_joints) == ("adamw", "cosine", "mask")
    assert min(optim.warmup_samples, optim.ema_samples, optim.weight_decay) > 0
