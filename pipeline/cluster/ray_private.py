"""Private parts of Ray that the pipeline needs, each with its reason.

A release of Ray may remove any of them: tests/cluster/test_ray_private.py then fails with its name.
"""

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray._common.utils import get_default_ray_temp_dir
from ray._private import ray_constants, services
from ray._private import utils as ray_utils
from ray._private.node import Node
from ray._private.services import canonicalize_bootstrap_address_or_die
from ray._private.state import available_resources_per_node
from ray.train import ControllerError, TrainingFailedError
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.constants import ENV_VARS_TO_PROPAGATE
from ray.train.v2._internal.exceptions import (
    WorkerGroupStartupFailedError,
    WorkerGroupStartupTimeoutError,
)
from ray.train.v2._internal.execution.callback import ControllerCallback, RayTrainCallback
from ray.train.v2._internal.execution.controller.state import (
    InitializingState,
    ReschedulingState,
    RestartingState,
    RunningState,
    TrainControllerState,
)
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

LOOPBACK = "127.0.0.1"
# Logger that prints the stack of a worker's error. Errors that users cause, such as a damaged
# sample, need none, and LoggingConfig can't turn it off for some errors.
TRACEBACKS = "ray.train.v2._internal.util"
# Logger that advises, at each start of a cluster, to turn off its token.
_TOKEN_ADVICE = "ray._private.authentication.authentication_token_setup"
# `_system_config` of a cluster that is started here. Ray would start a worker for each CPU at once;
# those of training have another environment, and would start beside them.
ON_DEMAND = {"prestart_worker_first_driver": False}
# The same without a dashboard: every process of Ray would gather and send what only it shows.
NO_METRICS = ON_DEMAND | {
    "enable_metrics_collection": False,
    "event_stats": False,
    "task_events_report_interval_ms": 0,
}
# Actor that shares a cluster's resources among requesters; there is no public way to cancel a
# request of another process.
_COORDINATOR = "AutoscalingCoordinator"
# Attempts, a second apart, to join a cluster that answers.
_JOIN_ATTEMPTS = 3
# States in which the controller waits until it can start workers.
_WAITING = (InitializingState, ReschedulingState, RestartingState)
# Errors of workers that could not be started, and the loggers that print their stacks.
_NOT_STARTED = (WorkerGroupStartupFailedError, WorkerGroupStartupTimeoutError)
_CONTROLLER_LOGGERS = (
    "ray.train.v2._internal.execution.controller.controller",
    "ray.train.v2._internal.execution.callback_manager",
    # On a busy machine it prints a stack for a request that it repeats.
    "ray.train.v2._internal.execution.scaling_policy.autoscaling_coordinator_client",
)
# File in a run's folder: Ray Train's name for the start of the run that made the last request.
_RESERVATION = ".reservation"


