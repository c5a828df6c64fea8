"""Settings of tracking in MLflow."""

from dataclasses import dataclass

from pipeline.settings.check import require, require_at_least, require_name


@dataclass(frozen=True, kw_only=True)
class TrackingSettings:
    """MLflow server and experiment of a run, and the models that it logs."""

    uri: str = ""
    """MLflow tracking URI. Empty: MLFLOW_TRACKING_URI, else the SQLite file mlflow.db in the
    working folder, or ~/hourglass-ray/mlflow.db in a submitted job."""
    experiment: str = "hourglass"
    """MLflow experiment."""
    required: bool = True
    """Start only if MLflow answers; false: start anyway, and upload when it answers."""

    models: int = 1
    """Best checkpoints to keep in MLflow as models that mlflow.pyfunc loads; 0: none. A better one
    replaces the worst. The run's folder keeps the same number."""
    register: str = ""
    """Name in MLflow's model registry under which the run registers its best checkpoint at the end,
    and which it makes the champion if it is better than the present one; empty: do not register."""

    def __post_init__(self) -> None:
        require(bool(self.experiment), "tracking.experiment", "a name", self.experiment)
        require_at_least(self, "tracking", 0, "models")
        require_name("tracking.register", self.register)
        expected = "at least 1 with tracking.register"
        require(self.models >= 1 or not self.register, "tracking.models", expected, self.models)
