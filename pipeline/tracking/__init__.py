"""MLflow: a run for each training, a parent run for each sweep.

Two errors say what became of a request. AwayError: MLflow did not answer or can't do it now, so the
same request may succeed later. RefusedError: MLflow answered that it will not do it, so a retry is
useless. Both are ValueErrors, and their messages hide secrets of URIs.
"""

import os

# MLflow reads these when it is imported, which every module of this package does later.
# No data about the user's runs leaves the machine.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
# Models are not loaded from MLflow here. Should one be, then without running its content.
os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
# A redirect would take the password of ~/.netrc to another server, or go from https to http.
os.environ.setdefault("MLFLOW_ALLOW_HTTP_REDIRECTS", "false")
# The sync retries by itself.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
# A server answers the upload of a checkpoint only when its own storage has taken it.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
