"""The private parts of Ray that the pipeline needs: a test fails by the name of a missing one."""

import inspect
import logging
import mmap
import os
import pickle
import pkgutil
import re
import signal
from pathlib import Path

import pytest
import ray._raylet
from ray._private import services
from ray._private.node import Node
from ray.train import ControllerError, ScalingConfig, WorkerGroupError
from ray.train.v2._internal.constants import ENV_VARS_TO_PROPAGATE, get_env_vars_to_propagate
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.controller.state import (
    InitializingState,
    RestartingState,
    RunningState,
    SchedulingState,
)
from ray.train.v2._internal.execution.scaling_policy import create_scaling_policy
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from pipeline.cluster import ray_private, start
from pipeline.cluster.ray_private import LeanTrainer

ROOT = Path(__file__).resolve().parents[2]
COORDINATOR = "ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator"
TRAINER = "ray.train.v2.api.data_parallel_trainer:DataParallelTrainer"
WORKERS = "ray.train.v2._internal.execution.worker_group:ExecutionGroup"
EXECUTION = "ray.train.v2._internal.execution"
WATCHED = ("after_controller_start", "after_controller_state_update")
STATES = ("Initializing", "Rescheduling", "Restarting", "Running")
NAMES = [
    # bound_to_loopback
    "ray._private.ray_constants:ENABLE_RAY_CLUSTER",
    "ray._private.services:get_node_ip_address",
    # without_helpers
    "ray._private.services:start_api_server",
    "ray._private.node:Node.start_monitor",
    # rendezvous.py, and what it calls of the workers
    "ray.train.backend:Backend.on_start",
    *(f"{WORKERS}.{name}" for name in ("execute", "execute_single", "execute_single_async")),
    f"{WORKERS}.get_resources_per_worker",
    # LeanTrainer
    f"{TRAINER}._create_default_callbacks",
    f"{TRAINER}._initialize_and_run_controller",
    f"{EXECUTION}.scaling_policy:FixedScalingPolicy.after_controller_start",
    f"{EXECUTION}.scaling_policy:FixedScalingPolicy._maybe_send_resource_request",
    "ray.train.v2._internal.callbacks.datasets:DatasetsCallback",
    "ray.train.v2._internal.callbacks.placement_group_callback:PlacementGroupCleanerCallback",
    # take_over
    f"{COORDINATOR}:_AutoscalingCoordinatorActor.cancel_request",
    "ray.train.v2._internal.execution.context:TrainRunContext",
    f"{TRAINER}._register_sigint_handler",
    # StartWatch, has_not_started
    *(f"{EXECUTION}.callback:ControllerCallback.{name}" for name in WATCHED),
    *(f"{EXECUTION}.controller.state:{name}State" for name in STATES),
    f"{EXECUTION}.controller.controller:logger",
    f"{EXECUTION}.callback_manager:logger",
    f"{EXECUTION}.scaling_policy.autoscaling_coordinator_client:logger",
    "ray.train.v2._internal.exceptions:WorkerGroupStartupFailedError",
    "ray.train.v2._internal.exceptions:WorkerGroupStartupTimeoutError",
    # available_by_node, resolved, temp_folder, signals_kept
    "ray._private.state:available_resources_per_node",
    "ray._private.services:canonicalize_bootstrap_address_or_die",
    "ray._common.utils:get_default_ray_temp_dir",
    "ray._private.utils:set_sigterm_handler",
    # without_token_advice
    "ray._private.authentication.authentication_token_setup:_warn_token_auth_enabled",
    # TRACEBACKS
    "ray.train.v2._internal.util:construct_user_exception_with_traceback",
]
# Environment variables that the pipeline sets, each with the constant that holds its name in Ray.
TRAIN = "ray.train.v2._internal.constants"
VARIABLES = {
    "RAY_DEDUP_LOGS": "ray._private.ray_constants:RAY_DEDUP_LOGS",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "ray._private.ray_constants:ENABLE_RAY_CLUSTERS_ENV_VAR",
    "RAY_JOB_CONFIG_JSON_ENV_VAR": (
        "ray._private.runtime_env.constants:RAY_JOB_CONFIG_JSON_ENV_VAR"
    ),
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": f"{TRAIN}:ENABLE_PREEMPTION_WATCHER_ENV_VAR",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": f"{TRAIN}:ENABLE_PRINT_PATCH_ENV_VAR",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": f"{TRAIN}:HEALTH_CHECK_INTERVAL_S_ENV_VAR",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": f"{TRAIN}:WORKER_GROUP_START_TIMEOUT_S_ENV_VAR",
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": f"{TRAIN}:WORKER_HEALTH_CHECK_TIMEOUT_S_ENV_VAR",
    "RAY_USAGE_STATS_ENABLED": ("ray._common.usage.usage_constants:USAGE_STATS_ENABLED_ENV_VAR"),
}


