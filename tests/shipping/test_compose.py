"""docker-compose.yml without a container engine: its schema, what it promises, and its commands as processes.

What compose would give each service, the last test gives to processes of this machine: the same commands,
the same variables, with hosts and ports in place of names.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import yaml
from pydantic import AliasChoices, BaseModel

from cli.up import scripted_environment
from deploy.grafana.build import DASHBOARDS, document
from shared.providers.registry import BUILT_IN
from shared.settings import Settings
from tests.fakes import server_binaries
from tests.fakes.eventually import eventually
from tests.fakes.postgres_server import PostgresServer
from tests.fakes.server_process import free_port
from tests.fakes.tool_binaries import PROMTOOL
from tests.shipping import compose, dockerfile
from tests.shipping.compose import BASE, DEMO, ROOT
from tests.shipping.published_schemas import assert_fits

SECRETS: Final = (
    *("POSTGRES_PASSWORD", "REDIS_PASSWORD", "HEADRACE_KEY_PEPPER", "JWT_SECRET", "HEADRACE_ADMIN_TOKEN"),
    *("GRAFANA_PASSWORD", "GRAFANA_DATABASE_PASSWORD"),
)
BROKERS: Final = ("migrate", "api", "worker", "scheduler")
PROCESSES: Final = ("api", "worker", "scheduler")
# Processes boot at their own pace on a machine that is busy.
pytestmark = pytest.mark.timeout(300)

FOR_WORKERS: Final = {"HEADRACE_MASTER_KEY"} | {
    name for profile in BUILT_IN.values() for name in profile.key_variables
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What make-env.sh needs of one."""
    (tmp_path / "deploy" / "compose").mkdir(parents=True)
    shutil.copy(ROOT / "deploy" / "compose" / "make-env.sh", tmp_path / "deploy" / "compose")
    return tmp_path


def make_env(checkout: Path) -> dict[str, str]:
    subprocess.run([checkout / "deploy" / "compose" / "make-env.sh"], check=True)
    return compose.env_file(checkout / ".env")


def services(*files: Path, **variables: str) -> dict[str, Any]:
    known = {name: secrets.token_hex(16) for name in SECRETS}
    found: dict[str, Any] = compose.read(*(files or (BASE,)), variables={**known, **variables})["services"]
    return found


def settings_names() -> set[str]:
    names: set[str] = set()
    for name, field in Settings.model_fields.items():
        alias = field.validation_alias
        if isinstance(field.default, BaseModel):
            group = type(field.default).model_fields
            names |= {f"HEADRACE_{name}__{inner}".upper() for inner in group}
        elif isinstance(alias, AliasChoices):
            names |= {str(choice) for choice in alias.choices}
        else:
            names.add(str(alias or f"HEADRACE_{name.upper()}"))
    return names


@pytest.mark.parametrize("file", [BASE, DEMO], ids=lambda file: file.name)
def test_each_file_is_what_compose_reads(file: Path) -> None:
    assert_fits("vendor.compose-spec", file)


def test_every_variable_that_a_process_gets_is_a_setting() -> None:
    found = services(BASE, DEMO)

    for name in BROKERS:
        assert set(found[name]["environment"]) <= settings_names(), name


def test_only_workers_get_providers_keys_and_what_opens_the_accounts_own() -> None:
    found = services(BASE, DEMO)

    assert set(found["worker"]["environment"]) >= {
        "HEADRACE_MASTER_KEY",
        *(profile.key_variables[0] for profile in BUILT_IN.values()),
    }
    for name in {*found} - {"worker"}:
        assert not FOR_WORKERS & set(found[name].get("environment", {})), name


def test_what_is_given_from_outside_reaches_them() -> None:
    found = services(OPENAI_API_KEY="sk-1", VLLM_BASE_URL="http://gpu:8000/v1", PORT="3001")

    assert found["worker"]["environment"]["OPENAI_API_KEY"] == "sk-1"
    assert found["api"]["environment"]["VLLM_BASE_URL"] == "http://gpu:8000/v1"
    assert found["api"]["ports"] == ["127.0.0.1:3001:8000", "127.0.0.1:8001:9100"]
    assert found["api"]["environment"]["PORT"] == "8000"


