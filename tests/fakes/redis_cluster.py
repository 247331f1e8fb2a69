"""A real Redis Cluster: masters that share the slots evenly, each with as many replicas as asked.

It is made by commands alone (no redis-cli), so any redis-server of 6.2 or newer will do.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import redis
from redis.exceptions import RedisError

from shared import keyspace
from tests.fakes.redis_server import RedisServer
from tests.fakes.server_process import START_SECONDS

_NODE_TIMEOUT_MS: Final = 1_000
"""After so long a master that says nothing is replaced, about twice as long."""
_PORTS: Final = range(15_000, 22_000)
"""The bus of a node listens 10000 above its port: below the ephemeral range, that too."""


class RedisCluster:
    """`start()` returns once all nodes agree on who serves what, replicas in step."""

    def __init__(self, *, masters: int = 3, replicas: int = 0, options: tuple[str, ...] = ()) -> None:
        """`replicas`: of each master."""
        self._masters = masters
        self.data_dir = Path(tempfile.mkdtemp(prefix="headrace-cluster-"))
        cluster = ("--cluster-enabled", "yes", "--cluster-node-timeout", str(_NODE_TIMEOUT_MS))
        self.nodes = [
            RedisServer(options=(*cluster, "--cluster-config-file", "nodes.conf", *options), ports=_PORTS)
            for _ in range(masters * (1 + replicas))
        ]

    @property
    def url(self) -> str:
        return "redis-cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    @property
    def masters(self) -> list[RedisServer]:
        """The nodes that serve slots, as one that is up says."""
        ports = {int(port) for _, _, (_, port, *_), *_ in self.slots()}
        return [node for node in self.nodes if node.port in ports]

    def slots(self) -> list[Any]:
        """CLUSTER SLOTS of the first node that answers."""
        for node in self.nodes:
            with contextlib.suppress(RedisError):
                slots: list[Any] = node.call("CLUSTER", "SLOTS")
                return slots
        raise AssertionError("no node of the cluster answers")

    def owner(self, key: str) -> RedisServer:
        slot = keyspace.slot_of(key)
        for first, last, (_, port, *_), *_ in self.slots():
            if int(first) <= slot <= int(last):
                return next(node for node in self.nodes if node.port == int(port))
        raise AssertionError(f"nobody serves {key}")

    def replica_of(self, master: RedisServer) -> RedisServer:
        """One of its replicas."""
        for node in self.nodes:
            role = node.call("ROLE") if node.is_running else [""]
            if role[0] == "slave" and int(role[2]) == master.port:
                return node
        raise AssertionError("this master has no replica")

    def start(self) -> None:
        for node in self.nodes:
            node.start()
        if _facts(self.nodes[0])["cluster_slots_assigned"] == str(keyspace.SLOTS):
            self.wait_whole()  # it was started before
            return
        masters = self.nodes[: self._masters]
        bounds = [keyspace.SLOTS * at // self._masters for at in range(self._masters + 1)]
        for epoch, (node, (first, end)) in enumerate(zip(masters, itertools.pairwise(bounds), strict=True)):
            # Told apart from the start: nodes of one epoch would first have to agree on an order.
            node.call("CLUSTER", "SET-CONFIG-EPOCH", epoch + 1)
            node.call("CLUSTER", "ADDSLOTS", *range(first, end))
        for node in self.nodes[1:]:
            node.call("CLUSTER", "MEET", "127.0.0.1", masters[0].port)
        self._wait(lambda: all(self._knows_all(node) for node in self.nodes), "every node to know the others")
        for at, node in enumerate(self.nodes[self._masters :]):
            node.call("CLUSTER", "REPLICATE", masters[at % self._masters].call("CLUSTER", "MYID"))
        self.wait_whole()

    def wait_whole(self) -> None:
        """Until each node that is up says that all is well, and each replica is in step."""
        self._wait(
            lambda: all(_is_well(node) for node in self.nodes if node.is_running), "the cluster to be well"
        )

    def kill9(self) -> None:
        for node in self.nodes:
            node.kill9()

    def stop(self, *, forget: bool = False) -> None:
        self.kill9()
        for node in self.nodes:
            node.stop(forget=forget)
        if forget:
            shutil.rmtree(self.data_dir, ignore_errors=True)

    def flush(self) -> None:
        for node in self.masters:
            node.call("FLUSHALL")

    def fail_over(self, replica: RedisServer) -> None:
        """Its master steps back for it, and both agree."""
        replica.call("CLUSTER", "FAILOVER")
        self._wait(lambda: replica in self.masters, "the replica to be master")

    def stop_replicating(self, master: RedisServer) -> None:
        """It goes on for its clients; its replica, which may not connect to it any more, hears nothing."""
        with redis.Redis(port=master.port) as client, client.pipeline(transaction=False) as pipe:
            pipe.config_set("requirepass", "not for replicas")
            pipe.execute_command("CLIENT", "KILL", "TYPE", "replica")
            pipe.execute()

    def move_slot(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        """The slot is about to move: what is not at `source` is looked for at `target`."""
        target.call("CLUSTER", "SETSLOT", slot, "IMPORTING", source.call("CLUSTER", "MYID"))
        source.call("CLUSTER", "SETSLOT", slot, "MIGRATING", target.call("CLUSTER", "MYID"))

    def end_move(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        """All of its keys, and then the slot itself."""
        while keys := source.call("CLUSTER", "GETKEYSINSLOT", slot, 100):
            source.call("MIGRATE", "127.0.0.1", target.port, "", 0, 5_000, "KEYS", *keys)
        for node in (target, source, *self.masters):
            node.call("CLUSTER", "SETSLOT", slot, "NODE", target.call("CLUSTER", "MYID"))

    def _knows_all(self, node: RedisServer) -> bool:
        known: str = node.call("CLUSTER", "NODES")
        return len(known.splitlines()) == len(self.nodes) and "handshake" not in known

    def _wait(self, look: Callable[[], object], what: str) -> None:
        give_up_at = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(RedisError):
                if look():
                    return
            if time.monotonic() > give_up_at:
                raise AssertionError(f"waited in vain for {what}")
            time.sleep(0.02)


def _is_well(node: RedisServer) -> bool:
    if _facts(node)["cluster_state"] != "ok":
        return False
    role = node.call("ROLE")
    return bool(role[0] != "slave" or role[3] == "connected")


def _facts(node: RedisServer) -> dict[str, str]:
    text: str = node.call("CLUSTER", "INFO")
    return dict(line.split(":", 1) for line in text.split())
