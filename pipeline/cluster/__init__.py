"""Ray: the cluster and the workers of a run."""

import os

# Ray reads these when it is imported, which every module of this package does later. Its actors
# inherit them.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Ray Train's default of 2 s would be added to every report, and to a run's start and end.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.25")
# Ray learns up to 20 s late which nodes are left, and would wait 60 s for those that an elastic run
# has lost. Where resources are free, taking them is a matter of a second.
os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "15")
# Every line that a worker prints would arrive twice.
os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
# Similar lines of several trials would be taken for repetitions.
os.environ.setdefault("RAY_DEDUP_LOGS", "0")
