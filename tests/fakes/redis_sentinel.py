"""A real master with replicas, and sentinels that replace it when it dies."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from redis.exceptions import RedisError

from tests.fakes import server_binaries
from tests.fakes.redis_server import RedisServer, call
from tests.fakes.server_process import START_SECONDS, ServerProcess, free_port

DOWN_AFTER_MS: Final = 500
"""After so long without an answer a master counts as dead."""
_FAILOVER_TIMEOUT_MS: Final = 1_000
"""After twice as long sentinels that could not agree vote again."""
_NAME: Final = "mymaster"


class RedisSentinel:
    """`start()` returns once the sentinels know each other and the replicas are in step."""

    def __init__(self, *, replicas: int = 2, sentinels: int = 3) -> None:
        self.servers = [RedisServer() for _ in range(1 + replicas)]
        self.data_dir = Path(tempfile.mkdtemp(prefix="headrace-sentinel-"))
        self.sentinel_ports = [free_port() for _ in range(sentinels)]
        self._sentinels: list[ServerProcess] = []

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.sentinel_ports)
        return f"redis-sentinel://{hosts}/{_NAME}/0"

    @property
    def master(self) -> RedisServer:
        """As most sentinels say."""
        ports = [port for at in self.sentinel_ports if (port := self._master_port(at)) is not None]
        port = max(set(ports), key=ports.count)
        return next(server for server in self.servers if server.port == port)

    def start(self) -> None:
        for server in self.servers:
            server.start()
        master, *replicas = self.servers
        for replica in replicas:
            replica.call("REPLICAOF", "127.0.0.1", master.port)
        for port in self.sentinel_ports:
            self._sentinels.append(self._sentinel(port, master))
            self._sentinels[-1].start()
        self.wait_whole(replicas=len(replicas))

    def wait_whole(self, *, replicas: int) -> None:
        """Until every sentinel knows the others and so many replicas, all of them in step."""

        def whole() -> bool:
            for port in self.sentinel_ports:
                flat = call(port, "SENTINEL", "MASTER", _NAME)
                facts = dict(zip(flat[::2], flat[1::2], strict=True))
                if (int(facts["num-other-sentinels"]), int(facts["num-slaves"])) != (
                    len(self.sentinel_ports) - 1,
                    replicas,
                ):
                    return False
            roles = [server.call("ROLE") for server in self.servers if server.is_running]
            in_step = sum(role[0] == "slave" and role[3] == "connected" for role in roles)
            return bool(in_step == replicas)

        _wait(whole, "the sentinels to know everybody")

    def kill9(self) -> None:
        for sentinel in self._sentinels:
            sentinel.kill9()
        for server in self.servers:
            server.kill9()

    def stop(self, *, forget: bool = False) -> None:
        self.kill9()
        for server in self.servers:
            server.stop(forget=forget)
        if forget:
            shutil.rmtree(self.data_dir, ignore_errors=True)

    def wait_for_another_master(self, old: RedisServer) -> RedisServer:
        """Returns once most sentinels name another one, and that one takes writes."""

        def promoted() -> bool:
            return self.master is not old and bool(self.master.call("ROLE")[0] == "master")

        _wait(promoted, "another master")
        return self.master

    def _master_port(self, sentinel: int) -> int | None:
        try:
            return int(call(sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", _NAME)[1])
        except RedisError:
            return None

    def _sentinel(self, port: int, master: RedisServer) -> ServerProcess:
        folder = self.data_dir / str(port)
        folder.mkdir()
        configuration = folder / "sentinel.conf"
        configuration.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {folder}\n"
            f"sentinel monitor {_NAME} 127.0.0.1 {master.port} {len(self.sentinel_ports) // 2 + 1}\n"
            f"sentinel down-after-milliseconds {_NAME} {DOWN_AFTER_MS}\n"
            f"sentinel failover-timeout {_NAME} {_FAILOVER_TIMEOUT_MS}\n"
        )
        return ServerProcess(
            [str(server_binaries.redis_server()), str(configuration), "--sentinel"],
            ready="Sentinel ID is",
            cwd=folder,
        )


def _wait(look: Callable[[], object], what: str) -> None:
    give_up_at = time.monotonic() + START_SECONDS
    while True:
        with contextlib.suppress(RedisError):
            if look():
                return
        if time.monotonic() > give_up_at:
            raise AssertionError(f"waited in vain for {what}")
        time.sleep(0.02)