@pytest.mark.parametrize("name", NAMES)
def test_ray_still_has(name):
    pkgutil.resolve_name(name)


@pytest.mark.parametrize(("variable", "constant"), VARIABLES.items())
def test_ray_still_reads_the_environment_variable(variable, constant):
    found = pkgutil.resolve_name(constant)
    assert variable in (found, constant.partition(":")[2])
    # The controller and the workers get those of Ray Train only if it passes them on.
    assert not variable.startswith("RAY_TRAIN_") or variable in ENV_VARS_TO_PROPAGATE


def test_every_environment_variable_of_ray_that_the_pipeline_sets_is_tested():
    files = [*(ROOT / "pipeline" / "cluster").glob("*.py"), ROOT / "pipeline" / "run" / "plan.py"]
    sources = "".join(path.read_text() for path in files)
    # These are public.
    public = {f"RAY_{name}" for name in ("ADDRESS", "API_SERVER_ADDRESS", "USE_TLS")}
    public |= {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}
    assert set(re.findall(r'"(RAY_\w+)"', sources)) - public == set(VARIABLES)


@pytest.mark.parametrize("name", ray_private.NO_METRICS)
def test_ray_still_knows_the_system_setting(name):
    with (
        Path(ray._raylet.__file__).open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as library,
    ):
        assert library.find(name.encode()) >= 0


def test_ray_still_takes_loopback_where_it_knows_of_no_clusters(monkeypatch):
    # Undoes also what the context sets.
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr("ray._private.worker._global_node", None)
    with ray_private.bound_to_loopback():
        assert ray.util.get_node_ip_address() == ray_private.LOOPBACK
        assert os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
    assert ray._private.ray_constants.ENABLE_RAY_CLUSTER


def test_each_cluster_of_a_process_gets_settings_of_its_own_and_no_advice_on_its_token(
    monkeypatch,
):
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.setenv(name, "")
    advice = logging.getLogger(ray_private._TOKEN_ADVICE)
    given, records = [], []

    def init(*, _system_config, **_):
        given.append(dict(_system_config))
        _system_config["object_spilling_config"] = "a folder of this session"
        pkgutil.resolve_name(NAMES[-2])()

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(advice, "callHandlers", records.append)
    for _ in range(2):
        start._start_once(False)
    assert given == [ray_private.NO_METRICS] * 2
    assert not records
    pkgutil.resolve_name(NAMES[-2])()
    assert len(records) == 1


def test_ray_train_still_logs_stacks_by_the_logger_that_is_turned_off(monkeypatch):
    records = []
    monkeypatch.setattr(logging.getLogger(ray_private.TRACEBACKS), "handle", records.append)
    pkgutil.resolve_name(NAMES[-1])(ValueError("no such file"))
    assert [record.levelname for record in records] == ["ERROR"]


