"""`headrace up` and the README, as a newcomer meets them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
import redis

import cli.up
from shared.crypto import public_half
from shared.settings import load_settings
from tests.fakes import fork_server
from tests.fakes.server_binaries import redis_server

ROOT = Path(__file__).parents[2]
_KEY = re.compile(r"API key: (\S+)")


def newcomers_environment() -> dict[str, str]:
    """Nothing configured, and on PATH the redis-server that the tests are run on."""
    inherited = {k: v for k, v in os.environ.items() if not k.endswith(("_URL", "_API_KEY", "_TOKEN"))}
    path = os.pathsep.join([str(redis_server().parent), os.environ.get("PATH", os.defpath)])
    return {**inherited, "PATH": path, "PYTHONPATH": str(ROOT)}


class Up:
    """`headrace up` in a folder of its own, with nothing configured."""

    def __init__(self, folder: Path, port: int, **environment: str) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cli", "up"],
            cwd=folder,
            env={**newcomers_environment(), "PORT": str(port), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.banner = self._read_until("Ctrl-C drains and stops.")
        self.key = _KEY.findall(self.banner)[0]

    def _read_until(self, line: str) -> str:
        assert self.process.stdout is not None
        seen = []
        for text in self.process.stdout:
            seen.append(text)
            if line in text:
                return "".join(seen)
        raise AssertionError("".join(seen))

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def interrupt(self) -> int:
        """Ctrl-C; the exit code once everything has drained."""
        self.process.send_signal(signal.SIGINT)
        self.process.communicate(timeout=60)
        return self.process.returncode


@pytest.fixture(scope="module")
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free: int = probe.getsockname()[1]
        return free


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("newcomer")


@pytest.fixture(scope="module")
def up(folder: Path, port: int) -> Iterator[Up]:
    started = Up(folder, port)
    yield started
    if started.process.poll() is None:
        started.interrupt()


def headrace(*words: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return fork_server.run(
        *words, environment={**newcomers_environment(), **environment}, folder=folder, timeout=30
    )


pytestmark = pytest.mark.xdist_group("up")


def ask(up: Up) -> httpx.Response:
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}
    headers = {"Authorization": f"Bearer {up.key}"}
    return httpx.post(f"{up.url}/v1/chat/completions", json=body, headers=headers, timeout=30)


def test_the_printed_curl_line_answers(up: Up) -> None:
    command = up.banner[up.banner.index("curl ") : up.banner.index("\n\nCtrl-C")]

    done = subprocess.run(
        shlex.split(command.replace("\\\n", " ")), capture_output=True, text=True, timeout=30, check=False
    )

    assert "You said: Hello" in done.stdout, done


@pytest.mark.parametrize(
    ("client", "printed"),
    [("openai", ["You said: Hello", "You said: Hello"]), ("anthropic", ["You said: Hello"])],
)
def test_the_readme_example_runs(up: Up, client: str, printed: list[str]) -> None:
    examples = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    [example] = [text for text in examples if f"from {client} import" in text]

    done = subprocess.run(
        [sys.executable, "-c", example],
        env={**os.environ, "HEADRACE_URL": up.url, "HEADRACE_API_KEY": up.key},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == printed


def test_a_child_that_is_killed_is_started_again(up: Up) -> None:
    worker = next(child for child in up.children() if child.cmdline()[-1:] == ["worker"])

    worker.kill()
    answer = ask(up)

    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"] == "You said: Hello"


def test_a_second_one_on_the_same_folder_says_so_in_one_line(up: Up, folder: Path) -> None:
    done = headrace("up", folder=folder)

    assert done.returncode == os.EX_UNAVAILABLE
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Another" in done.stderr


def test_its_redis_asks_for_a_password_that_no_command_line_shows(up: Up, folder: Path) -> None:
    url = (folder / ".headrace" / "redis-url").read_text()
    password = (folder / ".headrace" / "redis-password").read_text()

    with (
        redis.Redis.from_url(url.replace(f":{password}@", "")) as stranger,
        pytest.raises(redis.AuthenticationError),
    ):
        stranger.ping()
    with redis.Redis.from_url(url) as friend:
        assert friend.ping()
    assert not any(password in " ".join(child.cmdline()) for child in up.children())


def test_only_the_worker_has_what_opens_the_accounts_own_keys(up: Up, folder: Path) -> None:
    private = (folder / ".headrace" / "master-key").read_text()
    environments = {child.cmdline()[-1]: child.environ() for child in up.children()}

    assert [name for name, environment in environments.items() if private in environment.values()] == [
        "worker"
    ]
    assert environments["api"]["HEADRACE_MASTER_PUBLIC_KEY"] == public_half(private)
    assert (folder / ".headrace" / "master-key").stat().st_mode & 0o777 == 0o600


def test_others_can_read_nothing_in_the_data_folder(up: Up, folder: Path) -> None:
    data = folder / ".headrace"

    assert data.stat().st_mode & 0o077 == 0
    for name in ("headrace.db", "redis.conf", "redis-url", "redis-password", "key-pepper", "api-key"):
        assert (data / name).stat().st_mode & 0o077 == 0, name


def test_a_revoked_key_is_refused_at_once(up: Up, folder: Path) -> None:
    [made] = [json.loads(headrace("keys", "create", "--name", "ci", "--json", folder=folder).stdout)]
    headers = {"Authorization": f"Bearer {made['key']}"}
    before = httpx.get(f"{up.url}/v1/models", headers=headers)

    revoked = json.loads(headrace("keys", "revoke", made["id"], "--json", folder=folder).stdout)
    deadline = time.monotonic() + 5
    while (after := httpx.get(f"{up.url}/v1/models", headers=headers)).status_code == 200:
        assert time.monotonic() < deadline
        time.sleep(0.05)

    assert before.status_code == 200
    assert revoked["announced"]
    assert after.status_code == 401


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGHUP])
def test_no_child_outlives_it(how: signal.Signals, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    started = Up(tmp_path, free)
    children = started.children()

    started.process.send_signal(how)
    started.process.communicate(timeout=60)
    _, left = psutil.wait_procs(children, timeout=40)

    assert len(children) >= 5
    assert left == []
    assert started.process.returncode == (0 if how == signal.SIGHUP else -how)


@pytest.mark.parametrize("command", ["up", "api", "worker", "scheduler"])
@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HEADRACE_API__ALLOWED_HOSTS", "api.example.com"),
        ("OPENAI_BASE_URL", "ftp://x"),
        ("HEADRACE_PROVIDERS_FILE", "missing.toml"),
        ("HEADRACE_CATALOGUE_FILE", "missing.toml"),
        ("FAULTPOINTS", "W3@x"),
        ("REDIS_URL", "localhost:6379"),
        ("HEADRACE_ADMIN_EMAIL", "root@example.com"),
    ],
)
def test_bad_configuration_is_one_line_that_names_it(
    command: str, variable: str, value: str, tmp_path: Path
) -> None:
    usable = {"REDIS_URL": "redis://127.0.0.1:1", "HEADRACE_KEY_PEPPER": "p" * 32}

    done = headrace(command, folder=tmp_path, **{**usable, variable: value})

    assert done.returncode == os.EX_CONFIG
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert variable in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("email", "password", "named"),
    [
        ("root", "correct horse battery", "HEADRACE_ADMIN_EMAIL: "),
        ("root@example.com", "short", "HEADRACE_ADMIN_PASSWORD: "),
    ],
)
def test_a_first_operator_that_cannot_be_one_is_one_line(
    email: str, password: str, named: str, tmp_path: Path
) -> None:
    done = headrace("up", folder=tmp_path, HEADRACE_ADMIN_EMAIL=email, HEADRACE_ADMIN_PASSWORD=password)

    assert done.returncode == os.EX_CONFIG
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(named)
    assert password not in line


@pytest.mark.parametrize("command", ["up", "api"])
@pytest.mark.parametrize(("model", "provider"), [("vllm/house-7b", "openai"), ("gpt-4o-mni", "")])
def test_a_routing_file_that_names_nobody_is_one_line(
    command: str, model: str, provider: str, tmp_path: Path
) -> None:
    file = tmp_path / "routing.toml"
    file.write_text(f'[routes.house]\ntargets = ["{model}"]\n', encoding="utf-8")
    usable = {"REDIS_URL": "redis://127.0.0.1:1", "HEADRACE_KEY_PEPPER": "p" * 32}
    key = {"OPENAI_API_KEY": "sk-of-somebody"} if provider else {}

    done = headrace(command, folder=tmp_path, HEADRACE_ROUTING_FILE=str(file), **usable, **key)

    assert done.returncode == os.EX_CONFIG
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f"HEADRACE_ROUTING_FILE: {file}: routes.house.targets: ")
    assert repr(model) in line


def test_without_a_redis_server_it_says_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.setattr(cli.up, "find_redis_server", lambda: None)

    code = asyncio.run(cli.up.run(load_settings()))

    assert code == os.EX_UNAVAILABLE
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "apt-get install redis-server" in said
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_drains_exits_0_leaves_no_process_and_keeps_the_key(up: Up, folder: Path, port: int) -> None:
    children = up.children()

    code = up.interrupt()
    left = [child for child in children if child.is_running() and child.status() != "zombie"]
    again = Up(folder, port)
    answer = ask(again)

    assert code == 0
    assert len(children) >= 5
    assert left == []
    assert again.key == up.key
    assert answer.status_code == 200
    assert again.interrupt() == 0


def test_a_port_in_use_is_said_in_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = headrace("up", folder=tmp_path, PORT=str(taken.getsockname()[1]))

    assert done.returncode == os.EX_UNAVAILABLE
    assert len(done.stderr.strip().splitlines()) == 1
    assert "PORT=" in done.stderr


@pytest.mark.parametrize("process", ["api", "worker", "scheduler"])
def test_a_process_without_redis_url_names_it_and_exits_78(process: str, tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "REDIS_URL"}

    done = subprocess.run(
        [sys.executable, "-m", "cli", process],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(ROOT), "HEADRACE_KEY_PEPPER": "p" * 32},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert done.returncode == os.EX_CONFIG
    assert "REDIS_URL" in done.stderr


@pytest.mark.parametrize(
    "command", re.findall(r"^\$ (make help)$", (ROOT / "README.md").read_text(), re.MULTILINE)
)
def test_commands_of_the_readme_run(command: str) -> None:
    done = subprocess.run(
        shlex.split(command), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 0
    assert "run " in done.stdout
