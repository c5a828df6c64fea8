"""MLflow: one run a training, one parent a sweep."""

import os

# MLflow reads these when it is imported, which every module of this package does later. Nothing about a user's runs leaves the
# machine. Who sends knows what waits and for how long, and tries again by itself.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
# Models are never loaded from MLflow here; if some day one is, then not by running what is in it.
os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
# A server answers a checkpoint's upload only when its own storage has taken it.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
