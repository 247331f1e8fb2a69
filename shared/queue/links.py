"""From a REDIS_URL to what speaks with Redis, whichever form the URL has."""

from __future__ import annotations

import random
from typing import Protocol

from shared import keyspace
from shared.queue.cluster_link import ClusterLink, ClusterMap
from shared.queue.redis_link import RedisLink, ServerLink
from shared.queue.redis_url import Cluster, OneServer, Sentinels, read_url
from shared.queue.sentinel_link import SentinelLink, master_of


def open_link(url: str, *, timeout: float) -> RedisLink:
    """Connects with its first command. Raises UnusableRedisUrl."""
    place = read_url(url)
    match place:
        case OneServer():
            return ServerLink(url, timeout=timeout)
        case Sentinels():
            return SentinelLink(place, timeout=timeout)
        case Cluster():
            return ClusterLink(ClusterMap(place, timeout=timeout), timeout=timeout, owns_map=True)


class Whereabouts(Protocol):
    """For what needs one server: pub/sub, arq."""

    async def server_url(self) -> str:
        """The URL, of a form that redis-py reads, of the server to connect to now. Raises RedisError."""


def whereabouts(url: str, *, timeout: float, key: str | None = None) -> Whereabouts:
    """`key`: in a cluster the node that serves it, without one any. Raises UnusableRedisUrl."""
    place = read_url(url)
    match place:
        case OneServer():
            return _AlwaysThere(url)
        case Sentinels():
            return _TheMaster(place, timeout)
        case Cluster():
            return _SomeNode(ClusterMap(place, timeout=timeout), key)


class _AlwaysThere:
    def __init__(self, url: str) -> None:
        self._url = url

    async def server_url(self) -> str:
        return self._url


class _TheMaster:
    def __init__(self, place: Sentinels, timeout: float) -> None:
        self._place = place
        self._timeout = timeout

    async def server_url(self) -> str:
        return self._place.url_of(await master_of(self._place, timeout=self._timeout))


class _SomeNode:
    def __init__(self, cluster: ClusterMap, key: str | None) -> None:
        self._map = cluster
        self._key = key

    async def server_url(self) -> str:
        await self._map.look()
        if self._key is not None:
            address = await self._map.owner(keyspace.slot_of(self._key))
        else:
            # At random, so that after one that is dead another one comes.
            address = random.choice(await self._map.servers())  # noqa: S311 - no secret
        return self._map.place.url_of(address)
