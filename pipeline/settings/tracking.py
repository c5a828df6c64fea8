"""Settings of the record in MLflow."""

import re
from dataclasses import dataclass

from pipeline.settings.check import require


@dataclass(frozen=True, kw_only=True)
class TrackingSettings:
    """Where MLflow records the run."""

    uri: str = ""
    """MLflow tracking URI; empty: MLFLOW_TRACKING_URI, else SQLite's mlflow.db in the working folder, in a submitted job ~/hourglass-ray/mlflow.db."""
    experiment: str = "hourglass"
    """MLflow experiment."""
    required: bool = True
    """Start only if MLflow answers; false: start anyway, and deliver what is recorded when it does."""

    models: int = 1
    """Best checkpoints kept in MLflow as models that mlflow.pyfunc loads, each taking the place of a worse one; 0: none. The runs' folder keeps as many."""
    register: str = ""
    """Name in MLflow's model registry under which the best checkpoint is registered at the end, as its champion if it is better than that; empty: not registered."""

    def __post_init__(self) -> None:
        require(bool(self.experiment), "tracking.experiment", "a name", self.experiment)
        require(self.models >= 0, "tracking.models", "at least 0", self.models)
        require(
            re.fullmatch(r"[\w.-]*", self.register) is not None,
            "tracking.register",
            "made of letters, digits, '.', '_' and '-'",
            self.register,
        )
        require(
            self.models >= 1 or not self.register,
            "tracking.models",
            "at least 1 with tracking.register",
            self.models,
        )