def test_all_of_them_are_as_closed_as_they_can_be() -> None:
    for name, service in services(BASE, DEMO).items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert int(service["user"].split(":")[0]) > 0, name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert re.search(r":\d[^:]*$|:v\d[^:]*$", service["image"]), name


def test_data_is_on_a_network_without_the_world_and_in_volumes() -> None:
    document = compose.read(BASE, variables=dict.fromkeys(SECRETS, "x"))

    for name in ("postgres", "redis"):
        assert document["services"][name]["networks"] == ["inside"]
        assert not document["services"][name].get("ports")
    assert document["networks"]["inside"]["internal"] is True
    mounted = {
        volume.split(":")[0]
        for service in document["services"].values()
        for volume in service.get("volumes", [])
        if isinstance(volume, str)
    }
    assert mounted == set(document["volumes"])


def test_every_file_that_is_mounted_is_there() -> None:
    sources = [
        volume["source"]
        for service in services().values()
        for volume in service.get("volumes", [])
        if isinstance(volume, dict)
    ]

    assert len(sources) == 5
    for source in sources:
        assert (ROOT / source).exists(), source


def test_each_process_is_given_longer_than_it_drains() -> None:
    found, settings = services(), Settings(_env_file=None)

    api = settings.api.pre_stop_seconds + settings.api.drain_seconds
    assert compose.seconds(found["api"]["stop_grace_period"]) >= api + 5
    assert compose.seconds(found["worker"]["stop_grace_period"]) >= settings.worker.drain_seconds + 10
    assert compose.seconds(found["scheduler"]["stop_grace_period"]) >= 10


def test_nothing_serves_before_the_database_is_migrated_and_redis_answers() -> None:
    found = services(BASE, DEMO)

    for name in PROCESSES:
        assert found[name]["depends_on"]["migrate"]["condition"] == "service_completed_successfully"
        assert found[name]["depends_on"]["redis"]["condition"] == "service_healthy"
    assert found["migrate"]["depends_on"]["postgres"]["condition"] == "service_healthy"
    for service in found.values():
        for other, how in service.get("depends_on", {}).items():
            checked = found[other].get("healthcheck", {}).get("test")
            assert checked or how["condition"] != "service_healthy", other


def test_the_scripted_provider_stands_in_for_all_ten() -> None:
    worker = services(BASE, DEMO)["worker"]["environment"]

    assert scripted_environment("http://provider:9101").items() <= worker.items()


def test_without_secrets_it_says_how_to_get_some() -> None:
    with pytest.raises(compose.Missing, match=r"run deploy/compose/make-env\.sh first"):
        compose.read(BASE, variables={})


def test_secrets_are_made_once_for_their_owner_alone(checkout: Path) -> None:
    first, again = make_env(checkout), make_env(checkout)

    assert first == again
    assert set(first) == {*SECRETS, "COMPOSE_FILE"}
    assert len({first[name] for name in SECRETS}) == len(SECRETS)
    assert all(re.fullmatch("[0-9a-f]{64}", first[name]) for name in SECRETS)
    assert (checkout / ".env").stat().st_mode & 0o777 == 0o600
    for file in first["COMPOSE_FILE"].split(":"):
        assert (ROOT / file).is_file()


def test_what_is_in_the_file_stays_and_a_key_calls_for_the_real_providers(checkout: Path) -> None:
    (checkout / ".env").write_text("PORT=3001\nJWT_SECRET=mine\nHEADRACE_ADMIN_TOKEN=\nOPENAI_API_KEY=sk-1")

    made = make_env(checkout)

    assert (made["PORT"], made["JWT_SECRET"], made["OPENAI_API_KEY"]) == ("3001", "mine", "sk-1")
    assert len(made["HEADRACE_ADMIN_TOKEN"]) == 64
    assert "COMPOSE_FILE" not in made


def test_prometheus_takes_its_configuration_and_finds_the_ports_that_are_served() -> None:
    file = ROOT / "deploy" / "compose" / "prometheus.yml"
    done = subprocess.run(
        [PROMTOOL.path(), "check", "config", "--syntax-only", file],
        capture_output=True,
        text=True,
        check=False,
    )
    found = services()
    scraped = {
        where["names"][0]: where["port"]
        for job in yaml.safe_load(file.read_text())["scrape_configs"]
        for where in job.get("dns_sd_configs", [])
    }

    assert done.returncode == 0, done.stdout + done.stderr
    assert set(scraped) == set(PROCESSES)
    assert str(scraped["api"]) == found["api"]["environment"]["HEADRACE_ADMIN_PORT"]
    for name in ("worker", "scheduler"):
        assert str(scraped[name]) == found[name]["environment"]["HEADRACE_METRICS_PORT"]


