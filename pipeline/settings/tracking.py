"""Settings of the record in MLflow."""

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

    def __post_init__(self) -> None:
        require(bool(self.experiment), "tracking.experiment", "a name", self.experiment)
