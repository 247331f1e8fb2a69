"""`headrace up` and the README, as a newcomer meets them."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

ROOT = Path(__file__).parents[2]
_KEY = re.compile(r"API key: (\S+)")


class Up:
    """`headrace up` in a folder of its own, with nothing configured."""

    def __init__(self, folder: Path, port: int, **environment: str) -> None:
        inherited = {k: v for k, v in os.environ.items() if not k.endswith(("_URL", "_API_KEY"))}
        self.url = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cli", "up"],
            cwd=folder,
            env={**inherited, "PYTHONPATH": str(ROOT), "PORT": str(port), **environment},
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


def test_the_readme_example_for_the_openai_client_runs(up: Up) -> None:
    [example] = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)

    done = subprocess.run(
        [sys.executable, "-c", example],
        env={**os.environ, "HEADRACE_URL": up.url, "HEADRACE_API_KEY": up.key},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["You said: Hello", "You said: Hello"]


def test_a_child_that_is_killed_is_started_again(up: Up) -> None:
    worker = next(child for child in up.children() if child.cmdline()[-1:] == ["worker"])

    worker.kill()
    answer = ask(up)

    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"] == "You said: Hello"


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
        done = subprocess.run(
            [sys.executable, "-m", "cli", "up"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PORT": str(taken.getsockname()[1])},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

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