def test_grafana_is_provisioned_from_what_is_mounted() -> None:
    folder = ROOT / "deploy" / "compose" / "grafana" / "provisioning"
    provisioned = [yaml.safe_load(file.read_text()) for file in sorted((folder / "datasources").iterdir())]
    sources = {one["uid"]: one for document in provisioned for one in document["datasources"]}
    boards = yaml.safe_load((folder / "dashboards" / "headrace.yml").read_text())
    mounted = {v["target"] for v in services()["grafana"]["volumes"] if isinstance(v, dict)}

    assert {one["apiVersion"] for one in (*provisioned, boards)} == {1}
    assert {uid: one["url"] for uid, one in sources.items()} == {
        "prometheus": "http://prometheus:9090",
        "postgres": "postgres:5432",
    }
    # What each dashboard asks for is there.
    for board in DASHBOARDS:
        (asked,) = [
            one["query"] for one in document(board)["templating"]["list"] if one["type"] == "datasource"
        ]
        assert asked in {one["type"] for one in sources.values()}
    assert boards["providers"][0]["options"]["path"] in mounted
    assert "/etc/grafana/provisioning" in mounted


def test_grafana_reaches_the_database_as_a_role_that_reads_usage_alone() -> None:
    found = services(GRAFANA_DATABASE_PASSWORD="of-the-reader")
    provisioning = ROOT / "deploy" / "compose" / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "postgres.yml").read_text())["datasources"]
    grafana, reader, database = found["grafana"], found["reader"], found["postgres"]["environment"]
    (script,) = [volume for volume in reader["volumes"] if isinstance(volume, dict)]

    assert set(grafana["networks"]) >= set(found["postgres"]["networks"])
    assert source["jsonData"]["database"] == reader["environment"]["PGDATABASE"] == database["POSTGRES_DB"]
    assert reader["environment"]["PGUSER"] == database["POSTGRES_USER"] != source["user"]
    sql = (ROOT / script["source"]).read_text()
    assert f"CREATE ROLE {source['user']};" in sql
    (limit,) = re.findall(r"CONNECTION LIMIT (\d+);", sql)
    assert 1 <= source["jsonData"]["maxIdleConns"] <= source["jsonData"]["maxOpenConns"] < int(limit)
    # Grafana closes them before PostgreSQL does, which it would take for an error.
    (minutes,) = re.findall(r"SET idle_session_timeout = '(\d+)min'", sql)
    assert source["jsonData"]["connMaxLifetime"] < int(minutes) * 60
    assert f"--file={script['target']}" in reader["command"]
    variable = source["secureJsonData"]["password"].removeprefix("$")
    assert grafana["environment"][variable] == "of-the-reader"
    assert reader["environment"]["PGOPTIONS"] == "-c headrace.reader_password=of-the-reader"
    assert reader["environment"]["PGPASSWORD"] == database["POSTGRES_PASSWORD"] not in str(grafana)


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/ready", trust_env=False, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def test_the_page_names_settings_and_files_that_there_are() -> None:
    page = (ROOT / "docs" / "operations" / "containers.md").read_text(encoding="utf-8")
    composed = BASE.read_text(encoding="utf-8")

    assert set(re.findall(r"\bHEADRACE_[A-Z_]+\b", page)) - {"HEADRACE_API_KEY"} <= settings_names()
    for name in ("PORT", "PROMETHEUS_PORT", "GRAFANA_PORT"):
        assert f"`{name}" in page
        assert name in compose.variables_of(composed)
    for link in re.findall(r"\]\(([^)#:]+)\)", page):
        assert (ROOT / "docs" / "operations" / link).exists(), link
    for name in re.findall(r"^make ([a-z]+)$", page, re.MULTILINE):
        assert f"\n{name}:" in (ROOT / "Makefile").read_text(encoding="utf-8")


