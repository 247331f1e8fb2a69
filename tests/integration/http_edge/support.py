"""A tiny app behind the real protocol and edge, and a client that is nothing but a socket."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from starlette.responses import StreamingResponse
from uvicorn.server import ServerState

from api import error_views
from api.http_protocol import bounded_protocol
from api.middleware.edge import Edge
from api.request_body import read_body
from shared.requests.chat import check_chat_completion
from shared.requests.json_body import parse_object
from shared.settings import ApiSettings

SETTINGS = ApiSettings(max_body_bytes=256 * 1024)
CHAT = b'{"model":"m","messages":[{"role":"user","content":"hello"}]}'
JSON = b"Content-Type: application/json\r\n"
HOST = b"Host: localhost\r\n"
MEGABYTE = 1024 * 1024
HALF = 100_000
CHUNK = b"10000\r\n" + b" " * 65_536 + b"\r\n"


class Answer:
    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        head, _, self.body = raw.partition(b"\r\n\r\n")
        first, *rest = head.decode("latin-1").split("\r\n")
        self.status = int(first.split()[1])
        self.headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in rest)}

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = json.loads(self.body)["error"]
        return error


class Server:
    """A tiny app behind the real protocol and edge; `gate` holds `/v1/slow` back."""

    def __init__(self) -> None:
        self.port = 0
        self.gate = asyncio.Event()
        self.entered = asyncio.Event()
        self.body_bytes = 0
        self.disconnected = asyncio.Event()
        self.refused: list[int] = []
        self.calls = 0

    def app(self) -> FastAPI:
        app = FastAPI()
        error_views.install(app)

        @app.post("/v1/chat/completions")
        @app.post("/api/v1/chat")
        async def chat(request: Request) -> Response:
            self.calls += 1
            try:
                body = await read_body(request.receive, limit=SETTINGS.max_body_bytes)
            except Exception:
                self.disconnected.set()
                raise
            self.body_bytes = len(body)
            check_chat_completion(parse_object(body))
            return Response(b'{"ok":true}', media_type="application/json")

        @app.get("/v1/slow")
        async def slow() -> Response:
            self.entered.set()
            await self.gate.wait()
            return Response(b"slow")

        @app.post("/v1/half")
        async def half(request: Request) -> Response:
            """Answers once 100,000 bytes of the body came."""
            came = 0
            async for part in request.stream():
                came += len(part)
                if came >= HALF:
                    break
            return Response(b"{}", 409)

        @app.get("/v1/models/{model:path}")
        async def model(model: str, request: Request) -> dict[str, Any]:
            return {"model": model, "connection": request.headers.get("connection", "")}

        @app.get("/v1/boom")
        async def boom() -> None:
            raise RuntimeError("boom")

        @app.get("/v1/stream")
        async def stream() -> Response:
            async def chunks() -> AsyncIterator[bytes]:
                yield b"data: 1\n\n"
                raise RuntimeError("broken")

            return StreamingResponse(chunks(), media_type="text/event-stream")

        return app

    async def connect(self) -> Connection:
        return Connection(*await asyncio.open_connection("127.0.0.1", self.port))

    async def ask(self, raw: bytes) -> Answer:
        """One exchange on a connection of its own, which the server must close by itself or be told to."""
        async with await self.connect() as connection:
            await connection.send(raw)
            return Answer(await connection.until_closed())


class Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def __aenter__(self) -> Connection:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    async def send(self, raw: bytes) -> None:
        self.writer.write(raw)
        await self.writer.drain()

    async def send_until_refused(self, part: bytes, *, at_most: int) -> int:
        """Bytes that went out before the server closed; fails when it took them all."""
        sent = 0
        try:
            while sent < at_most:
                await self.send(part)
                sent += len(part)
        except ConnectionError:
            return sent
        raise AssertionError(f"the server took {sent} bytes")

    async def until_closed(self) -> bytes:
        """All that comes, a reset included: what matters is what was said before it."""
        said = b""
        try:
            async with asyncio.timeout(20):
                while part := await self.reader.read(65_536):
                    said += part
        except ConnectionError:
            pass
        return said

    async def answer(self) -> Answer:
        """The next answer with a Content-Length; the connection stays."""
        async with asyncio.timeout(20):
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head)
            body = await self.reader.readexactly(int(length[1])) if length else b""
        return Answer(head + body)


Serve = Callable[..., Awaitable[Server]]


@asynccontextmanager
async def running(**overrides: Any) -> AsyncIterator[Server]:
    server = Server()
    protocol = bounded_protocol(SETTINGS, on_refused=server.refused.append, **overrides)
    app = Edge(server.app(), settings=SETTINGS)
    config = uvicorn.Config(app, http=protocol, ws="none", lifespan="off", log_config=None, access_log=False)
    config.load()
    state = ServerState()
    listening = await asyncio.get_running_loop().create_server(
        lambda: protocol(config, state, {}), "127.0.0.1", 0
    )
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
        for connection in list(state.connections):
            connection.transport.abort()
        await asyncio.gather(*state.tasks, return_exceptions=True)


def post(
    body: bytes = CHAT, *, path: bytes = b"/v1/chat/completions", headers: bytes = JSON, close: bool = True
) -> bytes:
    return (
        b"POST %b HTTP/1.1\r\n" % path
        + HOST
        + (b"Connection: close\r\n" if close else b"")
        + headers
        + b"Content-Length: %d\r\n\r\n" % len(body)
        + body
    )


def get(path: bytes, *, host: bytes = HOST, headers: bytes = b"Connection: close\r\n") -> bytes:
    return b"GET %b HTTP/1.1\r\n" % path + host + headers + b"\r\n"
