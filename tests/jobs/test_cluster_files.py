"""The files of jobs/cluster fit the public schemas, our command lines, and each other."""

import copy
import importlib
import json
import re
import shlex
import shutil
from pathlib import Path

import jsonschema
import pytest
from cluster_files import (
    FOLDER,
    LAUNCHERS,
    MANIFESTS,
    ROOT,
    commands,
    documents,
    entrypoint,
    found,
    launcher,
    lines,
    machines,
    modules,
    page,
    parsed,
    pods,
    the,
    too_much,
)
from cluster_schemas import ERRORS, check

import jobs.pack

OBJECTS = documents(*MANIFESTS)
SPEC = the("RayCluster")["spec"]
CONTAINERS = [one for part in OBJECTS for several in found("containers", part) for one in several]
OUR_IMAGES = ("hourglass-ray:0.1.0", "hourglass-mlflow:0.1.0")


def changed(part: dict, path: str, value: object, name: str = "") -> dict:
    """A copy with a field replaced, or put under another name."""
    whole = at = copy.deepcopy(part)
    *way, last = path.split("/")
    for step in way:
        at = at[int(step) if step.isdigit() else step]
    del at[last]
    at[name or last] = value
    return whole


# Schemas


@pytest.mark.parametrize("part", OBJECTS, ids=lambda part: part["kind"])
def test_a_manifest_has_only_fields_of_its_kind(part):
    check(part, None)


@pytest.mark.parametrize("kind", ["RayCluster", "RayJob"])
def test_a_manifest_of_ray_has_only_fields_of_kuberays_definition(kind, kuberay_dir):
    check(the(kind), kuberay_dir)


@pytest.mark.parametrize(
    ("kind", "path", "value", "name"),
    [
        ("RayCluster", "spec/rayVersion", "2.60.0", "rayversion"),
        ("RayCluster", "spec/enableInTreeAutoscaling", "true", ""),
        ("RayCluster", "spec/authOptions/mode", "tokens", ""),
        ("RayCluster", "spec/workerGroupSpecs/1/maxReplicas", "8", ""),
        ("RayCluster", "spec/workerGroupSpecs/1/minReplicas", 1, "minreplicas"),
        ("RayCluster", "spec/headGroupSpec/rayStartParams/num-cpus", 0, ""),
        ("RayJob", "spec/entrypoint", ["python"], ""),
        ("RayJob", "spec/backoffLimit", 3, "backOffLimit"),
        ("RayJob", "spec/rayClusterSpec/rayVersion", 2.6, ""),
    ],
)
def test_a_field_that_kuberays_definition_does_not_have_is_refused(
    kind, path, value, name, kuberay_dir
):
    with pytest.raises(ERRORS):
        check(changed(the(kind), path, value, name), kuberay_dir)


HEAD = "spec/headGroupSpec/template/spec/containers/0"


@pytest.mark.parametrize(
    ("kind", "path", "value", "name"),
    [
        ("RayCluster", f"{HEAD}/image", "x", "images"),
        ("RayCluster", f"{HEAD}/volumeMounts/0/mountPath", 1, ""),
        ("RayJob", "spec/submitterPodTemplate/spec/restartPolicy", [], ""),
        ("Deployment", "spec/template/spec/containers/0/image", "x", "images"),
        ("Deployment", "spec/template/spec/containers/0/args", "mlflow server", ""),
        ("Deployment", "spec/template/spec/containers/0/readinessProbe/httpGet", {}, ""),
        ("StatefulSet", "spec/serviceName", "x", "servicename"),
        ("ConfigMap", "data", {"RAY_USAGE_STATS_ENABLED": 0}, ""),
    ],
)
def test_a_misspelt_field_or_a_wrong_type_is_refused(kind, path, value, name):
    part = next(one for one in OBJECTS if one["kind"] == kind)
    with pytest.raises(ERRORS):
        check(changed(part, path, value, name), None)


