"""The body of a request, counted while it arrives."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from shared.errors import PayloadTooLarge


async def read_body(receive: Receive, *, limit: int) -> bytes:
    """All of the body.

    Raises PayloadTooLarge once more than `limit` bytes came (a Content-Length above it was
    refused at the edge before), and ClientDisconnect when the caller left half way.
    """
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    body: bytes = message.get("body", b"")
    if len(body) > limit:
        raise too_large(limit)
    if not message.get("more_body", False):
        return body

    parts = [body]
    size = len(body)
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise too_large(limit)
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


async def body_chunks(receive: Receive, *, limit: int) -> AsyncGenerator[bytes]:
    """The body as it comes. Raises as `read_body` does."""
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise too_large(limit)
        if part:
            yield part
        if not message.get("more_body", False):
            return


def too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The request body is larger than {limit} bytes.", details={"limit_bytes": limit})
