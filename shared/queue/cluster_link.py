"""A link to a Redis Cluster: each command goes to the node that serves the slot of its key.

    execute ── slot ──> owner ──> reply
                 ^        ├─ MOVED: the owner is another one; there, and the map is read anew
                 │        ├─ ASK: this once at another node
                 └────────┴─ away, CLUSTERDOWN: raised (TRANSIENT), and the map is read anew meanwhile

One connection a node (ServerLink), so what one loop tick says to a node leaves in one write.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Any, Final

from redis.exceptions import AskError, ClusterDownError, MovedError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from shared import keyspace
from shared.queue.redis_link import RedisArg, RedisLink, ServerLink
from shared.queue.redis_url import Address, Cluster

_REDIRECTIONS: Final = 5
_LOOK_AGAIN_SECONDS: Final = 0.05
"""How long after one look at the cluster the next may begin: many callers fail at once."""
_STRAGGLERS_SECONDS: Final = 0.1
"""How long after the first node answered the others may: one that was cut off knows an old map."""

_KEYLESS: Final = frozenset(
    {"PING", "ECHO", "TIME", "INFO", "PUBLISH", "CONFIG", "CLUSTER", "CLIENT", "COMMAND", "SCRIPT", "DBSIZE"}
)
_KEY_AT: Final = {"EVALSHA": 3, "EVAL": 3, "XINFO": 2, "XGROUP": 2, "OBJECT": 2, "MEMORY": 2, "DEBUG": 2}


def slot_of(command: tuple[RedisArg, ...]) -> int | None:
    """None: any node can answer."""
    name = command[0]
    if name in {"XREADGROUP", "XREAD"}:
        key = command[command.index("STREAMS") + 1]
    elif name in _KEYLESS:
        return None
    else:
        at = _KEY_AT.get(str(name), 1)
        if len(command) <= at or (at == 3 and not int(command[2])):
            return None
        key = command[at]
    return keyspace.slot_of(key if isinstance(key, (str, bytes)) else str(key))


class ClusterMap:
    """Which node serves which slot, as the cluster last told. Shared by the links of a process."""

    def __init__(self, place: Cluster, *, timeout: float) -> None:
        self.place = place
        self.owners: list[Address | None] = [None] * keyspace.SLOTS
        self.masters: list[Address] = []
        self.suspects: set[Address] = set()
        """Nodes that failed since the last look."""
        self._nodes: list[Address] = []
        """Masters and replicas: whoever of them is alive can tell about the others."""
        self._timeout = timeout
        self._looking: asyncio.Task[None] | None = None
        self._look_again_at = 0.0
        self._forgetters: list[Callable[[set[Address]], None]] = []

    def on_change(self, forget: Callable[[set[Address]], None]) -> None:
        """`forget` is called with the nodes there are."""
        self._forgetters.append(forget)

    def no_longer_on_change(self, forget: Callable[[set[Address]], None]) -> None:
        if forget in self._forgetters:
            self._forgetters.remove(forget)

    async def owner(self, slot: int) -> Address:
        """Raises RedisError."""
        address = self.owners[slot]
        if address is None:
            await self.look()
            address = self.owners[slot]
            if address is None:
                raise RedisConnectionError(f"no node of the Redis Cluster serves slot {slot}")
        return address

    async def servers(self) -> list[Address]:
        """The masters. Raises RedisError."""
        if not self.masters:
            await self.look()
        return self.masters

    def moved(self, slot: int, owner: Address) -> None:
        self.owners[slot] = owner
        self.look_soon()

    def look_soon(self, suspect: Address | None = None) -> None:
        """In the background, and not too often."""
        if suspect is not None:
            self.suspects.add(suspect)
        if self._looking is None and asyncio.get_running_loop().time() >= self._look_again_at:
            self._start_looking()

    async def owner_after_look(self, slot: int) -> Address:
        """Where its owner failed a moment ago: as the look that this started will tell. Raises RedisError."""
        if self._looking is not None:
            with suppress(RedisError):
                await asyncio.shield(self._looking)
        return await self.owner(slot)

    async def look(self) -> None:
        """Raises RedisError when no node can be asked."""
        # Shielded: others wait for the same look.
        await asyncio.shield(self._looking or self._start_looking())

    async def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    def _start_looking(self) -> asyncio.Task[None]:
        self._looking = asyncio.create_task(self._look(), name="cluster-map")
        self._looking.add_done_callback(self._looked)
        return self._looking

    def _looked(self, task: asyncio.Task[None]) -> None:
        self._looking = None
        self.suspects.clear()
        self._look_again_at = asyncio.get_running_loop().time() + _LOOK_AGAIN_SECONDS
        if not task.cancelled():
            task.exception()

    async def _look(self) -> None:
        """Ask all nodes at once; the one that has heard of the latest election is believed."""
        addresses = list(dict.fromkeys([*self._nodes, *self.place.seeds]))
        asked = [asyncio.create_task(self._ask(address)) for address in addresses]
        told: list[tuple[int, Address, list[Any]]] = []
        waiting = set(asked)
        patience = self._timeout
        try:
            while waiting:
                done, waiting = await asyncio.wait(
                    waiting, timeout=patience, return_when=asyncio.FIRST_COMPLETED
                )
                if not done:
                    break
                told += [task.result() for task in done if task.exception() is None]
                if told:
                    patience = _STRAGGLERS_SECONDS
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        told = [answer for answer in told if answer[2]]
        if not told:
            raise RedisConnectionError(f"no node of the Redis Cluster at {self.place.shown()} can be asked")
        _, asked_at, slots = max(told, key=lambda answer: answer[0])
        self._learn(asked_at, slots)

    async def _ask(self, address: Address) -> tuple[int, Address, list[Any]]:
        """How many elections it has heard of, and its map."""
        node = ServerLink(self.place.url_of(address), timeout=self._timeout)
        try:
            info, slots = await asyncio.gather(
                node.execute("CLUSTER", "INFO"), node.execute("CLUSTER", "SLOTS")
            )
        finally:
            await node.close()
        facts = dict(line.split(b":", 1) for line in info.split() if b":" in line)
        return int(facts.get(b"cluster_current_epoch", 0)), address, slots

    def _learn(self, asked: Address, slots: list[Any]) -> None:
        owners: list[Address | None] = [None] * keyspace.SLOTS
        masters: dict[Address, None] = {}
        nodes: dict[Address, None] = {}
        for first, last, *servers in slots:
            addresses = [_address(server, asked) for server in servers]
            owners[first : last + 1] = [addresses[0]] * (last + 1 - first)
            masters[addresses[0]] = None
            nodes.update(dict.fromkeys(addresses))
        self.owners, self.masters, self._nodes = owners, list(masters), list(nodes)
        for forget in self._forgetters:
            forget(set(nodes))


def _address(server: list[Any], asked: Address) -> Address:
    """A node that does not know under which name it is reached names none: the one it was asked by."""
    host = server[0].decode() if server[0] else ""
    return (host if host not in {"", "?"} else asked[0], int(server[1]))


class ClusterLink(RedisLink):
    is_one_server = False

    def __init__(self, cluster: ClusterMap, *, timeout: float, owns_map: bool = False) -> None:
        """`timeout`: seconds a reply, or a connection attempt, may take."""
        self._map = cluster
        self._owns_map = owns_map
        self._timeout = timeout
        self._links: dict[Address, ServerLink] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._past_connections = 0
        self._closed = False
        self._first_asked = 0
        cluster.on_change(self._forget)

    async def execute(self, *args: RedisArg) -> Any:
        slot = slot_of(args)
        if slot is None:
            return await self._execute_anywhere(*args)
        address = self._map.owners[slot] or await self._map.owner(slot)
        if self._map.suspects and address in self._map.suspects:
            address = await self._map.owner_after_look(slot)
        asking = False
        for _ in range(_REDIRECTIONS):
            link = self._links.get(address) or self._link(address)
            try:
                return await (link.execute_asking(*args) if asking else link.execute(*args))
            except MovedError as moved:
                address, asking = (moved.host or address[0], moved.port), False
                self._map.moved(slot, address)
            except AskError as ask:
                address, asking = (ask.host or address[0], ask.port), True
            except (RedisConnectionError, RedisTimeoutError):
                self._map.look_soon(address)
                raise
            except ClusterDownError:
                self._map.look_soon()
                raise
        raise RedisConnectionError("the nodes of the Redis Cluster send one to another")

    async def execute_everywhere(self, *args: RedisArg) -> list[Any]:
        answers = await asyncio.gather(
            *(self._link(address).execute(*args) for address in await self._map.servers()),
            return_exceptions=True,
        )
        good = [answer for answer in answers if not isinstance(answer, BaseException)]
        if len(good) < len(answers):
            self._map.look_soon()
        if not good:
            raise next(answer for answer in answers if isinstance(answer, BaseException))
        return good

    async def reach(self, key: str) -> Hashable:
        await self.execute("EXISTS", key)
        address = await self._map.owner(keyspace.slot_of(key))
        return address, self._link(address).connections

    def another(self, *, timeout: float) -> RedisLink:
        return ClusterLink(self._map, timeout=timeout)

    @property
    def connections(self) -> int:
        return self._past_connections + sum(link.connections for link in self._links.values())

    async def close(self) -> None:
        self._closed = True
        self._map.no_longer_on_change(self._forget)
        if self._owns_map:
            await self._map.close()
        await asyncio.gather(*self._closing, *(link.close() for link in self._links.values()))

    async def _execute_anywhere(self, *args: RedisArg) -> Any:
        """At the node that answered last, or at the first other one that does."""
        masters = await self._map.servers()
        error: RedisError = RedisConnectionError("closed")
        for turn in range(len(masters)):
            at = (self._first_asked + turn) % len(masters)
            try:
                answer = await self._link(masters[at]).execute(*args)
            except (RedisConnectionError, RedisTimeoutError) as exc:
                self._map.look_soon()
                error = exc
            else:
                self._first_asked = at
                return answer
        raise error

    def _link(self, address: Address) -> ServerLink:
        link = self._links.get(address)
        if link is None:
            if self._closed:
                raise RedisConnectionError("closed")
            link = self._links[address] = ServerLink(self._map.place.url_of(address), timeout=self._timeout)
        return link

    def _forget(self, nodes: set[Address]) -> None:
        """Connections to nodes that left the cluster."""
        for address in self._links.keys() - nodes:
            link = self._links.pop(address)
            self._past_connections += link.connections
            closing = asyncio.create_task(link.close(), name="close-node")
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