def test_quantities_are_numbers_with_kubernetes_suffixes():
    groups = [bound for several in found("resources", OBJECTS) for bound in several.values()]
    quantities = [str(value) for group in groups for value in group.values()]
    quantities += map(str, found("sizeLimit", OBJECTS))
    assert len(quantities) > 20
    for quantity in quantities:
        assert re.fullmatch(r"\d+(m|k|M|G|T|Ki|Mi|Gi|Ti)?", quantity), quantity


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_launcher_file_fits_rays_own_schema(name):
    import ray.autoscaler
    from ray.autoscaler._private.util import prepare_config, validate_config

    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    config = launcher(name)
    jsonschema.validate(config, schema)
    # With Ray's defaults filled in as `ray up` does.
    validate_config(prepare_config(config))
    for wrong in ({"docker": {"images": "x"}}, {"max_workers": "10"}, {"head_node": {}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(config | wrong, schema)


def test_every_container_on_a_machine_with_gpus_is_given_them():
    aws = launcher("aws.yaml")
    for name, kind in aws["available_node_types"].items():
        options = aws["docker"] | kind.get("docker", {})
        # Docker refuses the option on a machine without a GPU.
        has_gpus = kind["resources"].get("GPU", 0) > 0
        assert ("--gpus=all" in options.get("worker_run_options", [])) is has_gpus, name
        # Ray's own default has a driver that is too old.
        assert "nvidia-driver" in kind["node_config"]["ImageId"], name
    assert "--gpus=all" not in aws["docker"]["run_options"]
    machines = launcher("machines.yaml")["docker"]
    assert machines["worker_run_options"] == ["--gpus=all"]
    assert "--gpus=all" not in machines["run_options"]


# Commands


def test_the_rayjobs_command_is_a_sweep_that_its_cluster_can_hold():
    sweep = parsed(entrypoint())
    assert sweep.settings.data.train == "s3://hourglass/people/train-*.tar"
    assert sweep.settings.ray.storage == "s3://hourglass/runs"
    assert sweep.settings.tracking.uri == "http://mlflow:5000"
    assert too_much(sweep, pods(SPEC)) == []


def test_no_shell_on_the_way_expands_the_rayjobs_globs():
    # A shell that is not POSIX mode keeps the quotes around what was quoted.
    words = shlex.split(the("RayJob")["spec"]["entrypoint"], posix=False)
    globs = [word for word in words if set(word) & set("*?[{")]
    assert len(globs) == 2
    assert all(re.fullmatch("'[^']*'", word) for word in globs)


@pytest.mark.parametrize("command", modules(page()), ids=lambda command: command[0])
def test_every_command_of_the_page_is_parsed_by_our_own_command_line(command):
    assert parsed(command)


def test_the_page_packs_trains_and_sweeps_the_same_people_on_each_kind_of_cluster():
    for section, names in (
        ("Kubernetes", ["jobs.pack", "jobs.train"]),
        ("EC2", ["jobs.pack", "tune.sweep"]),
        ("Machines of your own", ["jobs.pack", "tune.sweep"]),
    ):
        run = modules(page(section))
        assert [module for module, *_ in run] == names
        packing, training = (parsed(command) for command in run)
        assert isinstance(packing, jobs.pack.Arguments)
        assert training.settings.data.train == f"{packing.out}/train-*.tar"
        assert training.settings.data.val == f"{packing.out}/val-*.tar"


def test_training_commands_of_the_page_fit_its_clusters():
    for section, groups in (("Kubernetes", pods(SPEC)), ("EC2", machines(launcher("aws.yaml")))):
        [command] = [one for one in modules(page(section)) if one[0] != "jobs.pack"]
        assert too_much(parsed(command), groups) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        # Eight nodes of a GPU and seven cores; one of them is there from the start.
        ("--ray.workers 8", "at first 8 workers are wanted, there is room for 1"),
        ("--ray.workers 1:9", "at most 9 workers are wanted, there is room for 8"),
        ("--search.at-once 9", "at most 9 workers are wanted, there is room for 8"),
        ("--ray.cpus-per-worker 8", "at first 1 workers are wanted, there is room for 0"),
    ],
)
def test_a_command_that_its_cluster_can_not_hold_is_found(options, message):
    given = f"tune.sweep --ray.gpus-per-worker 1 --optim.batch-size 72 {options}"
    assert message in too_much(parsed(given.split()), pods(SPEC))


def _tool_commands() -> list[list[str]]:
    texts = lines(page()) + [
        line
        for name in LAUNCHERS
        for part in ("head_start_ray_commands", "worker_start_ray_commands")
        for line in launcher(name)[part]
    ]
    found_commands = [command for line in texts for command in commands(line)]
    served = the("Deployment")["spec"]["template"]["spec"]["containers"][0]["args"]
    return [one for one in [*found_commands, served] if one[0] != "python"]


