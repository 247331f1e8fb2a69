"""nginx and HAProxy as real processes, on the example files that we ship.

Of a shipped file only addresses are changed: where it listens, and where its servers are.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.fakes.server_process import ServerProcess, free_port
from tests.fakes.tool_binaries import HAPROXY, NGINX

_ROOT: Final = Path(__file__).parents[2]
NGINX_FILE: Final = _ROOT / "deploy" / "nginx" / "headrace.conf"
HAPROXY_FILE: Final = _ROOT / "deploy" / "haproxy" / "haproxy.cfg"


class Balancer:
    """Between `start()` and `stop()`; `reload()` is what an operator does after a change."""

    name: str
    shipped: Path
    local: tuple[str, ...] = ("127.0.0.1:8000", "127.0.0.1:8001")
    """The servers in the shipped file."""

    def __init__(self, ports: Sequence[int]) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"headrace-{self.name}-"))
        self.port = free_port()
        self._ports = ports
        self._server = self._make()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def output(self) -> list[str]:
        return list(self._server.output)

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        self._server.kill9()

    def reload(self) -> None:
        raise NotImplementedError

    def _make(self) -> ServerProcess:
        raise NotImplementedError

    def _rendered(self, *edits: tuple[str, str]) -> str:
        text = self.shipped.read_text(encoding="utf-8")
        for before, port in zip(self.local, self._ports, strict=True):
            assert before in text
            text = text.replace(before, f"127.0.0.1:{port}")
        for before, after in edits:
            assert text.count(before) == 1, f"{before!r} is {text.count(before)} times in the file"
            text = text.replace(before, after)
        return text


class Nginx(Balancer):
    name = "nginx"
    shipped = NGINX_FILE

    def reload(self) -> None:
        os.kill(self._server.pid, signal.SIGHUP)

    def _make(self) -> ServerProcess:
        site = self._rendered(("listen 80;", f"listen 127.0.0.1:{self.port};"), ("/dev/stdout", "access.log"))
        return ServerProcess(
            [str(NGINX.path()), "-p", f"{self.folder}/", "-c", str(nginx_main(self.folder, site))],
            ready="start worker process",
            cwd=self.folder,
            stop_signal=signal.SIGQUIT,
        )


class HAProxy(Balancer):
    name = "haproxy"
    shipped = HAPROXY_FILE

    def reload(self) -> None:
        os.kill(self._server.pid, signal.SIGUSR2)

    def _make(self) -> ServerProcess:
        file = self.folder / "haproxy.cfg"
        text = self._rendered(("bind :80\n", f"bind 127.0.0.1:{self.port}\n"))
        file.write_text(text, encoding="utf-8")
        return ServerProcess(
            [str(HAPROXY.path()), "-W", "-f", str(file)],
            ready="Loading success",
            cwd=self.folder,
            stop_signal=signal.SIGUSR1,
        )


def nginx_main(folder: Path, site: str) -> Path:
    """An nginx.conf with `site` in its `http` block, as conf.d has it. What it writes is in `folder`."""
    (folder / "headrace.conf").write_text(site, encoding="utf-8")
    names = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "\n".join(f"    {name}_temp_path {folder}/{name};" for name in names)
    main = folder / "nginx.conf"
    main.write_text(
        # Root's workers would be somebody else's, who may not enter the folder.
        ("user root;\n" if os.geteuid() == 0 else "")
        + f"daemon off;\npid {folder}/nginx.pid;\nerror_log stderr notice;\nworker_processes 1;\n"
        + "worker_shutdown_timeout 660s;\nevents { worker_connections 4096; }\n"
        + f"http {{\n{temporary}\n    include {folder}/headrace.conf;\n}}\n",
        encoding="utf-8",
    )
    return main


def checked(command: Sequence[str]) -> str:
    """What the balancer says of a file; raises AssertionError where it finds fault with it."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said
