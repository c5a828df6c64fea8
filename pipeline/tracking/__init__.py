"""MLflow: one run a training, one parent a sweep. Runs are found again by name, so a resumed training goes on in its own.

Whatever MLflow does not take is a ValueError: `AwayError` where the same may
succeed later, `RefusedError` where it will not.
"""

import os

# Before the import, which reads them. Nothing about a user's runs leaves the
# machine. Who sends knows what waits and for how long, and tries again by itself.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
# Models are never loaded from MLflow here; if some day one is, then not by running what is in it.
os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
# A server answers a checkpoint's upload only when its own storage has taken it.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")

from pipeline.tracking.client import (
    AwayError,
    DoubtfulError,
    RefusedError,
    is_server,
    reach,
    ui_command,
)
from pipeline.tracking.models import forget_model, log_model
from pipeline.tracking.registry import download_model, register
from pipeline.tracking.runs import (
    Point,
    Run,
    State,
    Status,
    download,
    end_run,
    find_or_create_run,
    find_runs,
    list_files,
    log_file,
    log_folder,
    log_image,
    log_metrics,
    log_points,
    log_text,
    recorded,
    set_tags,
    start_run,
    state_of,
)

__all__ = [
    "AwayError",
    "DoubtfulError",
    "Point",
    "RefusedError",
    "Run",
    "State",
    "Status",
    "download",
    "download_model",
    "end_run",
    "find_or_create_run",
    "find_runs",
    "forget_model",
    "is_server",
    "list_files",
    "log_file",
    "log_folder",
    "log_image",
    "log_metrics",
    "log_model",
    "log_points",
    "log_text",
    "reach",
    "recorded",
    "register",
    "set_tags",
    "start_run",
    "state_of",
    "ui_command",
]
