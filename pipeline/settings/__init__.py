"""Every setting of a training run, as one tree of frozen dataclasses.

A setting is known everywhere by its dotted key, such as `model.stacks`: on the
command line, in a search space, as an MLflow parameter, in a checkpoint's JSON
and in every error. Defaults are the paper's (Newell et al., ECCV 2016) where it
gives one.
"""

from pipeline.settings.data import DataSettings
from pipeline.settings.evaluation import Decoding, EvaluationSettings
from pipeline.settings.model import ModelSettings, Supervision
from pipeline.settings.optim import Loss, OptimSettings
from pipeline.settings.ray import RaySettings
from pipeline.settings.tracking import TrackingSettings
from pipeline.settings.tree import Scalar, Settings

__all__ = [
    "DataSettings",
    "Decoding",
    "EvaluationSettings",
    "Loss",
    "ModelSettings",
    "OptimSettings",
    "RaySettings",
    "Scalar",
    "Settings",
    "Supervision",
    "TrackingSettings",
]
