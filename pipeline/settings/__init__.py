"""All settings of a training run, as one tree of frozen dataclasses.

A setting has one dotted key, such as `model.stacks`, everywhere: on the command line, in a search
space, as an MLflow parameter, in a checkpoint's JSON and in errors. Defaults are those of the paper
(Newell et al., ECCV 2016) where it gives one.
"""

from pipeline.settings.data import DataSettings
from pipeline.settings.evaluation import Decoding, EvaluationSettings
from pipeline.settings.model import ModelSettings, Supervision
from pipeline.settings.optim import LAST_STACK, Loss, NormWeights, OptimSettings
from pipeline.settings.ray import RaySettings
from pipeline.settings.tracking import TrackingSettings
from pipeline.settings.tree import Scalar, Settings

__all__ = [
    "LAST_STACK",
    "DataSettings",
    "Decoding",
    "EvaluationSettings",
    "Loss",
    "ModelSettings",
    "NormWeights",
    "OptimSettings",
    "RaySettings",
    "Scalar",
    "Settings",
    "Supervision",
    "TrackingSettings",
]
