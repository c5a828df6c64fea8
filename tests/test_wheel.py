"""The wheel, installed beside packages of other distributions that are named like our folders."""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("pipeline", "jobs", "tune")

pytestmark = [pytest.mark.slow, pytest.mark.cluster]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel, and install it where other packages have the names of our folders.

    Returns the folder of the environment. Other libraries come from the one that runs the tests.
    """
    place = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", place, cwd=ROOT)
    [wheel] = place.glob("*.whl")
    environment = place / "environment"
    venv.create(environment, symlinks=True)
    pip = (sys.executable, "-m", "pip", "--python", environment / "bin/python")
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel)
    [packages] = environment.glob("lib/python*/site-packages")
    for name in FOLDERS:
        (packages / name).mkdir()
        (packages / name / "__init__.py").write_text("OWNER = 'another distribution'\n")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return environment


def run(*words: object, cwd: Path = ROOT.parent) -> str:
    """Return the output of a program that sees nothing of the checkout."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, words)), cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def files_of(place: Path) -> set[str]:
    return {
        str(path.relative_to(place))
        for name in FOLDERS
        for path in (place / name).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }


def test_packages_of_others_keep_their_names(installed, tmp_path):
    names = run(
        *(installed / "bin/python", "-c"),
        "import jobs, tune, pipeline, hourglass_ray.jobs.train, hourglass_ray.tune.sweep\n"
        "import hourglass_ray.jobs.train as ours\n"
        "print(jobs.OWNER, tune.OWNER, pipeline.OWNER, ours.Settings.__module__, sep='; ')",
        cwd=tmp_path,
    )
    assert (
        names
        == "; ".join(["another distribution"] * 3 + ["hourglass_ray.pipeline.settings.tree"]) + "\n"
    )


def test_the_wheel_adds_one_package_and_holds_all_files_of_it(installed):
    [packages] = installed.glob("lib/python*/site-packages")
    manifests = {name for name in files_of(ROOT) if name.startswith("jobs/cluster/")}
    manifests.remove("jobs/cluster/slurm.sbatch")
    assert manifests
    assert files_of(packages / "hourglass_ray") == files_of(ROOT) - manifests
    assert (packages / "hourglass_ray/py.typed").exists()


def test_its_command_packs_with_workers_of_ray_and_prints_commands_of_its_own(installed, tmp_path):
    out = tmp_path / "people"
    packed = run(
        *(installed / "bin/hourglass", "pack", "synthetic", "--out", out),
        *("--scenes", 6, "--val-images", 2, "--crop.person-px", 40),
        cwd=tmp_path,
    )
    assert (out / "index.json").exists(), packed
    shown = run(
        *(installed / "bin/python", "-c"),
        "from hourglass_ray.pipeline.tracking.description import command\n"
        "from hourglass_ray.pipeline.settings import Settings\n"
        "print(command(Settings.from_flat({'model.stacks': 2})))",
        cwd=tmp_path,
    )
    assert shown == "hourglass train --model.stacks 2\n"
