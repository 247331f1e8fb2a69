"""What a process without an API answers: /metrics, /health/live and /health/ready, on a port of its own.

    async with serving(host, port, Answers(page, live, ready)):
        ...

For scrapers and probes alone: GET or HEAD, one request a connection, no body, little of anything. Both
health paths answer 200, or 503 with why not, in one line of JSON.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import orjson
from loguru import logger

from shared.observability.loop_lag import watch_loop
from shared.observability.metrics import CONTENT_TYPE

MAX_HEAD_BYTES: Final = 8_192
MAX_CONNECTIONS: Final = 32
REQUEST_SECONDS: Final = 5.0
"""For the head of a request, for its answer, and for sending that: each."""

WhyNot = Callable[[], Awaitable[str | None]]
"""None: it is well. Else a few words."""


@dataclass(frozen=True, slots=True)
class Answers:
    """`page`: of /metrics; None where that is switched off."""

    page: Callable[[], Awaitable[bytes]] | None
    not_live: WhyNot
    not_ready: WhyNot


@asynccontextmanager
async def serving(host: str, port: int | None, answers: Answers) -> AsyncIterator[None]:
    """Listens while the block runs; without a port not at all. Raises OSError where the port is taken."""
    if not port:
        yield
        return
    listener = _Listener(answers)
    server = await asyncio.start_server(listener.on_connection, host, port, limit=MAX_HEAD_BYTES)
    logger.info("metrics served", host=host, port=port)
    lag = asyncio.create_task(watch_loop(), name="loop-lag")
    try:
        yield
    finally:
        lag.cancel()
        server.close()
        await listener.close()


class _Listener:
    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._open: dict[asyncio.Task[None], None] = {}
        """The oldest first."""

    async def close(self) -> None:
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:
            return
        if len(self._open) >= MAX_CONNECTIONS:
            # Whoever only connects must not keep probes out.
            oldest = next(iter(self._open))
            del self._open[oldest]
            oldest.cancel()
        self._open[task] = None
        try:
            await self._answer(reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            writer.transport.abort()
        except asyncio.CancelledError:
            writer.transport.abort()  # the process ends; its streams log a task that says it was cancelled
        finally:
            writer.close()
            self._open.pop(task, None)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            status, kind, body, is_head = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, _JSON, b"", False
        else:
            method, _, rest = head.partition(b" ")
            target, _, version = rest.partition(b"\r\n")[0].partition(b" ")
            path = target.partition(b"?")[0].decode("ascii", "replace")
            is_head = method == b"HEAD"
            if not version.startswith(b"HTTP/1."):
                status, kind, body = HTTPStatus.BAD_REQUEST, _JSON, b""
            elif method not in {b"GET", b"HEAD"}:
                status, kind, body = HTTPStatus.METHOD_NOT_ALLOWED, _JSON, b""
            else:
                async with asyncio.timeout(REQUEST_SECONDS):
                    status, kind, body = await self._page(path)
        lines = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: {kind}\r\n"
            f"content-length: {len(body)}\r\nx-content-type-options: nosniff\r\nconnection: close\r\n"
            f"{'allow: GET, HEAD' + chr(13) + chr(10) if status is HTTPStatus.METHOD_NOT_ALLOWED else ''}\r\n"
        )
        writer.write(lines.encode() + (b"" if is_head else body))
        async with asyncio.timeout(REQUEST_SECONDS):
            await writer.drain()
            writer.write_eof()
            # What is closed with something unread is reset, and the answer may be lost with it.
            while await reader.read(MAX_HEAD_BYTES):
                pass

    async def _page(self, path: str) -> tuple[HTTPStatus, str, bytes]:
        if path == "/metrics" and self._answers.page is not None:
            return HTTPStatus.OK, CONTENT_TYPE, await self._answers.page()
        if path == "/health/live":
            return _health(await self._answers.not_live())
        if path == "/health/ready":
            return _health(await self._answers.not_ready())
        return HTTPStatus.NOT_FOUND, _JSON, b""


_JSON: Final = "application/json"


def _health(why_not: str | None) -> tuple[HTTPStatus, str, bytes]:
    if why_not is None:
        return HTTPStatus.OK, _JSON, orjson.dumps({"status": "ok"})
    view = {"status": "unavailable", "reason": why_not}
    return HTTPStatus.SERVICE_UNAVAILABLE, _JSON, orjson.dumps(view)
