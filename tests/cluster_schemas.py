"""JSON Schemas by kind for the manifests under jobs/cluster; other fields are refused.

They restate the fields of the public schemas that the manifests use: KubeRay's
`ray.io/v1` with `authOptions`, of operator 1.6 and newer (RayCluster, RayJob),
and fields of Kubernetes' `v1` and `apps/v1` that are stable since 1.20. Look a
field up there before you add it to a manifest.
"""

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
WHOLE: Schema = {"type": "integer", "minimum": 0}
FLAG: Schema = {"type": "boolean"}
NAME: Schema = {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}
QUANTITY: Schema = {
    "anyOf": [
        {"type": "string", "pattern": r"^\d+(\.\d+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$"},
        {"type": "integer", "minimum": 0},
    ]
}


def record(required: str = "", **known: Schema) -> Schema:
    """Return the schema of an object with these fields only; `required` names those it needs."""
    return {
        "type": "object",
        "additionalProperties": False,
        "required": required.split(),
        "properties": known,
    }


def several(of: Schema, least: int = 1) -> Schema:
    """Return the schema of a list."""
    return {"type": "array", "items": of, "minItems": least}


def by_name(of: Schema) -> Schema:
    """Return the schema of a map from any names."""
    return {"type": "object", "additionalProperties": of}


def one_of(*values: str) -> Schema:
    """Return the schema of one of some words."""
    return {"enum": list(values)}


def top(version: str, kind: str, **known: Schema) -> Schema:
    """Return the schema of an object of a kind."""
    metadata = record("name", name=NAME, labels=by_name(TEXT))
    return record(
        f"apiVersion kind metadata {' '.join(known)}",
        apiVersion=one_of(version),
        kind=one_of(kind),
        metadata=metadata,
        **known,
    )


# Pods

RESOURCES = record("requests limits", requests=by_name(QUANTITY), limits=by_name(QUANTITY))
CONTAINER_SECURITY = record(
    allowPrivilegeEscalation=FLAG, capabilities=record(drop=several(TEXT), add=several(TEXT))
)
PROBE = {
    **record(
        exec=record("command", command=several(TEXT)),
        httpGet=record("port", path=TEXT, port={"anyOf": [NAME, WHOLE]}),
        **dict.fromkeys(
            ("initialDelaySeconds", "periodSeconds", "timeoutSeconds", "failureThreshold"), WHOLE
        ),
    ),
    "oneOf": [{"required": ["exec"]}, {"required": ["httpGet"]}],
}
ENV = {
    **record(
        "name",
        name={"type": "string", "pattern": "^[A-Z_][A-Z0-9_]*$"},
        value=TEXT,
        valueFrom=record(
            "secretKeyRef", secretKeyRef=record("name key", name=NAME, key=TEXT, optional=FLAG)
        ),
    ),
    "oneOf": [{"required": ["value"]}, {"required": ["valueFrom"]}],
}
CONTAINER = record(
    "name image resources securityContext",
    name=NAME,
    image=TEXT,
    command=several(TEXT),
    args=several(TEXT),
    ports=several(record("containerPort", name=NAME, containerPort=WHOLE)),
    envFrom=several(record("configMapRef", configMapRef=record("name", name=NAME))),
    env=several(ENV),
    resources=RESOURCES,
    securityContext=CONTAINER_SECURITY,
    startupProbe=PROBE,
    readinessProbe=PROBE,
    livenessProbe=PROBE,
    volumeMounts=several(record("name mountPath", name=NAME, mountPath=TEXT, readOnly=FLAG)),
)
VOLUME = {
    **record(
        "name",
        name=NAME,
        persistentVolumeClaim=record("claimName", claimName=NAME),
        emptyDir=record(medium=one_of("", "Memory"), sizeLimit=QUANTITY),
    ),
    "oneOf": [{"required": ["persistentVolumeClaim"]}, {"required": ["emptyDir"]}],
}
POD_SECURITY = record(
    "runAsNonRoot",
    runAsNonRoot=FLAG,
    runAsUser=WHOLE,
    runAsGroup=WHOLE,
    fsGroup=WHOLE,
    seccompProfile=record("type", type=one_of("RuntimeDefault", "Unconfined", "Localhost")),
)
POD = record(
    "containers securityContext",
    restartPolicy=one_of("Always", "OnFailure", "Never"),
    automountServiceAccountToken=FLAG,
    enableServiceLinks=FLAG,
    securityContext=POD_SECURITY,
    nodeSelector=by_name(TEXT),
    tolerations=several(
        record(
            key=TEXT,
            operator=one_of("Exists", "Equal"),
            value=TEXT,
            effect=one_of("NoSchedule", "PreferNoSchedule", "NoExecute"),
        )
    ),
    containers=several(CONTAINER),
    volumes=several(VOLUME),
)
TEMPLATE = record("spec", metadata=record(labels=by_name(TEXT)), spec=POD)
SELECTOR = record("matchLabels", matchLabels=by_name(TEXT))
CLAIM = record(
    "accessModes resources",
    accessModes=several(one_of("ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany")),
    storageClassName=NAME,
    resources=record("requests", requests=by_name(QUANTITY)),
)

