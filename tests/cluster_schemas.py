"""Public schemas for the manifests under jobs/cluster; fields that they do not know are refused."""

import functools
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

VERSION = "1.37"


def check(part: dict[str, Any], resources: Path | None) -> None:
    """Raise ValidationError if an object does not fit the schema of its kind.

    `resources` has KubeRay's definitions. Without it only the pods of Ray's kinds are checked.
    """
    if part["apiVersion"] != "ray.io/v1":
        kubernetes_validate.validate(part, VERSION, strict=True)
        return
    for number, template in enumerate(_templates(part["spec"])):
        name = {"name": f"{part['metadata']['name']}-{number}"}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": name, **template}
        kubernetes_validate.validate(pod, VERSION, strict=True)
    if resources is not None:
        jsonschema.validate(part, _schema(resources / f"ray.io_{part['kind'].lower()}s.yaml"))


def _templates(spec: dict[str, Any]) -> list[dict[str, Any]]:
    found = [spec["submitterPodTemplate"]] if "submitterPodTemplate" in spec else []
    cluster = spec.get("rayClusterSpec", spec)
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return found + [group["template"] for group in groups]


@functools.cache
def _schema(definition: Path) -> dict[str, Any]:
    content = yaml.load(definition.read_text(), yaml.CSafeLoader)
    [version] = [one for one in content["spec"]["versions"] if one["name"] == "v1"]
    return _closed(version["schema"]["openAPIV3Schema"])


def _closed(schema: Any) -> Any:
    """Return a schema of Kubernetes as a JSON Schema that refuses unknown fields."""
    if isinstance(schema, list):
        return [_closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: _closed(value) for name, value in schema.items()}
    if (
        isinstance(schema.get("properties"), dict)
        and "type" in schema
        and len(schema["properties"])
    ):
        # Kubernetes itself knows what metadata is.
        found.setdefault("additionalProperties", False)
    return found


ERRORS = (jsonschema.ValidationError, kubernetes_validate.ValidationError)
