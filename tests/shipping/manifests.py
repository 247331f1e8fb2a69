"""What kustomize makes of k8s/."""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from tests.fakes.tool_binaries import KUBECTL

ROOT: Final = Path(__file__).parents[2]
K8S: Final = ROOT / "k8s"
OVERLAYS: Final = tuple(sorted(path.name for path in (K8S / "overlays").iterdir()))
WORKLOADS: Final = frozenset({"Deployment", "StatefulSet", "Job"})

Object = dict[str, Any]


@functools.cache
def rendered(folder: str) -> tuple[Object, ...]:
    """`folder`: below k8s/, or an absolute path."""
    command = [str(KUBECTL.path()), "kustomize", str(K8S / folder)]
    made = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert made.returncode == 0, made.stderr
    assert not made.stderr, made.stderr
    return tuple(yaml.safe_load_all(made.stdout))


def of_kind(objects: tuple[Object, ...], *kinds: str) -> list[Object]:
    return [found for found in objects if found["kind"] in kinds]


def name_of(found: Object) -> str:
    name: str = found["metadata"]["name"]
    return name


def named(objects: tuple[Object, ...], kind: str, name: str) -> Object:
    (found,) = [one for one in of_kind(objects, kind) if name_of(one) == name]
    return found


def pod_of(workload: Object) -> Object:
    pod: Object = workload["spec"]["template"]["spec"]
    return pod


def labels_of(workload: Object) -> dict[str, str]:
    labels: dict[str, str] = workload["spec"]["template"]["metadata"]["labels"]
    return labels


def containers_of(workload: Object) -> list[Object]:
    pod = pod_of(workload)
    return [*pod.get("initContainers", []), *pod["containers"]]


def settings_of(objects: tuple[Object, ...]) -> dict[str, str]:
    (config,) = of_kind(objects, "ConfigMap")
    settings: dict[str, str] = config["data"]
    return settings


def secrets_of(container: Object) -> Iterator[tuple[str, str, bool]]:
    """Variable, key of the Secret, whether the pod starts without it."""
    for variable in container.get("env", []):
        reference = variable.get("valueFrom", {}).get("secretKeyRef")
        if reference is not None:
            assert reference["name"] == "gateway-secrets"
            yield variable["name"], reference["key"], reference.get("optional", False)


def selects(selector: Object, labels: dict[str, str]) -> bool:
    if any(labels.get(name) != value for name, value in selector.get("matchLabels", {}).items()):
        return False
    for term in selector.get("matchExpressions", []):
        assert term["operator"] == "In"
        if labels.get(term["key"]) not in term["values"]:
            return False
    return True
