"""HTTP as bytes on a socket: for requests that no client library would send."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

PATIENCE_SECONDS: Final = 10.0
"""An answer that takes longer counts as none."""


class NoAnswer(AssertionError):
    """Nothing came, or not all of it."""


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """`status` is 0 when the connection was closed without a word. `closed`: the server closed it."""

    status: int
    headers: dict[str, str]
    body: bytes
    closed: bool

    @property
    def text(self) -> str:
        """All of it, headers too, to look for what should not be there."""
        return "\n".join(self.headers.values()) + self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        return json.loads(self.body)


def request(
    *,
    method: bytes = b"POST",
    target: bytes,
    headers: Iterable[tuple[bytes, bytes]],
    body: bytes = b"",
    host: bytes | None = b"broker.example",
    with_length: bool = True,
) -> bytes:
    """One request, written as told; only Host and Content-Length are added."""
    lines = [b"%b %b HTTP/1.1" % (method, target)]
    if host is not None:
        lines.append(b"Host: " + host)
    lines += [name + b": " + value for name, value in headers]
    if with_length:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


async def exchange(url: str, *writes: bytes, then_eof: bool = False, expect_close: bool = False) -> RawAnswer:
    """Send, and read one answer. `then_eof`: say that no more comes. `expect_close`: wait for the end."""
    address = urlsplit(url)
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            reader, writer = await asyncio.open_connection(address.hostname, address.port)
            try:
                # An answer that comes before all was sent ends the sending, and still counts.
                with contextlib.suppress(ConnectionError):
                    for data in writes:
                        writer.write(data)
                        await writer.drain()
                    if then_eof:
                        writer.write_eof()
                return await _read(reader, expect_close=expect_close)
            finally:
                writer.close()
                with contextlib.suppress(ConnectionError):
                    await writer.wait_closed()
    except TimeoutError as exc:
        raise NoAnswer(f"no whole answer in {PATIENCE_SECONDS:g} s") from exc


async def exchange_many(url: str, sent: bytes, *, count: int) -> list[Any]:
    """Send all at once, and read so many answers: their documents, in the order they came."""
    address = urlsplit(url)
    async with asyncio.timeout(PATIENCE_SECONDS):
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        try:
            writer.write(sent)
            return [(await _read(reader, expect_close=False)).json() for _ in range(count)]
        finally:
            writer.close()
            await writer.wait_closed()


async def flood(url: str, head: bytes, filler: bytes, *, times: int) -> tuple[int, RawAnswer | None]:
    """Send `head`, then `filler` over and over until the server has enough: bytes it took, and its answer.

    The answer is None when the reset overtook it.
    """
    address = urlsplit(url)
    async with asyncio.timeout(3 * PATIENCE_SECONDS):
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        answering = asyncio.create_task(_read(reader, expect_close=False))
        sent = 0
        try:
            writer.write(head)
            for _ in range(times):
                writer.write(filler)
                await writer.drain()
                sent += len(filler)
        except ConnectionError:
            pass
        try:
            return sent, await answering
        except (ConnectionError, NoAnswer):
            return sent, None
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


async def _read(reader: asyncio.StreamReader, *, expect_close: bool) -> RawAnswer:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as exc:
        if exc.partial:
            raise NoAnswer(f"half of a head: {exc.partial!r}") from exc
        return RawAnswer(0, {}, b"", closed=True)
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(": ") for line in lines if line)
    headers = {name.lower(): value for name, _, value in pairs}
    if "content-length" in headers:
        body = await reader.readexactly(int(headers["content-length"]))
    else:
        body = await _dechunked(reader)
    closed = headers.get("connection") == "close"
    if expect_close:
        assert await reader.read(1) == b"", "something stands behind the answer"
        closed = True
    return RawAnswer(int(first.split()[1]), headers, body, closed)


async def _dechunked(reader: asyncio.StreamReader) -> bytes:
    parts: list[bytes] = []
    while size := int(await reader.readline(), 16):
        parts.append(await reader.readexactly(size))
        await reader.readline()
    await reader.readline()
    return b"".join(parts)