# MLflow's own, of its own functions, when its commands are imported.
@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning")
@pytest.mark.parametrize("command", _tool_commands(), ids=lambda command: " ".join(command[:3]))
def test_options_of_ray_and_mlflow_commands_exist(command):
    program, *words = command
    module = {"ray": "ray.scripts.scripts", "mlflow": "mlflow.cli"}[program]
    tool = importlib.import_module(module).cli
    while hasattr(tool, "get_command"):
        name, *words = words
        tool = tool.get_command(None, name)
        assert tool is not None, command
    # Only reads the words; a wrong one is a UsageError.
    tool.make_context(program, words)


# The parts fit together


def test_the_two_manifests_describe_one_cluster():
    assert the("RayJob")["spec"]["rayClusterSpec"] == SPEC


def test_rays_version_is_the_same_everywhere():
    [pinned] = re.findall(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M)
    [image] = re.findall(
        r"^FROM rayproject/ray:(\S+)-py311 ", (FOLDER / "Dockerfile").read_text(), re.M
    )
    assert {pinned} == {image, SPEC["rayVersion"]}


def test_images_are_those_that_the_page_builds():
    built = re.findall(r"^ {4}docker build .* -t (\S+) \.$", page(), re.M)
    assert sorted(built) == sorted(OUR_IMAGES)
    used = {container["image"] for container in CONTAINERS}
    assert used == {*OUR_IMAGES, "postgres:17"}
    assert {launcher(name)["docker"]["image"] for name in LAUNCHERS} == {OUR_IMAGES[0]}


def test_files_that_an_image_copies_exist():
    copied = re.findall(r"^COPY (?:--\S+ )*(.+) \S+$", (FOLDER / "Dockerfile").read_text(), re.M)
    names = {name for line in copied for name in line.split()}
    let_in = re.findall(r"^!(\S+)$", (FOLDER / "Dockerfile.dockerignore").read_text(), re.M)
    assert names == set(let_in)
    assert all((ROOT / name).exists() for name in names)


def test_ray_pods_share_a_bucket_alone_and_have_room_on_their_own_disk_and_in_memory():
    specs = [
        group["template"]["spec"] for group in (SPEC["headGroupSpec"], *SPEC["workerGroupSpecs"])
    ]
    assert len(specs) == 3
    for spec in specs:
        [container] = spec["containers"]
        at = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume["emptyDir"] for volume in spec["volumes"]}
        assert "medium" not in volumes[at["/scratch"]]
        assert volumes[at["/dev/shm"]]["medium"] == "Memory"
    sweep = parsed(entrypoint()).settings
    assert sweep.ray.scratch.startswith("/scratch/")
    assert sweep.data.cache.startswith("/scratch/")


def test_a_launched_container_has_a_scratch_folder_that_its_user_can_write_to():
    for name in LAUNCHERS:
        config = launcher(name)
        assert "--volume=/scratch:/scratch" in config["docker"]["run_options"]
        assert "sudo chown 1000:100 /scratch" in config["initialization_commands"]
        assert "/home/ray/.aws/credentials" in config["file_mounts"]


