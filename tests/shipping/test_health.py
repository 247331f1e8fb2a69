"""`headrace health`: what a container's health check hears of the process beside it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest
from typer.testing import CliRunner, Result

from cli.health import app
from tests.fakes.server_process import free_port


class Process(BaseHTTPRequestHandler):
    """Alive and not ready."""

    answers: ClassVar = {"/health/live": (200, "ok"), "/health/ready": (503, "draining")}

    def do_GET(self) -> None:
        status, word = self.answers[self.path]
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps({"status": word}).encode())

    def log_message(self, *_: object) -> None:
        """Nothing: tests are quiet."""


@pytest.fixture
def port() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Process)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


def health(*options: str, **environment: object) -> Result:
    named = {name: str(value) for name, value in environment.items()}
    return CliRunner().invoke(app, ["health", *options], env=named)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_an_api_is_asked_on_its_port(port: int, host: str) -> None:
    found = health(PORT=port, HOST=host)

    assert (found.exit_code, found.stdout) == (
        0,
        f'http://127.0.0.1:{port}/health/live: 200 {{"status": "ok"}}\n',
    )


def test_a_worker_is_asked_on_the_port_of_its_metrics(port: int) -> None:
    assert health(PORT=free_port(), HEADRACE_METRICS_PORT=port).exit_code == 0


def test_alive_is_not_ready(port: int) -> None:
    found = health("--ready", PORT=port)

    assert found.exit_code == 1
    assert "503" in found.stderr
    assert "draining" in found.stderr


def test_where_nothing_listens_nothing_is_well() -> None:
    free = free_port()

    found = health(PORT=free)

    assert (found.exit_code, found.stderr) == (1, f"Nothing listens on http://127.0.0.1:{free}.\n")


def test_a_process_that_does_not_answer_is_not_well() -> None:
    listener = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import socket; s = socket.create_server(('127.0.0.1', 0)); "
            "print(s.getsockname()[1], flush=True); input()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with listener:
        assert listener.stdout is not None
        silent = int(listener.stdout.readline())

        found = health("--timeout", "0.2", PORT=silent)

        listener.kill()
    assert found.exit_code == 1
    assert "TimeoutError" in found.stderr


@pytest.mark.parametrize(
    "url", ["localhost", "ftp://localhost", "http://u:p@host", "http://host/path", "http://h:x"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    found = health("--url", url)

    assert found.exit_code == 64
    assert found.stderr.startswith("--url:")


def test_another_place_may_be_named(port: int) -> None:
    assert health("--url", f"http://localhost:{port}", PORT=free_port()).exit_code == 0


def test_the_probe_loads_no_other_command(port: int) -> None:
    code = (
        "import sys; sys.argv = ['headrace', 'health', '--url', sys.argv[1]]\n"
        "from cli.__main__ import main\n"
        "try: main()\n"
        "except SystemExit as ended: print(ended.code, {'cli.main', 'sqlalchemy'} & {*sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, f"http://127.0.0.1:{port}"], capture_output=True, text=True, check=True
    )

    assert done.stdout.splitlines()[-1] == "0 set()"