class LeanTrainer(DataParallelTrainer):
    """Ray Train's trainer without helper actors that the run does not need, and without torch.

    Its TorchTrainer is the same class with a backend that loads torch in the controller's process,
    before the workers start.

    No public setting omits them. Measured on two busy cores: each is a process of 120 MiB that
    wakes 100 times a second and adds 3 to 8 s to a start that takes 18 to 22 s without them.
    """

    def __init__(self, *arguments: Any, is_shared: bool, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        # The first distributes Ray Data's datasets, whereas our ranks read shards. The second frees
        # what a killed run held, for other runs on the cluster. It needs the dashboard, without
        # which it prints an error every second.
        unused = (DatasetsCallback, PlacementGroupCleanerCallback)
        self._is_shared = is_shared
        self._omitted = unused[:1] if is_shared else unused

    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        created = super()._create_default_callbacks()
        return [callback for callback in created if not isinstance(callback, self._omitted)]

    def _initialize_and_run_controller(self, **parts: Any) -> Any:
        if not self._is_shared and isinstance(parts["scaling_policy"], FixedScalingPolicy):
            parts["scaling_policy"] = _WithoutRequests(scaling_config=self.scaling_config)
        return super()._initialize_and_run_controller(**parts)

    def _register_sigint_handler(self, controller: Any) -> None:
        """Leave SIGINT to the command: Ray's handler waits for a controller that may be busy."""


class _WithoutRequests(FixedScalingPolicy):
    """A fixed number of workers on a cluster of their own.

    Ray Train would ask an actor to share the cluster's resources among runs, and wait until its
    process has started.
    """

    def after_controller_start(self, train_run_context: Any) -> None:
        pass

    def _maybe_send_resource_request(self) -> None:
        pass


class StartWatch(ControllerCallback):
    """Callback that ends Ray Train's controller when no worker has started for `patience_s`.

    By itself it waits silently, or prints stacks, and does not answer its driver meanwhile. The
    file `starting` exists while the run has no workers.
    """

    def __init__(self, starting: Path, workers: int, patience_s: float) -> None:
        self._starting, self._workers, self._patience_s = starting, workers, patience_s
        self._since: float | None = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        # The controller's process has begun. Its other callbacks may print stacks soon.
        self.__dict__.update(state)
        for name in _CONTROLLER_LOGGERS:
            logging.getLogger(name).addFilter(_is_unexplained)

    def after_controller_start(self, train_run_context: Any) -> None:
        """Begin to count the time without workers."""
        self._since = time.monotonic()

    def after_controller_state_update(
        self, previous_state: TrainControllerState, current_state: TrainControllerState
    ) -> None:
        """Note whether there are workers. Raises WorkerGroupStartupTimeoutError."""
        if isinstance(current_state, RunningState):
            self._since = None
            self._starting.unlink(missing_ok=True)
        elif not isinstance(current_state, _WAITING):
            return
        elif self._since is None:
            self._since = time.monotonic()
            self._starting.touch()
        elif time.monotonic() - self._since > self._patience_s:
            raise WorkerGroupStartupTimeoutError(self._workers)


def _is_unexplained(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, (*_NOT_STARTED, ray.exceptions.GetTimeoutError))


def has_not_started(error: TrainingFailedError) -> bool:
    """Whether training failed because the workers could not be started."""
    return isinstance(error, ControllerError) and isinstance(error.controller_failure, _NOT_STARTED)


def available_by_node() -> Mapping[str, Mapping[str, float]]:
    """Return the free resources of every node; the public function adds them up."""
    return available_resources_per_node()


def resolved(address: str) -> str:
    """Return the host:port of the cluster on this machine that Ray means by `auto`."""
    return canonicalize_bootstrap_address_or_die(address)


def temp_folder() -> Path:
    """Return the folder in which Ray keeps its sockets by default."""
    return Path(get_default_ray_temp_dir())


def server_version(client: Any) -> str:
    """Return the version of Ray that a JobSubmissionClient has found on its cluster."""
    return str(client._server_ray_version)


@contextmanager
def signals_kept() -> Iterator[None]:
    """Keep the command's handlers of signals, which ray.init in this context would replace.

    Its own handler of SIGTERM ends the program with another status. That of its C++ part prints
    stacks and aborts the program.
    """
    before = ray_utils.set_sigterm_handler, ray_constants.RAY_DISABLE_FAILURE_SIGNAL_HANDLER
    ray_utils.set_sigterm_handler = lambda handler: None
    # This process read the environment variable when it imported Ray.
    ray_constants.RAY_DISABLE_FAILURE_SIGNAL_HANDLER = True
    try:
        yield
    finally:
        ray_utils.set_sigterm_handler, ray_constants.RAY_DISABLE_FAILURE_SIGNAL_HANDLER = before


@contextmanager
def without_token_advice() -> Iterator[None]:
    """Keep Ray in this context from advising to turn off the token of a cluster that starts."""
    logger = logging.getLogger(_TOKEN_ADVICE)
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


@contextmanager
def few_attempts() -> Iterator[None]:
    """Let ray.init in this context give up a cluster that refuses it after few of 20 attempts."""
    before, ray_constants.NUM_REDIS_GET_RETRIES = (
        ray_constants.NUM_REDIS_GET_RETRIES,
        _JOIN_ATTEMPTS,
    )
    try:
        yield
    finally:
        ray_constants.NUM_REDIS_GET_RETRIES = before


@contextmanager
def without_helpers() -> Iterator[None]:
    """Make ray.init in this context start a cluster without API server and autoscaler.

    Even without a dashboard the server starts, to send usage statistics, and ray.init waits for it.
    One node needs no autoscaler. Both take a second and a half of CPU.
    """
    before = services.start_api_server, Node.start_monitor
    services.start_api_server = lambda *arguments, **settings: (None, None)
    Node.start_monitor = lambda node: None
    try:
        yield
    finally:
        services.start_api_server, Node.start_monitor = before


@contextmanager
def addressed(address: str) -> Iterator[None]:
    """Make Ray's processes that look for a cluster find the one at `address`.

    Ray Train's helper that frees what a killed run held would otherwise find several on a machine.
    """
    before = os.environ.get("RAY_ADDRESS")
    os.environ["RAY_ADDRESS"] = address
    ENV_VARS_TO_PROPAGATE.add("RAY_ADDRESS")
    try:
        yield
    finally:
        ENV_VARS_TO_PROPAGATE.discard("RAY_ADDRESS")
        if before is None:
            del os.environ["RAY_ADDRESS"]
        else:
            os.environ["RAY_ADDRESS"] = before


@contextmanager
def bound_to_loopback() -> Iterator[None]:
    """Make a cluster that is started in this context listen on 127.0.0.1 only.

    Ray does so only where it supports no clusters of several machines, on macOS and Windows; it
    replaces a `_node_ip_address` of 127.0.0.1 by the machine's outer address.
    """
    # For Ray's processes, and for drivers of jobs that are submitted to the cluster.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    # Gloo and NCCL would listen on the interface of the host's name.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
    # This process read the variable when it imported Ray.
    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def take_over(folder: Path, run_id: str) -> None:
    """Cancel the resource request of the previous start of the run in `folder`; note `run_id`.

    Ray Train's controller cancels its request when it ends. If it was killed, Ray keeps the
    request for three minutes, in which an elastic run would find no free resources.
    """
    note = folder / _RESERVATION
    if note.exists():
        _cancel_request(note.read_text().strip())
    folder.mkdir(parents=True, exist_ok=True)
    note.write_text(run_id + "\n")


def _cancel_request(run_id: str) -> None:
    """Cancel a run's resource request, if there is one."""
    try:
        coordinator = ray.get_actor(_COORDINATOR, namespace=_COORDINATOR)
    except ValueError:
        return  # this cluster has had no request yet
    # Not awaited: training starts without it too, only later.
    coordinator.cancel_request.remote(f"train-{run_id}")