def test_runs_reach_mlflow_under_a_name_that_it_answers_to():
    from mlflow.server.security_utils import is_allowed_host_header

    [container] = the("Deployment", "mlflow")["spec"]["template"]["spec"]["containers"]
    env = {one["name"]: one.get("value") for one in container["env"]}
    allowed = env["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    [port] = the("Service", "mlflow")["spec"]["ports"]
    assert parsed(entrypoint()).settings.tracking.uri == f"http://mlflow:{port['port']}"
    for host, answers in (("mlflow:5000", True), ("localhost:5000", True), ("evil.test", False)):
        assert is_allowed_host_header(allowed, host) is answers


def test_mlflows_database_is_the_service_and_its_uri_holds_no_password():
    from mlflow.utils.uri import extract_db_type_from_uri

    [container] = the("Deployment", "mlflow")["spec"]["template"]["spec"]["containers"]
    known: dict[str, str] = {}
    # As the kubelet does: a variable is replaced only by one that stands before it.
    for env in container["env"]:
        given = env.get("value", "from a secret")
        known[env["name"]] = re.sub(r"\$\((\w+)\)", lambda name: known[name[1]], given)
    uri = known["MLFLOW_BACKEND_STORE_URI"]
    assert uri == "postgresql+psycopg2://mlflow@mlflow-postgres:5432/mlflow"
    assert extract_db_type_from_uri(uri) == "postgresql"
    assert the("Service", "mlflow-postgres")["spec"]["ports"][0]["port"] == 5432
    [database] = the("StatefulSet")["spec"]["template"]["spec"]["containers"]
    made = {env["name"]: env.get("value") for env in database["env"]}
    assert (made["POSTGRES_USER"], made["POSTGRES_DB"]) == ("mlflow", "mlflow")


def test_services_find_their_pods_and_are_visible_in_the_cluster_only():
    for service in (part for part in OBJECTS if part["kind"] == "Service"):
        name = service["metadata"]["name"]
        [pod] = [
            part["spec"]["template"]
            for part in OBJECTS
            if part["kind"] in ("Deployment", "StatefulSet") and part["metadata"]["name"] == name
        ]
        assert service["spec"]["selector"] == pod["metadata"]["labels"]
        ports = {port["name"] for port in pod["spec"]["containers"][0]["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    types = [value for part in OBJECTS for value in found("type", part)]
    types += found("serviceType", OBJECTS)
    assert not {"NodePort", "LoadBalancer"} & set(types)
    assert types.count("ClusterIP") == 4


# Secrets and limits


def test_secrets_are_referred_to_and_are_those_that_the_page_makes():
    assert "Secret" not in {part["kind"] for part in OBJECTS}
    made = {
        (name, key)
        for name, options in re.findall(r"create secret generic (\S+) (.*)", page())
        for key in re.findall(r"--from-(?:literal|file)=([\w-]+)", options)
    }
    used = {(ref["name"], ref["key"]) for ref in found("secretKeyRef", OBJECTS)}
    assert used == made
    for env in (one for several in found("env", OBJECTS) for one in several):
        is_secret = re.search("PASSWORD|SECRET|TOKEN|ACCESS_KEY", env["name"])
        assert bool(is_secret) == ("valueFrom" in env), env["name"]


def test_settings_in_the_environment_come_from_config_maps_that_exist():
    names = {part["metadata"]["name"] for part in OBJECTS if part["kind"] == "ConfigMap"}
    assert {ref["name"] for ref in found("configMapRef", OBJECTS)} == names


def test_every_container_is_bounded_probed_and_unprivileged():
    specs = [spec for part in OBJECTS for spec in found("spec", part) if "containers" in spec]
    assert len(specs) == 2 + 3 + 3 + 1
    for spec in specs:
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
            for bound in container["resources"].values():
                assert {"cpu", "memory"} <= set(bound)
            probes = {name for name in container if name.endswith("Probe")}
            # The submitter only waits for the job that it has handed in.
            wanted = {"startupProbe", "readinessProbe", "livenessProbe"}
            assert probes == (set() if container["name"] == "submitter" else wanted)


def test_gpus_are_requested_on_spot_nodes_only():
    for group in SPEC["workerGroupSpecs"]:
        spec = group["template"]["spec"]
        [container] = spec["containers"]
        has_gpu = "nvidia.com/gpu" in container["resources"]["limits"]
        assert ("SPOT" in spec.get("nodeSelector", {}).values()) is has_gpu
        # Ray takes a pod's limits for its resources; less requested would be shared with others.
        assert container["resources"]["limits"] == container["resources"]["requests"]


def test_a_submitted_job_s_package_holds_the_code_and_no_data(tmp_path):
    from ray._private.runtime_env.packaging import get_excludes_from_ignore_files

    shutil.copy(ROOT / ".rayignore", tmp_path)
    code = ["jobs/train.py", "pipeline/run/plan.py", "docs/data.md", "tune/report/page.html.j2"]
    data = [
        *("photos/a.JPG", "photos/deep/b.jpeg", "c.png", "d.HEIC", "film.MP4", "e.tiff"),
        *("out/people/index.json", "people/train-000000.tar", "runs/r/journal.jsonl"),
        *("mlflow.db", "mlflow.db-wal", "elsewhere/epoch_0001/weights.safetensors"),
        *("sweeps/s/report.html", "joints.mat", "annot/valid.h5", ".git/objects/ab"),
    ]
    for name in (*code, *data):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    [is_excluded] = get_excludes_from_ignore_files(tmp_path, include_gitignore=True)
    packed = {name for name in (*code, *data) if not is_excluded(tmp_path / name)}
    assert packed == set(code)


def test_the_package_s_limit_is_ray_s():
    from ray._private.runtime_env.packaging import GCS_STORAGE_MAX_SIZE

    limit = f"{GCS_STORAGE_MAX_SIZE // 2**20} MiB"
    for name in (".rayignore", "docs/training.md"):
        assert limit in (ROOT / name).read_text()