class Composed:
    """Services as processes: each with its command and its variables, and places for names."""

    def __init__(self, found: dict[str, Any], places: dict[str, str], folder: Path) -> None:
        self.found, self.places, self.folder = found, places, folder
        # Of the compose file, and of the image: without a .env, which is not in it either.
        image = dockerfile.environment(dockerfile.stages((ROOT / "Dockerfile").read_text())[1])
        self.image = {**image, "HEADRACE_DATA_DIR": str(folder / "data")}
        self.ports: dict[str, int] = {}

    def environment(self, name: str) -> dict[str, str]:
        given = {**self.image, **self.found[name].get("environment", {})}
        for variable in ("PORT", "HEADRACE_ADMIN_PORT", "HEADRACE_METRICS_PORT"):
            if variable in given:
                port = self.ports.setdefault(f"{name} {variable}", free_port())
                given[variable] = str(port)
        given = {variable: self._placed(str(value)) for variable, value in given.items()}
        bin_folder = Path(sys.prefix) / "bin"
        path = os.pathsep.join([str(bin_folder), str(self.folder / "bin"), os.environ["PATH"]])
        return {**given, "HOST": "127.0.0.1", "PATH": path, "PYTHONPATH": str(ROOT)}

    def start(self, name: str) -> subprocess.Popen[bytes]:
        command = self.found[name]["command"]
        program = command if name == "redis" else [sys.executable, "-m", "cli", *command]
        with (self.folder / f"{name}.log").open("w") as log:
            return subprocess.Popen(
                [self._placed(word) for word in program],
                env=self.environment(name),
                cwd=self.folder / "data",
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )

    def run(self, name: str, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words,
            env=self.environment(name),
            cwd=self.folder / "data",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def _placed(self, text: str) -> str:
        for name, place in self.places.items():
            text = text.replace(name, place)
        return text


@pytest.fixture
def composed(checkout: Path, postgres_server: PostgresServer) -> Iterator[Composed]:
    database = postgres_server.create_database()
    redis_port, provider_port = free_port(), free_port()
    for folder in ("data", "bin", "redis"):
        (checkout / folder).mkdir()
    (checkout / "bin" / "redis-server").symlink_to(server_binaries.redis_server())
    places = {
        "@postgres:5432/headrace": f"@127.0.0.1:{postgres_server.port}/{database}",
        "@redis:6379": f"@127.0.0.1:{redis_port}",
        "dir /data": f"dir {checkout / 'redis'}\nport {redis_port}\nbind 127.0.0.1",
        "http://provider:9101": f"http://127.0.0.1:{provider_port}",
        "0.0.0.0": "127.0.0.1",
        "9101": str(provider_port),
    }
    variables = make_env(checkout)
    files = [ROOT / file for file in variables["COMPOSE_FILE"].split(":")]
    yield Composed(compose.read(*files, variables=variables)["services"], places, checkout)
    postgres_server.drop_database(database)


async def test_what_compose_starts_answers_the_first_request_without_a_provider_s_key(
    composed: Composed,
) -> None:
    with ExitStack() as running:

        def start(name: str) -> None:
            process = composed.start(name)
            running.callback(process.wait, 60)
            running.callback(process.terminate)

        for name in ("redis", "provider"):
            start(name)
        migrated = composed.run("migrate", sys.executable, "-m", "cli", *composed.found["migrate"]["command"])
        assert migrated.returncode == 0, migrated.stderr
        for name in PROCESSES:
            start(name)
        api = f"http://127.0.0.1:{composed.ports['api PORT']}"
        await eventually(lambda: is_ready(api), "a ready api", within=90, every=0.1)
        health = composed.run("api", *composed.found["api"]["healthcheck"]["test"][1:])
        assert health.returncode == 0, health.stderr
        made = composed.run("api", "headrace", "keys", "create", "--name", "first", "--json")
        assert made.returncode == 0, made.stderr
        admin = f"http://127.0.0.1:{composed.ports['api HEADRACE_ADMIN_PORT']}"
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
            answer = await client.post(
                f"{api}/v1/chat/completions",
                headers={"Authorization": f"Bearer {json.loads(made.stdout)['key']}"},
                json={"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]},
            )
            outside, inside = await client.get(f"{api}/metrics"), await client.get(f"{admin}/metrics")

    assert answer.status_code == 200, answer.text + composed.log("worker")
    assert answer.json()["choices"][0]["message"]["content"]
    assert (outside.status_code, inside.status_code) == (404, 200)
    assert "gateway_" in inside.text
