"""A response whose bytes and headers are ready: nothing is rendered or copied."""

from __future__ import annotations

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

RawHeaders = list[tuple[bytes, bytes]]


class RawResponse(Response):
    def __init__(self, body: bytes, headers: RawHeaders, *, status: int = 200) -> None:
        self.body = body
        self.status_code = status
        self.background = None
        self.raw_headers = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body})


def json_response(body: bytes, extra: RawHeaders, *, status: int = 200) -> RawResponse:
    return RawResponse(
        body,
        [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *extra],
        status=status,
    )
