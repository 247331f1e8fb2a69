"""The guard as an httpx transport, so that whatever speaks httpx can be put behind it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

import httpcore
import httpx

from shared.egress.network import GuardedNetwork, Lookup, look_up
from shared.egress.rules import Cause, EgressFailed, EgressRules, check_url, place_of

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})


class GuardedTransport(httpx.AsyncBaseTransport):
    """One connection a request. Raises EgressFailed for whatever goes wrong, in the body too."""

    def __init__(
        self,
        rules: EgressRules,
        *,
        look_up: Lookup = look_up,
        dial: httpcore.AsyncNetworkBackend | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.rules = rules
        self._look_up = look_up
        self._dial = dial or httpcore.AnyIOBackend()
        # The environment may name other authorities (SSL_CERT_FILE): not for strangers' URLs.
        self._tls = tls or httpx.create_ssl_context(trust_env=False)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        rules = self.rules
        deadline = asyncio.get_running_loop().time() + rules.total_seconds
        place = place_of(request.url, rules)
        network = GuardedNetwork(place, rules, look_up=self._look_up, dial=self._dial)
        # No pool: httpcore loses slots of one when a request is cancelled, and a connection that is kept
        # would answer for a name that means another address by now.
        connection = httpcore.AsyncHTTPConnection(
            httpcore.Origin(place.scheme.encode(), request.url.raw_host, place.port),
            ssl_context=self._tls,
            network_backend=network,
        )
        try:
            async with _ours(deadline):
                answer = await connection.handle_async_request(_restated(request))
            _judge(answer, max_bytes=rules.max_bytes)
        except BaseException:
            await connection.aclose()
            # A handshake that was cut short left its socket with nobody.
            await network.aclose()
            raise
        body = _Body(connection, answer, deadline=deadline, max_bytes=rules.max_bytes)
        return httpx.Response(answer.status, headers=answer.headers, stream=body)


def _judge(answer: httpcore.Response, *, max_bytes: int) -> None:
    """Raises EgressFailed for what the head of an answer rules out."""
    if answer.status in _REDIRECTS:
        raise EgressFailed(Cause.REDIRECT)
    for name, value in answer.headers:
        # We asked for none: a few kilobytes may unpack to gigabytes.
        if name.lower() == b"content-encoding" and value.lower() != b"identity":
            raise EgressFailed(Cause.ENCODING)
        if name.lower() == b"content-length" and int(value) > max_bytes:  # h11 saw that these are digits
            raise EgressFailed(Cause.SIZE)


class _Body(httpx.AsyncByteStream):
    """An answer's body, within its size and time. Closes the connection behind it."""

    def __init__(
        self,
        connection: httpcore.AsyncHTTPConnection,
        answer: httpcore.Response,
        *,
        deadline: float,
        max_bytes: int,
    ) -> None:
        self._connection = connection
        self._answer = answer
        self._deadline = deadline
        self._max_bytes = max_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        got = 0
        parts = self._answer.aiter_stream()
        while True:
            async with _ours(self._deadline):
                part = await anext(parts, None)
            if part is None:
                return
            got += len(part)
            if got > self._max_bytes:
                raise EgressFailed(Cause.SIZE)
            yield part

    async def aclose(self) -> None:
        await self._answer.aclose()
        await self._connection.aclose()


_FOREIGN: Final = (
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.TimeoutException,
    httpcore.UnsupportedProtocol,
    OSError,
)


@asynccontextmanager
async def _ours(deadline: float) -> AsyncIterator[None]:
    """Time bounded, and what httpcore and the system raise told as EgressFailed."""
    try:
        async with asyncio.timeout_at(deadline):
            yield
    except TimeoutError:
        raise EgressFailed(Cause.TIME) from None
    except _FOREIGN as exc:
        raise EgressFailed(Cause.CONNECTION) from exc


def _restated(request: httpx.Request) -> httpcore.Request:
    assert isinstance(request.stream, httpx.AsyncByteStream)  # noqa: S101 - an async client made it
    own = {b"accept-encoding", b"connection"}
    headers = [(name, value) for name, value in request.headers.raw if name.lower() not in own]
    return httpcore.Request(
        method=request.method,
        url=httpcore.URL(
            scheme=request.url.raw_scheme,
            host=request.url.raw_host,
            port=request.url.port,
            target=request.url.raw_path,
        ),
        headers=[*headers, (b"Accept-Encoding", b"identity"), (b"Connection", b"close")],
        content=request.stream,
        # Without httpx's extensions: one of them renames the host that the certificate must name.
    )


def open_client(transport: GuardedTransport) -> httpx.AsyncClient:
    """The clocks are the transport's. Use `fetch` for a URL that is still text."""
    return httpx.AsyncClient(
        transport=transport,
        trust_env=False,
        follow_redirects=False,
        timeout=None,  # noqa: S113 - see above
    )


async def fetch(url: str, transport: GuardedTransport) -> httpx.Response:
    """GET, read to its end. Raises EgressFailed; an answer of any other status than 3xx is one."""
    checked = check_url(url, transport.rules)
    async with open_client(transport) as client:
        return await client.get(checked)


async def post(
    url: str, transport: GuardedTransport, *, content: bytes, headers: Mapping[str, str]
) -> httpx.Response:
    """POST, and the answer read to its end. Raises EgressFailed, as `fetch` does."""
    checked = check_url(url, transport.rules)
    async with open_client(transport) as client:
        return await client.post(checked, content=content, headers=headers)
