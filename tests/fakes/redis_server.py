"""A real redis-server that tests may kill, freeze and start again."""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import redis

from tests.fakes import server_binaries
from tests.fakes.server_process import PORTS, ServerDidNotStart, ServerProcess, free_port


class RedisServer:
    """Keeps its port and its data folder over kills and restarts; `stop(forget=True)` deletes the data.

    `appendonly`: appends to a file synced every second, so that a killed server comes back with
    what it acknowledged. Without it a restart is an empty server.
    """

    def __init__(
        self,
        *,
        appendonly: bool = True,
        options: tuple[str, ...] = (),
        binary: Path | None = None,
        ports: range = PORTS,
    ) -> None:
        self._binary = binary or server_binaries.redis_server()
        self._appendonly = appendonly
        self._options = options
        self.data_dir = Path(tempfile.mkdtemp(prefix="headrace-redis-"))
        self._ports = ports
        self.port = free_port(ports)
        self._server = self._on(self.port)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def is_running(self) -> bool:
        return self._server.is_running

    @property
    def pid(self) -> int:
        return self._server.pid

    @property
    def output(self) -> list[str]:
        return list(self._server.output)

    def start(self, *, tries: int = 3) -> None:
        """Returns once it accepts connections, its data loaded."""
        self.data_dir.mkdir(exist_ok=True)
        for left in reversed(range(tries)):
            try:
                self._server.start()
            except ServerDidNotStart as failure:
                # Somebody took the port between our look and our start.
                if left == 0 or "Address already in use" not in str(failure):
                    raise
                self.port = free_port(self._ports)
                self._server = self._on(self.port)
            else:
                return

    def stop(self, *, forget: bool = False) -> None:
        self._server.stop()
        if forget:
            shutil.rmtree(self.data_dir, ignore_errors=True)

    def restart(self) -> None:
        self._server.restart()

    def kill9(self) -> None:
        self._server.kill9()

    def sigstop(self) -> None:
        self._server.sigstop()

    def sigcont(self) -> None:
        self._server.sigcont()

    def call(self, *command: str | int) -> Any:
        """Its answer as it came, as text. Raises RedisError."""
        return call(self.port, *command)

    def fill_to(self, percent: float) -> None:
        """By moving the limit: `maxmemory` becomes what makes the memory in use so many percent of it."""
        used = re.search(r"^used_memory:(\d+)", self.call("INFO", "memory"), re.MULTILINE)
        assert used is not None
        self.call("CONFIG", "SET", "maxmemory", int(int(used[1]) * 100 / percent))

    def refuse_writes(self) -> None:
        """As with a full disk: a snapshot that cannot be written, and MISCONF to whoever writes."""
        self._snapshot.mkdir()
        self.call("CONFIG", "SET", "save", "3600 1")
        self._save(status="err")

    def take_writes(self) -> None:
        self._snapshot.rmdir()
        self._save(status="ok")
        self.call("CONFIG", "SET", "save", "")
        self._snapshot.unlink()

    @property
    def _snapshot(self) -> Path:
        return self.data_dir / "dump.rdb"

    def _save(self, *, status: str) -> None:
        self.call("BGSAVE")
        give_up_at = time.monotonic() + 10
        while f"rdb_last_bgsave_status:{status}" not in self.call("INFO", "persistence"):
            if time.monotonic() > give_up_at:
                raise TimeoutError(f"no snapshot ended as {status!r}")
            time.sleep(0.005)

    def _on(self, port: int) -> ServerProcess:
        persistence = ("--appendonly", "yes", "--appendfsync", "everysec") if self._appendonly else ()
        return ServerProcess(
            [
                str(self._binary),
                *("--port", str(port), "--bind", "127.0.0.1", "--dir", str(self.data_dir)),
                *("--save", "", "--daemonize", "no", "--maxmemory-policy", "noeviction"),
                *persistence,
                *self._options,
            ],
            ready="Ready to accept connections",
            cwd=self.data_dir,
        )


def call(port: int, *command: str | int) -> Any:
    """The answer, as it came and as text, of the server on that port."""
    with redis.Redis(port=port, socket_timeout=10, decode_responses=True) as client:
        client.response_callbacks.clear()
        return client.execute_command(*command)
