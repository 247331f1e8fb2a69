"""arq's connections. arq knows one server, so in a cluster all its keys live on one node.

That node is found anew at each connection. arq names one key itself, `arq:abort`, and puts it into
transactions with the others; so the others carry that name as their hash tag.
"""

from __future__ import annotations

from typing import Any, Final

from arq.connections import ArqRedis
from redis.asyncio.connection import Connection, ConnectionPool, SSLConnection, parse_url
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, ResponseError

from shared.queue.links import Whereabouts, whereabouts
from shared.queue.redis_url import OneServer, Sentinels, read_url

TAG: Final = "{arq:abort}"
"""In the name of each arq queue, job, cron job and health check."""


def arq_pool(url: str, *, timeout: float, **options: Any) -> ArqRedis:
    """Awaits no reply for longer than `timeout` seconds. `options` are those of ArqRedis."""
    timeouts = {"socket_timeout": timeout, "socket_connect_timeout": timeout}
    place = read_url(url)
    if isinstance(place, OneServer):
        return ArqRedis(ConnectionPool.from_url(url, **timeouts), **options)
    some = place.addresses[0] if isinstance(place, Sentinels) else place.seeds[0]
    parameters: dict[str, Any] = {**timeouts, **parse_url(place.url_of(some))}
    over_tls = parameters.pop("connection_class", Connection) is SSLConnection
    where = whereabouts(url, timeout=timeout, key=TAG)
    pool: ConnectionPool = ConnectionPool(_FoundOverTls if over_tls else _Found, where=where, **parameters)
    return ArqRedis(pool, **options)


class _Found(Connection):
    """To the server that is the right one when it connects."""

    def __init__(self, *, where: Whereabouts, **parameters: Any) -> None:
        super().__init__(**parameters)
        self._where = where

    async def _connect(self) -> None:
        found = parse_url(await self._where.server_url())
        self.host, self.port = found["host"], found["port"]
        await super()._connect()  # type: ignore[no-untyped-call]  # redis-py says nothing of it

    async def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*args, **options)
        except ResponseError as exc:
            # redis-py knows the word MOVED in its client for clusters only.
            if not isinstance(exc, ReadOnlyError) and not str(exc).startswith("MOVED "):
                raise
            await self.disconnect()
            raise RedisConnectionError("arq's server is not the right one any more") from exc


class _FoundOverTls(_Found, SSLConnection):
    pass