# Ray

RAY_CLUSTER = record(
    "rayVersion headGroupSpec",
    rayVersion={"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
    authOptions=record("mode", mode=one_of("disabled", "token")),
    enableInTreeAutoscaling=FLAG,
    autoscalerOptions=record(
        version=one_of("v1", "v2"),
        idleTimeoutSeconds=WHOLE,
        resources=RESOURCES,
        securityContext=CONTAINER_SECURITY,
    ),
    headGroupSpec=record(
        "rayStartParams template",
        serviceType=one_of("ClusterIP", "NodePort", "LoadBalancer"),
        rayStartParams=by_name(TEXT),
        template=TEMPLATE,
    ),
    workerGroupSpecs=several(
        record(
            "groupName minReplicas maxReplicas rayStartParams template",
            groupName=NAME,
            replicas=WHOLE,
            minReplicas=WHOLE,
            maxReplicas=WHOLE,
            rayStartParams=by_name(TEXT),
            template=TEMPLATE,
        )
    ),
)
RAY_JOB = record(
    "entrypoint rayClusterSpec",
    submissionMode=one_of("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"),
    entrypoint=TEXT,
    backoffLimit=WHOLE,
    shutdownAfterJobFinishes=FLAG,
    ttlSecondsAfterFinished=WHOLE,
    submitterPodTemplate=TEMPLATE,
    rayClusterSpec=RAY_CLUSTER,
)

KINDS: dict[str, Schema] = {
    "RayCluster": top("ray.io/v1", "RayCluster", spec=RAY_CLUSTER),
    "RayJob": top("ray.io/v1", "RayJob", spec=RAY_JOB),
    "PersistentVolumeClaim": top("v1", "PersistentVolumeClaim", spec=CLAIM),
    "ConfigMap": top("v1", "ConfigMap", data=by_name(TEXT)),
    "Service": top(
        "v1",
        "Service",
        spec=record(
            "type selector ports",
            type=one_of("ClusterIP", "NodePort", "LoadBalancer"),
            selector=by_name(TEXT),
            ports=several(
                record("port", name=NAME, port=WHOLE, targetPort={"anyOf": [NAME, WHOLE]})
            ),
        ),
    ),
    "Deployment": top(
        "apps/v1",
        "Deployment",
        spec=record(
            "selector template",
            replicas=WHOLE,
            strategy=record(type=one_of("Recreate", "RollingUpdate")),
            selector=SELECTOR,
            template=TEMPLATE,
        ),
    ),
    "StatefulSet": top(
        "apps/v1",
        "StatefulSet",
        spec=record(
            "serviceName selector template",
            serviceName=NAME,
            replicas=WHOLE,
            selector=SELECTOR,
            template=TEMPLATE,
            volumeClaimTemplates=several(
                record("metadata spec", metadata=record("name", name=NAME), spec=CLAIM)
            ),
        ),
    ),
}
