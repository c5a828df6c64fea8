"""The files of jobs/cluster: manifests, launcher files, commands, and resources of nodes."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import jobs.pack
import jobs.train
import tune.sweep
from pipeline.settings import RaySettings
from pipeline.settings.cli import given_settings, parse

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "jobs" / "cluster"
MANIFESTS = ("environment.yaml", "mlflow.yaml", "raycluster.yaml", "rayjob.yaml")
LAUNCHERS = ("aws.yaml", "machines.yaml")


def documents(*names: str) -> list[dict[str, Any]]:
    """Return the objects in manifests."""
    return [part for name in names for part in yaml.safe_load_all((FOLDER / name).read_text())]


def the(kind: str, name: str = "") -> dict[str, Any]:
    """Return the one object of a kind, or of a kind and name."""
    [found] = [
        part
        for part in documents(*MANIFESTS)
        if part["kind"] == kind and name in ("", part["metadata"]["name"])
    ]
    return found


def launcher(name: str) -> dict[str, Any]:
    """Read a launcher file."""
    return yaml.safe_load((FOLDER / name).read_text())


def found(key: str, within: Any) -> Iterator[Any]:
    """Yield every value under a key, at any depth."""
    if isinstance(within, dict):
        for name, value in within.items():
            if name == key:
                yield value
            yield from found(key, value)
    elif isinstance(within, list):
        for value in within:
            yield from found(key, value)


# Commands


def page(section: str = "") -> str:
    """Return README's text, or a section of it."""
    text = (FOLDER / "README.md").read_text()
    return re.search(rf"^## {section}$(.*?)(?=^## |\Z)", text, re.M | re.S)[1] if section else text


def lines(text: str) -> list[str]:
    """Return the indented lines of a page, with continuation lines joined."""
    return re.findall(r"^ {4}(\S.*)$", re.sub(r"\\\n\s*", "", text), re.M)


def commands(line: str) -> Iterator[list[str]]:
    """Yield the `python`, `ray` and `mlflow` commands of a line, also those that others run."""
    words = shlex.split(line)
    for at, word in enumerate(words):
        begins = at == 0 or words[at - 1] == "--" or "=" in words[at - 1]
        if begins and word in ("python", "ray", "mlflow"):
            yield words[at:]
        elif re.match(r"([A-Z_]+=\S+ )*(python|ray|mlflow) ", word):
            yield from commands(word)


def modules(text: str) -> list[list[str]]:
    """Return the `python -m` commands of a page, each as module and arguments."""
    return [
        command[2:]
        for line in lines(text)
        for command in commands(line)
        if command[:2] == ["python", "-m"]
    ]


def entrypoint() -> list[str]:
    """Return RayJob's command as its driver gets it, as module and arguments."""
    # The submitter's shell splits it, and Ray joins it again for the head's shell.
    words = shlex.split(shlex.join(shlex.split(the("RayJob")["spec"]["entrypoint"])))
    assert words[:2] == ["python", "-m"]
    return words[2:]


def parsed(command: list[str]) -> Any:
    """Parse a command by our own command line, which checks its settings."""
    module, *argv = command
    if module == "jobs.pack":
        arguments = parse(jobs.pack.Arguments, None, argv)
        arguments.settings_in(Path("out"))
        return arguments
    kind = {"jobs.train": jobs.train.Arguments, "tune.sweep": tune.sweep.Arguments}[module]
    return parse(kind, None, argv, kind(settings=given_settings(argv, dict)))


# Nodes


@dataclass(frozen=True, kw_only=True)
class Group:
    """Nodes of a kind: resources of each, their fewest (from the start) and most."""

    cpus: int
    gpus: int
    fewest: int
    most: int

    def workers(self, ray: RaySettings) -> int:
        """Return how many training workers fit on a node."""
        fits = self.cpus // (ray.cpus_per_worker or 1)
        if ray.gpus_per_worker:
            fits = min(fits, self.gpus // ray.gpus_per_worker)
        return int(fits)


def pods(spec: dict[str, Any]) -> list[Group]:
    """Return the worker groups of a RayCluster."""
    groups = []
    for group in spec["workerGroupSpecs"]:
        [container] = group["template"]["spec"]["containers"]
        limits = container["resources"]["limits"]
        groups.append(
            Group(
                cpus=int(limits["cpu"]),
                gpus=int(limits.get("nvidia.com/gpu", 0)),
                fewest=group["minReplicas"],
                most=group["maxReplicas"],
            )
        )
    return groups


def machines(config: dict[str, Any]) -> list[Group]:
    """Return the worker types of a launcher file."""
    return [
        Group(
            cpus=kind["resources"]["CPU"],
            gpus=kind["resources"].get("GPU", 0),
            fewest=kind["min_workers"],
            most=kind["max_workers"],
        )
        for name, kind in config["available_node_types"].items()
        if name != config["head_node_type"]
    ]


def too_much(arguments: Any, groups: list[Group]) -> list[str]:
    """Return what a training or sweep requests beyond the resources of the groups."""
    ray = arguments.settings.ray
    trials = arguments.search.at_once if hasattr(arguments, "search") else 1
    problems = []
    for when, wanted, there in (
        ("at first", ray.fewest_workers, sum(g.fewest * g.workers(ray) for g in groups)),
        (
            "at most",
            ray.most_workers * max(trials, 1),
            sum(g.most * g.workers(ray) for g in groups),
        ),
    ):
        if wanted > there:
            problems.append(f"{when} {wanted} workers are wanted, there is room for {there}")
    return problems