def test_ray_train_still_requests_resources_by_the_name_that_is_cancelled():
    created = inspect.getsource(
        pkgutil.resolve_name(f"{COORDINATOR}:get_or_create_autoscaling_coordinator")
    )
    for kind in ("name", "namespace"):
        assert f'{kind}="{ray_private._COORDINATOR}"' in created
    policy = "ray.train.v2._internal.execution.scaling_policy:ScalingPolicy"
    assert 'f"train-{train_run_context.run_id}"' in inspect.getsource(pkgutil.resolve_name(policy))
    assert DataParallelTrainer(print).train_run_context.run_id


def test_ray_init_still_installs_its_handler_by_the_function_that_is_replaced(monkeypatch):
    assert "ray._private.utils.set_sigterm_handler(sigterm_handler)" in inspect.getsource(ray.init)
    before = ray._private.utils.set_sigterm_handler
    handler = signal.getsignal(signal.SIGTERM)
    with ray_private.signals_kept():
        ray._private.utils.set_sigterm_handler(signal.SIG_IGN)
        assert signal.getsignal(signal.SIGTERM) is handler
    assert ray._private.utils.set_sigterm_handler is before


def test_the_native_part_of_ray_still_installs_no_handlers_where_the_constant_says_so():
    constants = ray._private.ray_constants
    with ray_private.signals_kept():
        assert constants.RAY_DISABLE_FAILURE_SIGNAL_HANDLER
    assert not constants.RAY_DISABLE_FAILURE_SIGNAL_HANDLER
    with (
        Path(ray._raylet.__file__).open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as library,
    ):
        assert library.find(b"RAY_DISABLE_FAILURE_SIGNAL_HANDLER") >= 0


def test_ray_init_still_counts_its_attempts_by_the_constant_that_is_replaced():
    connect = inspect.getsource(ray._private.node.Node._init_gcs_client)
    assert "num_retries = ray_constants.NUM_REDIS_GET_RETRIES" in connect
    before = ray._private.ray_constants.NUM_REDIS_GET_RETRIES
    with ray_private.few_attempts():
        assert ray._private.ray_constants.NUM_REDIS_GET_RETRIES == 3
    assert before == ray._private.ray_constants.NUM_REDIS_GET_RETRIES


