"""What kustomize makes of k8s/ is valid, starts the broker, and keeps each process to what it needs."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import tomllib
from fractions import Fraction
from ipaddress import ip_network
from itertools import permutations
from pathlib import Path
from typing import Any, Final

import jsonschema  # type: ignore[import-untyped]  # ships no type information
import kubernetes_validate  # type: ignore[import-untyped]  # ships no type information
import pytest
import yaml
from pydantic import AliasChoices, BaseModel

from cli.production import complaints, weakness
from cli.up import scripted_environment
from shared import keyspace
from shared.crypto import new_master_key
from shared.domain.job import Lane
from shared.providers.registry import BUILT_IN, Registry
from shared.settings import Settings, load_settings
from tests.fakes.tool_binaries import KUBECTL
from tests.shipping.manifests import (
    K8S,
    OVERLAYS,
    ROOT,
    WORKLOADS,
    Object,
    containers_of,
    labels_of,
    name_of,
    named,
    of_kind,
    pod_of,
    rendered,
    secrets_of,
    selects,
    settings_of,
)

ALL: Final = ("base", *(f"overlays/{name}" for name in OVERLAYS))
KUBERNETES: Final = ("1.29", kubernetes_validate.latest_version())
SCHEMAS: Final = Path(__file__).parent / "schemas"
OTHERS: Final = {path.stem: json.loads(path.read_text()) for path in SCHEMAS.glob("*.json")}
COMPONENTS: Final = tuple(sorted(path.name for path in (K8S / "components").iterdir()))
EXAMPLE: Final = K8S / "gateway-secrets.env.example"
GUIDE: Final = ROOT / "docs" / "operations" / "kubernetes.md"
PROVIDER_KEYS: Final = {
    variable: profile.id for profile in BUILT_IN.values() for variable in profile.key_variables
}
PRIVATE_HALVES: Final = {"HEADRACE_MASTER_KEY", "HEADRACE_MASTER_KEY_BEFORE"}
SLOTS: Final = "HEADRACE_WORKER__SLOTS"
every = pytest.mark.parametrize("folder", ALL)


def check(found: Object, version: str) -> None:
    own = OTHERS.get(found["kind"].lower())
    if own is None:
        kubernetes_validate.validate(found, version, strict=True)
    else:
        jsonschema.Draft202012Validator(own).validate(found)


def ours(objects: tuple[Object, ...], *kinds: str) -> list[Object]:
    found = of_kind(objects, *(kinds or WORKLOADS))
    return [one for one in found if labels_of(one).get("app.kubernetes.io/name") == "headrace"]


def component_of(workload: Object) -> str:
    return labels_of(workload)["app.kubernetes.io/component"]


def workers(objects: tuple[Object, ...]) -> list[Object]:
    return [one for one in ours(objects) if component_of(one) == "worker"]


def providers_of(workload: Object) -> set[str]:
    args = pod_of(workload)["containers"][0]["args"]
    return {args[place + 1] for place, word in enumerate(args) if word == "--provider"}


def render_with(tmp_path: Path, text: str) -> tuple[Object, ...]:
    (tmp_path / "kustomization.yaml").write_text(text.replace("K8S", os.path.relpath(K8S, tmp_path)))
    return rendered(str(tmp_path))


# valid


@pytest.mark.parametrize("version", KUBERNETES)
@every
def test_every_object_is_valid(folder: str, version: str) -> None:
    for found in rendered(folder):
        check(found, version)


def test_a_field_that_nobody_knows_is_not_valid() -> None:
    for kind, folder in (("Deployment", "base"), ("ScaledObject", "overlays/keda")):
        found = of_kind(rendered(folder), kind)[0]
        with pytest.raises(jsonschema.ValidationError):
            check({**found, "spec": {**found["spec"], "replicaCount": 1}}, KUBERNETES[0])


@pytest.mark.parametrize("component", COMPONENTS)
def test_each_component_goes_on_top_of_an_overlay(component: str, tmp_path: Path) -> None:
    text = f"resources: [K8S/overlays/production]\ncomponents: [K8S/components/{component}]\n"
    objects = render_with(tmp_path, text)

    assert len(objects) == len(rendered("overlays/production")) + 1
    for found in objects:
        for version in KUBERNETES:
            check(found, version)
    for monitor in of_kind(objects, "PodMonitor"):
        seen = [one for one in ours(objects) if selects(monitor["spec"]["selector"], labels_of(one))]
        assert {component_of(one) for one in seen} == {"api", "worker", "scheduler"}


@pytest.mark.parametrize(
    ("component", "ports"), [("otlp-egress", {(4318, 4318)}), ("redis-nodes", {(26379, 26379), (7000, 7005)})]
)
def test_a_component_lets_the_three_processes_out_to_its_ports_and_to_nothing_on_the_internet(
    component: str, ports: set[tuple[int, int]], tmp_path: Path
) -> None:
    text = f"resources: [K8S/overlays/production]\ncomponents: [K8S/components/{component}]\n"
    objects = render_with(tmp_path, text)
    before = {name_of(one) for one in of_kind(rendered("overlays/production"), "NetworkPolicy")}
    (policy,) = [one for one in of_kind(objects, "NetworkPolicy") if name_of(one) not in before]
    (rule,) = policy["spec"]["egress"]

    reached = [one for one in ours(objects) if selects(policy["spec"]["podSelector"], labels_of(one))]
    assert {component_of(one) for one in reached} == {"api", "worker", "scheduler"}
    assert {(one["port"], one.get("endPort", one["port"])) for one in rule["ports"]} == ports
    for peer in rule["to"]:
        assert "namespaceSelector" in peer or ip_network(peer["ipBlock"]["cidr"]).is_private


def test_a_pool_is_added_as_the_guide_says(tmp_path: Path) -> None:
    block = re.search(
        r"```yaml\n(.*?resources: \[\.\./\.\./\.\./\.\./base/worker\].*?)```", GUIDE.read_text(), re.DOTALL
    )
    assert block is not None
    pool = tmp_path / "pools" / "vllm"
    pool.mkdir(parents=True)
    base = os.path.relpath(K8S / "base" / "worker", pool)
    (pool / "kustomization.yaml").write_text(block[1].replace("../../../../base/worker", base))

    objects = render_with(tmp_path, "resources: [K8S/overlays/production, pools/vllm]\nnamespace: headrace\n")

    added = named(objects, "Deployment", "headrace-worker-vllm")
    scaler = named(objects, "HorizontalPodAutoscaler", "headrace-worker-vllm")
    assert providers_of(added) == {"vllm"} == scaled_on(scaler)
    assert scaler["spec"]["scaleTargetRef"]["name"] == name_of(added)
    assert named(objects, "PodDisruptionBudget", "headrace-worker-vllm")


# starts the broker


@every
def test_every_variable_is_a_setting(folder: str) -> None:
    known: set[str] = set()
    for name, field in Settings.model_fields.items():
        alias = field.validation_alias
        if isinstance(field.default, BaseModel):
            known |= {f"HEADRACE_{name}__{inner}".upper() for inner in type(field.default).model_fields}
        elif isinstance(alias, AliasChoices):
            known |= set(map(str, alias.choices))
        else:
            known.add(str(alias or f"HEADRACE_{name.upper()}"))
    objects = rendered(folder)

    used = set(settings_of(objects))
    for workload in ours(objects):
        used |= {variable["name"] for box in containers_of(workload) for variable in box.get("env", [])}

    assert used - known == set()


def settings_in(
    box: Any, objects: tuple[dict[str, Any], ...], given: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Settings:
    """Those with which the container starts. Raises what would keep it from starting."""
    environment = dict(settings_of(objects)) if "envFrom" in box else {}
    environment |= {one["name"]: one["value"] for one in box["env"] if "value" in one}
    for variable, key, _ in secrets_of(box):
        environment[variable] = given.setdefault(key, secrets.token_urlsafe(32))
    with monkeypatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("HEADRACE_")]:
            patch.delenv(name)
        for name, value in environment.items():
            patch.setenv(name, value)
        return load_settings(_env_file=None)


@pytest.mark.parametrize("folder", [folder for folder in ALL if folder not in {"base", "overlays/dev"}])
def test_production_takes_the_settings_of_every_process(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    private, public = new_master_key()
    given = {
        "redis-url": "redis://:b7Yq0cNf3T@redis.internal:6379/0",
        "database-url": "postgresql://headrace:b7Yq0cNf3T@postgres.internal/headrace",
        "master-key": private,
        "master-key-before": new_master_key()[0],
        "master-public-key": public,
    }
    objects = rendered(folder)
    for workload in ours(objects, "Deployment"):
        for box in pod_of(workload).get("initContainers", []):
            settings_in(box, objects, given, monkeypatch)
        settings = settings_in(pod_of(workload)["containers"][0], objects, given, monkeypatch)
        checks_keys = component_of(workload) != "worker"

        assert settings.environment == "production"
        assert settings.storage.kind == "s3"
        assert list(complaints(settings, Registry.from_settings(settings), checks_keys=checks_keys)) == []


def test_the_secret_is_the_one_that_is_documented() -> None:
    text = EXAMPLE.read_text()
    needed = set(re.findall(r"^([a-z-]+)=$", text, re.MULTILINE))
    optional = set(re.findall(r"^#([a-z-]+)=$", text, re.MULTILINE))
    used: dict[str, bool] = {}
    for folder in ALL[:1]:
        for workload in ours(rendered(folder)):
            for box in containers_of(workload):
                for _, key, may_lack in secrets_of(box):
                    used[key] = used.get(key, True) and may_lack
    for authentication in of_kind(rendered("overlays/keda-streams"), "TriggerAuthentication"):
        used |= {one["key"]: True for one in authentication["spec"]["secretTargetRef"]}

    assert {key for key, may_lack in used.items() if not may_lack} == needed
    assert {key for key, may_lack in used.items() if may_lack} == optional
    create = ["create", "secret", "generic", "gateway-secrets", "--dry-run=client", "-o", "json"]
    command = [str(KUBECTL.path()), *create, f"--from-env-file={EXAMPLE}"]
    made = subprocess.run(command, capture_output=True, check=True)
    assert set(json.loads(made.stdout)["data"]) == needed


def test_development_is_whole_and_production_refuses_its_secrets() -> None:
    objects = rendered("overlays/dev")
    (secret,) = of_kind(objects, "Secret")
    held: dict[str, str] = {
        line.partition("=")[0]: line.partition("=")[2]
        for line in (K8S / "overlays/dev/gateway-secrets.env").read_text().splitlines()
        if not line.startswith("#")
    }
    needed = {
        key
        for workload in of_kind(objects, *WORKLOADS)
        for box in containers_of(workload)
        for _, key, may_lack in secrets_of(box)
        if not may_lack
    }
    scripted = scripted_environment("http://scripted-provider:8080")
    settings = settings_of(objects)

    assert needed <= set(held) == set(secret["data"])
    assert all(weakness(held[key]) for key in ("jwt-secret", "key-pepper", "admin-token", "redis-password"))
    assert of_kind(objects, "HorizontalPodAutoscaler") == []
    served = {provider for worker in workers(objects) for provider in providers_of(worker)}
    addresses = {BUILT_IN[provider].base_url_variable for provider in served}
    assert {name: settings[name] for name in addresses} == {name: scripted[name] for name in addresses}
    assert all(len(held[key]) >= 32 for key in ("jwt-secret", "key-pepper", "admin-token"))


@every
def test_images_are_those_of_this_version(folder: str) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for workload in of_kind(rendered(folder), *WORKLOADS):
        for box in containers_of(workload):
            image, _, tag = box["image"].partition(":")
            assert re.fullmatch(r"\d+\.\d+(\.\d+)?(-alpine)?", tag)
            assert tag == version or image != "headrace"
    (job,) = of_kind(rendered(folder), "Job")
    assert name_of(job) == f"headrace-migrate-{version.replace('.', '-')}"
    # A Job cannot be changed, and the digest in the name of the settings changes with them.
    assert "headrace-" not in json.dumps(pod_of(job)["containers"]).replace("gateway-secrets", "")


# keeps each process to what it needs


@every
def test_provider_keys_are_in_the_workers_of_that_provider_alone(folder: str) -> None:
    objects = rendered(folder)
    pools = workers(objects)
    for workload in ours(objects):
        variables = {variable["name"] for box in containers_of(workload) for variable in box.get("env", [])}
        keys = {PROVIDER_KEYS[variable] for variable in variables & set(PROVIDER_KEYS)}

        assert keys == (providers_of(workload) if workload in pools else set())
        assert variables >= PRIVATE_HALVES if workload in pools else not PRIVATE_HALVES & variables
    served = [provider for pool in pools for provider in providers_of(pool)]
    assert len(served) == len(set(served))
    assert set(served) <= set(BUILT_IN)
    assert set(settings_of(objects)) & (set(PROVIDER_KEYS) | PRIVATE_HALVES) == set()


@every
def test_pods_are_restricted_as_the_strictest_standard_says(folder: str) -> None:
    objects = rendered(folder)
    accounts = {name_of(one): one for one in of_kind(objects, "ServiceAccount")}
    for workload in of_kind(objects, *WORKLOADS):
        pod = pod_of(workload)
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert (pod["automountServiceAccountToken"], pod["enableServiceLinks"]) == (False, False)
        if "serviceAccountName" in pod:
            assert accounts[pod["serviceAccountName"]]["automountServiceAccountToken"] is False
        for box in containers_of(workload):
            assert box["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {"cpu", "memory"} <= set(box["resources"]["requests"])
            assert "memory" in box["resources"]["limits"]
        assert all("emptyDir" in volume for volume in pod.get("volumes", []))
    for workload in ours(objects):
        assert pod_of(workload)["securityContext"]["runAsUser"] == 10001


@every
def test_every_process_is_probed_and_may_finish(folder: str) -> None:
    objects = rendered(folder)
    settings = {name: float(value) for name, value in settings_of(objects).items() if "SECONDS" in name}
    least = {
        "api": settings["HEADRACE_API__PRE_STOP_SECONDS"] + settings["HEADRACE_API__DRAIN_SECONDS"],
        "worker": settings["HEADRACE_WORKER__DRAIN_SECONDS"],
        "scheduler": 5.0,
    }
    kinds = {component_of(one) for one in ours(objects, "Deployment")} - {"scripted-provider"}
    assert kinds == set(least)
    for workload in ours(objects, "Deployment"):
        (box,) = pod_of(workload)["containers"]
        ports = {port["name"]: port["containerPort"] for port in box["ports"]}
        paths = [box[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")]
        variables = {one["name"]: one.get("value") for one in box["env"]}
        listens = "HEADRACE_ADMIN_PORT" if component_of(workload) == "api" else "HEADRACE_METRICS_PORT"
        annotations = workload["spec"]["template"]["metadata"]["annotations"]

        assert [one["path"] for one in paths] == ["/health/live", "/health/live", "/health/ready"]
        assert all(one["port"] in ports for one in paths)
        assert str(ports["metrics"]) == variables[listens] == annotations["prometheus.io/port"]
        assert pod_of(workload)["terminationGracePeriodSeconds"] >= least[component_of(workload)] + 10
        # The process itself waits, serving, after SIGTERM: a hook would add to it.
        assert "lifecycle" not in box
        assert workload["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
        # Longer than it takes to see that the pod is not ready.
        ready = box["readinessProbe"]
        if component_of(workload) == "api":
            seen = ready["periodSeconds"] * (ready["failureThreshold"] - 1) + ready["timeoutSeconds"]
            assert settings["HEADRACE_API__PRE_STOP_SECONDS"] >= seen


@every
def test_selectors_find_their_pods_and_no_others(folder: str) -> None:
    objects = rendered(folder)
    everything = of_kind(objects, *WORKLOADS)
    for one, other in permutations([w for w in everything if w["kind"] != "Job"], 2):
        assert selects(one["spec"]["selector"], labels_of(one))
        assert not selects(one["spec"]["selector"], labels_of(other))
    for workload in ours(objects, "Deployment"):
        budgets = [
            budget
            for budget in of_kind(objects, "PodDisruptionBudget")
            if selects(budget["spec"]["selector"], labels_of(workload))
        ]
        assert len(budgets) == 1
        for spread in pod_of(workload)["topologySpreadConstraints"]:
            found = [one for one in everything if selects(spread["labelSelector"], labels_of(one))]
            assert found == [workload]
    for service in of_kind(objects, "Service"):
        (behind,) = [
            one for one in everything if selects({"matchLabels": service["spec"]["selector"]}, labels_of(one))
        ]
        ports = {port["name"] for port in pod_of(behind)["containers"][0]["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports


@every
def test_the_network_carries_what_is_named_and_nothing_else(folder: str) -> None:
    objects = rendered(folder)
    policies = [policy["spec"] for policy in of_kind(objects, "NetworkPolicy")]
    everything = of_kind(objects, *WORKLOADS)
    assert {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} in policies
    for policy in policies:
        assert any(selects(policy["podSelector"], labels_of(one)) for one in everything)
    out: dict[str, set[int]] = {}
    into: dict[str, set[str]] = {}
    stores: dict[str, set[int]] = {}
    for workload in ours(objects):
        kind = component_of(workload)
        for policy in policies:
            if not selects(policy["podSelector"], labels_of(workload)):
                continue
            for rule in policy.get("egress", []):
                ports = {port["port"] for port in rule["ports"]}
                blocks = [peer["ipBlock"] for peer in rule["to"] if "ipBlock" in peer]
                if any(block["cidr"] in {"0.0.0.0/0", "::/0"} for block in blocks):
                    out.setdefault(kind, set()).update(ports)
                    assert all(block["except"] for block in blocks)
                elif 6379 in ports:
                    stores.setdefault(kind, set()).update(ports)
            for rule in policy.get("ingress", []):
                into.setdefault(kind, set()).update(port["port"] for port in rule["ports"])

    assert out == {"api": {443, 8443}, "scheduler": {443, 8443}, "worker": {443}}
    assert stores == {kind: {5432, 6379} for kind in ("api", "scheduler", "worker", "migrate")}
    assert into == {"api": {"http", "metrics"}, "scheduler": {"metrics"}, "worker": {"metrics"}}


# scales


def scaled_on(scaler: Object) -> set[str]:
    (metric,) = scaler["spec"]["metrics"]
    selector = metric["external"]["metric"]["selector"]
    if "matchLabels" in selector:
        return {selector["matchLabels"]["provider"]}
    (term,) = selector["matchExpressions"]
    assert (term["key"], term["operator"]) == ("provider", "In")
    return set(term["values"])


def target_of(objects: tuple[Object, ...]) -> Fraction:
    return Fraction(settings_of(objects)[SLOTS]) * Fraction(8, 10)


def test_the_api_has_three_pods_or_more() -> None:
    scaler = named(rendered("overlays/production"), "HorizontalPodAutoscaler", "headrace-api")

    assert named(rendered("base"), "Deployment", "headrace-api")["spec"]["replicas"] == 3
    assert scaler["spec"]["minReplicas"] == 3
    assert "replicas" not in named(rendered("overlays/production"), "Deployment", "headrace-api")["spec"]


def test_pools_are_scaled_on_the_jobs_of_their_providers() -> None:
    objects = rendered("overlays/production")
    values = yaml.safe_load((K8S / "overlays/production/prometheus-adapter.values.yaml").read_text())
    (rule,) = values["rules"]["external"]
    for pool in workers(objects):
        scaler = named(objects, "HorizontalPodAutoscaler", name_of(pool))
        (metric,) = scaler["spec"]["metrics"]

        assert scaler["spec"]["scaleTargetRef"]["name"] == name_of(pool)
        assert scaled_on(scaler) == providers_of(pool)
        assert metric["external"]["metric"]["name"] == rule["name"]["as"] == "gateway_provider_jobs"
        assert metric["external"]["target"]["type"] == "AverageValue"
        assert Fraction(metric["external"]["target"]["averageValue"]) == target_of(objects)
        assert scaler["spec"]["behavior"]["scaleDown"]["stabilizationWindowSeconds"] == 300
        assert "replicas" not in pool["spec"]
    assert "provider:gateway_jobs:sum" in rule["seriesQuery"]
    assert rule["resources"] == {"overrides": {"namespace": {"resource": "namespace"}}}


@pytest.mark.parametrize("folder", ["overlays/keda", "overlays/keda-streams"])
def test_keda_scales_every_pool_and_nothing_else_does(folder: str) -> None:
    objects = rendered(folder)
    pools = {name_of(pool): pool for pool in workers(objects)}
    scaled = of_kind(objects, "ScaledObject")

    assert {one["spec"]["scaleTargetRef"]["name"] for one in scaled} == set(pools)
    assert [name_of(one) for one in of_kind(objects, "HorizontalPodAutoscaler")] == ["headrace-api"]
    for one in scaled:
        behavior = one["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        assert (one["spec"]["minReplicaCount"], one["spec"]["cooldownPeriod"]) == (0, 300)
        assert behavior["scaleDown"]["stabilizationWindowSeconds"] == 300


def test_keda_asks_prometheus_for_the_same_figure() -> None:
    objects = rendered("overlays/keda")
    for one in of_kind(objects, "ScaledObject"):
        pool = named(objects, "Deployment", one["spec"]["scaleTargetRef"]["name"])
        (trigger,) = one["spec"]["triggers"]
        asked = re.fullmatch(
            r'sum\(provider:gateway_jobs:sum\{namespace="([a-z-]+)",provider=~?"([a-z_|]+)"\}\)',
            trigger["metadata"]["query"],
        )

        assert asked is not None
        assert asked[1] == pool["metadata"]["namespace"]
        assert set(asked[2].split("|")) == providers_of(pool)
        assert ("=~" in trigger["metadata"]["query"]) == (len(providers_of(pool)) > 1)
        assert Fraction(trigger["metadata"]["threshold"]) == target_of(objects)
        assert trigger["metadata"]["ignoreNullValues"] == "false"


def test_keda_looks_into_the_very_keys_of_the_queue() -> None:
    objects = rendered("overlays/keda-streams")
    assert "HEADRACE_QUEUE__SHARDS" not in settings_of(objects)
    window = Settings.model_fields["queue"].default.ready_window
    for one in of_kind(objects, "ScaledObject"):
        pool = named(objects, "Deployment", one["spec"]["scaleTargetRef"]["name"])
        looks: dict[str, set[str]] = {"lag": set(), "pending": set(), "backlog": set()}
        for trigger in one["spec"]["triggers"]:
            facts: dict[str, Any] = trigger["metadata"]
            if trigger["type"] == "redis":
                looks["backlog"].add(facts["listName"])
                assert Fraction(facts["listLength"]) == target_of(objects)
                continue
            assert facts["consumerGroup"] == keyspace.GROUP
            if "lagCount" in facts:
                looks["lag"].add(facts["stream"])
                assert facts["activationLagCount"] == "0"
                # A lane holds no more than the window, so a larger figure would never ask for a second pod.
                assert int(facts["lagCount"]) <= window / 4
            else:
                looks["pending"].add(facts["stream"])
                assert Fraction(facts["pendingEntriesCount"]) == target_of(objects)
        places = [(provider, lane) for provider in providers_of(pool) for lane in Lane]
        lanes = {keyspace.lane(0, provider, lane) for provider, lane in places}

        assert looks["lag"] == looks["pending"] == lanes
        assert looks["backlog"] == {keyspace.backlog(0, provider, lane) for provider, lane in places}
