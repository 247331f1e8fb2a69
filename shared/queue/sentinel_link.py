"""A link to whichever server the sentinels call the master; they are asked at each connection."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, RedisError

from shared.queue.redis_link import RedisLink, ServerLink, pack
from shared.queue.redis_url import Address, Sentinels


async def master_of(place: Sentinels, *, timeout: float) -> Address:
    """What most sentinels say that answer, as soon as more than half of all agree. Raises RedisError.

    One that was cut off from the others may name a master that has long been replaced.
    """
    votes: Counter[Address] = Counter()
    asked = [asyncio.create_task(_ask(url, place.master, timeout)) for url in place.sentinel_urls()]
    try:
        for answer in asyncio.as_completed(asked, timeout=timeout):
            try:
                address = await answer
            except RedisError:
                continue
            if address is not None:
                votes[address] += 1
                if votes[address] > len(asked) / 2:
                    break
    except TimeoutError:
        pass  # what the others said has to do
    finally:
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
    if not votes:
        raise RedisConnectionError(f"no sentinel of {place.shown()} names a master {place.master!r}")
    return votes.most_common(1)[0][0]


async def _ask(url: str, master: str, timeout: float) -> Address | None:
    sentinel = ServerLink(url, timeout=timeout)
    try:
        answer = await sentinel.execute("SENTINEL", "GET-MASTER-ADDR-BY-NAME", master)
    finally:
        await sentinel.close()
    return (answer[0].decode(), int(answer[1])) if answer else None


class SentinelLink(ServerLink):
    """Lets a server go that is no master: the next call asks the sentinels anew."""

    def __init__(self, place: Sentinels, *, timeout: float) -> None:
        super().__init__(f"redis-sentinel://{place.shown()}/{place.master}", timeout=timeout)
        self._place = place

    def another(self, *, timeout: float) -> RedisLink:
        return SentinelLink(self._place, timeout=timeout)

    async def _locate(self) -> str:
        # Half of the time that a connection may take, so that the other half is left to make it.
        return self._place.url_of(await master_of(self._place, timeout=self._timeout / 2))

    async def _open(self) -> None:
        await super()._open()
        # Sentinels name the old master until they agree on a new one, also when it is back as a replica.
        role = await self._ask(pack("ROLE"))
        if role[0] != b"master":
            error = RedisConnectionError("the server that the sentinels name is no master")
            self._drop(error)
            raise error

    def _on_reply(self, reply: Any) -> None:
        super()._on_reply(reply)
        if isinstance(reply, ReadOnlyError):
            self._drop(RedisConnectionError("the server is no master any more"))