def test_a_helper_of_ray_train_finds_the_cluster_by_the_address_that_is_passed_on(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")
    with ray_private.addressed("192.0.2.2:6379"):
        assert get_env_vars_to_propagate()["RAY_ADDRESS"] == "192.0.2.2:6379"
    assert os.environ["RAY_ADDRESS"] == "192.0.2.1:6379"
    monkeypatch.delenv("RAY_ADDRESS")
    with ray_private.addressed("192.0.2.2:6379"):
        pass
    assert "RAY_ADDRESS" not in os.environ | get_env_vars_to_propagate()


# The start of workers


@pytest.fixture
def watch(tmp_path, monkeypatch):
    """A watch that gives up after a minute, on a clock of its own, its file and the clock."""
    now = [1000.0]
    monkeypatch.setattr(ray_private.time, "monotonic", lambda: now[0])
    watch = ray_private.StartWatch(tmp_path / "starting", 2, 60.0)
    watch.after_controller_start(None)
    return watch, tmp_path / "starting", now


def test_a_controller_without_workers_for_a_minute_is_ended(watch):
    watch, starting, now = watch
    starting.touch()
    now[0] += 60.0
    watch.after_controller_state_update(InitializingState(), InitializingState())
    now[0] += 0.1
    # The workers are about to start.
    watch.after_controller_state_update(InitializingState(), SchedulingState(None))
    with pytest.raises(WorkerGroupStartupTimeoutError) as raised:
        watch.after_controller_state_update(InitializingState(), InitializingState())
    assert starting.exists()
    assert ray_private.has_not_started(ControllerError(raised.value))


def test_the_minute_begins_anew_when_workers_have_run(watch):
    watch, starting, now = watch
    starting.touch()
    watch.after_controller_state_update(SchedulingState(None), RunningState())
    assert not starting.exists()
    now[0] += 1000.0
    error = WorkerGroupError("", {0: RuntimeError()})
    watch.after_controller_state_update(RunningState(), RestartingState(error))
    assert starting.exists()
    assert not ray_private.has_not_started(error)


def test_stacks_of_what_the_driver_explains_are_not_printed(tmp_path):
    pickle.loads(pickle.dumps(ray_private.StartWatch(tmp_path, 1, 1.0)))
    logger = logging.getLogger("ray.train.v2._internal.execution.controller.controller")
    record = logging.LogRecord(logger.name, logging.ERROR, "", 0, "stack", None, None)
    assert logger.filter(record)
    for error, is_shown in ((WorkerGroupStartupTimeoutError(1), False), (KeyError(), True)):
        record.exc_info = (type(error), error, None)
        assert bool(logger.filter(record)) is is_shown
    logger.removeFilter(ray_private._is_unexplained)


# Helper actors of Ray Train


def omitted(*, is_shared: bool) -> set[str]:
    def names(trainer: DataParallelTrainer) -> set[str]:
        return {type(callback).__name__ for callback in trainer._create_default_callbacks()}

    return names(DataParallelTrainer(print)) - names(LeanTrainer(print, is_shared=is_shared))


def test_no_actor_distributes_datasets_and_on_its_own_cluster_a_run_frees_nothing_for_others():
    assert omitted(is_shared=True) == {"DatasetsCallback"}
    assert omitted(is_shared=False) == {"DatasetsCallback", "PlacementGroupCleanerCallback"}


@pytest.fixture
def started(monkeypatch):
    """The arguments of ray.init, which is replaced."""
    given = {}
    monkeypatch.setattr(start.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(start.ray, "init", lambda **settings: given.update(settings))
    monkeypatch.setattr(start.ray, "shutdown", lambda: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"):
        monkeypatch.setenv(name, "")
    return given


@pytest.mark.parametrize("is_shared", [False, True])
def test_a_cluster_for_one_run_starts_without_api_server_and_autoscaler(
    started, monkeypatch, is_shared
):
    def helpers() -> tuple[object, object]:
        return services.start_api_server, Node.start_monitor

    before, seen = helpers(), []
    monkeypatch.setattr(start.ray, "init", lambda **settings: seen.append((helpers(), settings)))
    with start.cluster("local", is_shared=is_shared):
        [(found, settings)] = seen
    assert [one is other for one, other in zip(found, before, strict=True)] == [is_shared] * 2
    assert helpers() == before
    assert settings["_system_config"]["prestart_worker_first_driver"] is False


@pytest.mark.parametrize(
    ("is_shared", "workers", "asks"), [(False, 1, False), (True, 1, True), (False, (1, 2), True)]
)
def test_a_run_on_its_own_cluster_asks_no_actor_for_room(monkeypatch, is_shared, workers, asks):
    given = {}
    monkeypatch.setattr(
        DataParallelTrainer,
        "_initialize_and_run_controller",
        lambda self, **parts: given.update(parts),
    )
    trainer = LeanTrainer(
        print, is_shared=is_shared, scaling_config=ScalingConfig(num_workers=workers)
    )
    policy = create_scaling_policy(trainer.scaling_config)
    trainer._initialize_and_run_controller(scaling_policy=policy)
    assert (given["scaling_policy"] is policy) is asks


@pytest.mark.parametrize("is_shared", [False, True])
def test_runs_that_share_a_cluster_can_free_resources_of_others(started, is_shared):
    with start.cluster("local", is_shared=is_shared):
        assert start.is_for_one_run() is not is_shared
        # The actor that frees it needs the dashboard.
        assert started["include_dashboard"] is is_shared
    assert not start.is_for_one_run()


def test_a_cluster_that_is_joined_is_shared(started, monkeypatch):
    monkeypatch.setattr(start, "check_answer", lambda address: None)
    with start.cluster("192.0.2.1:6379"):
        assert not start.is_for_one_run()
