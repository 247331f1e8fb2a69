"""From a name to a connection: looked up once, every address judged, one of these very addresses dialled."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence

import httpcore

from shared.egress.addresses import Address
from shared.egress.rules import Cause, EgressFailed, EgressRules, Place, address_of

Lookup = Callable[[str, int], Awaitable[Sequence[str]]]
"""The addresses of a name. Raises OSError where there are none."""


async def look_up(host: str, port: int) -> list[str]:
    """As the machine does: its hosts file, then DNS."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class GuardedNetwork(httpcore.AsyncNetworkBackend):
    """Connects to one place alone, whatever host it is asked for.

    `dial`: makes the connections; it is never told a name, so it has nothing to look up.
    """

    def __init__(
        self, place: Place, rules: EgressRules, *, look_up: Lookup, dial: httpcore.AsyncNetworkBackend
    ) -> None:
        self._place = place
        self._rules = rules
        self._look_up = look_up
        self._dial = dial
        self._stream: httpcore.AsyncNetworkStream | None = None

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Raises EgressFailed."""
        try:
            async with asyncio.timeout(self._rules.connect_seconds):
                self._stream = await self._connect(await self._addresses(), socket_options)
                return self._stream
        except TimeoutError:
            raise EgressFailed(Cause.TIME) from None

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        raise EgressFailed(Cause.ADDRESS)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def aclose(self) -> None:
        if self._stream is not None:
            await self._stream.aclose()

    async def _addresses(self) -> list[Address]:
        if self._place.literal is not None:
            return [self._place.literal]
        try:
            told = await self._look_up(self._place.host, self._place.port)
        except (OSError, UnicodeError):
            raise EgressFailed(Cause.LOOKUP) from None
        found = [address_of(text) for text in told]
        if not found:
            raise EgressFailed(Cause.LOOKUP)
        # One wrong address condemns the name: which of several is taken would be the attacker's dice.
        good = [a for a in found if a is not None and self._rules.allows(a, exempt=self._place.exempt)]
        if len(good) < len(found):
            raise EgressFailed(Cause.ADDRESS)
        return good

    async def _connect(
        self, addresses: list[Address], socket_options: Iterable[httpcore.SOCKET_OPTION] | None
    ) -> httpcore.AsyncNetworkStream:
        for address in addresses:
            try:
                return await self._dial.connect_tcp(
                    str(address), self._place.port, socket_options=socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        raise EgressFailed(Cause.CONNECTION)
