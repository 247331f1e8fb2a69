"""The transport rows of the bad-input matrix, over real sockets: uvicorn, the protocol, the edge."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import psutil
import pytest
import uvicorn
from fastapi import FastAPI, Request, Response
from starlette.responses import StreamingResponse
from uvicorn.server import ServerState

from api import error_views
from api.http_protocol import BoundedHttpToolsProtocol, bounded_protocol
from api.middleware.edge import Edge
from api.request_body import read_body
from shared.requests.chat import check_chat_completion
from shared.requests.json_body import parse_object
from shared.settings import ApiSettings
from tests.unit.observability.log_lines import LogLines, captured

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


@pytest.fixture
def lines() -> Any:
    with captured() as lines:
        yield lines


@pytest.fixture
async def serve(lines: LogLines) -> AsyncIterator[Serve]:
    async with AsyncExitStack() as stack:

        async def start(**overrides: Any) -> Server:
            return await stack.enter_async_context(running(**overrides))

        yield start


@pytest.fixture
async def server(serve: Serve) -> Server:
    return await serve()


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


async def test_a_well_formed_request_is_answered_and_the_connection_kept(server: Server) -> None:
    async with await server.connect() as connection:
        for _ in range(3):
            await connection.send(post(close=False))
            answer = await connection.answer()

            assert (answer.status, answer.body) == (200, b'{"ok":true}')
            assert answer.headers["x-request-id"] == answer.headers["request-id"]


async def test_a_request_that_arrives_byte_by_byte_is_answered(server: Server) -> None:
    async with await server.connect() as connection:
        for byte in post(close=False):
            await connection.send(bytes([byte]))

        assert (await connection.answer()).status == 200
        await connection.send(post(close=False))
        assert (await connection.answer()).status == 200


async def test_requests_sent_ahead_are_answered_in_order(server: Server) -> None:
    async with await server.connect() as connection:
        await connection.send(b"".join(get(b"/v1/models/%d" % n, headers=b"") for n in range(5)))

        assert [json.loads((await connection.answer()).body)["model"] for _ in range(5)] == list("01234")


async def test_a_content_length_above_the_limit_is_413_before_the_body_is_read(server: Server) -> None:
    async with await server.connect() as connection:
        await connection.send(b"POST /v1/chat/completions HTTP/1.1\r\n" + HOST + JSON)
        await connection.send(b"Content-Length: %d\r\n\r\n" % (SETTINGS.max_body_bytes + 1))
        answer = Answer(await connection.until_closed())

    assert (answer.status, answer.headers["connection"]) == (413, "close")
    assert answer.error["code"] == "payload_too_large"
    assert server.calls == 0


async def test_a_body_of_exactly_the_limit_is_read(server: Server) -> None:
    body = CHAT + b" " * (SETTINGS.max_body_bytes - len(CHAT))

    assert (await server.ask(post(body))).status == 200
    assert server.body_bytes == SETTINGS.max_body_bytes


async def test_a_chunked_body_above_the_limit_is_413_and_closed_soon_after(server: Server) -> None:
    async with await server.connect() as connection:
        await connection.send(b"POST /v1/chat/completions HTTP/1.1\r\n" + HOST + JSON)
        await connection.send(b"Transfer-Encoding: chunked\r\n\r\n")
        said = asyncio.create_task(connection.until_closed())
        sent = await connection.send_until_refused(CHUNK, at_most=300 * MEGABYTE)
        answer = Answer(await said)

    assert (answer.status, answer.headers["connection"]) == (413, "close")
    assert sent < 16 * MEGABYTE  # what the sockets of both sides hold


async def test_an_answer_given_before_the_body_came_survives_the_rest_of_it(server: Server) -> None:
    async with await server.connect() as connection:
        await connection.send(post(b" " * 1000, headers=b"Content-Type: text/plain\r\n", close=False)[:-900])
        answer = await connection.answer()
        await connection.send(b" " * 900 + post(close=False))

        assert (answer.status, answer.headers.get("connection")) == (415, None)
        assert (await connection.answer()).status == 200


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 65537\r\n",
        b"Content-Length: 200000\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Content-Length: 10\r\nExpect: 100-continue\r\n",
    ],
)
@pytest.mark.parametrize(
    ("path", "content_type", "status"),
    [
        (b"/v1/chat/completions", b"text/plain", 415),
        (b"/v1/nowhere", b"application/json", 404),
        (b"/v1/slow", b"application/json", 405),
    ],
)
async def test_an_answer_given_before_a_long_body_came_says_that_the_connection_closes(
    server: Server, path: bytes, content_type: bytes, status: int, framing: bytes
) -> None:
    async with await server.connect() as connection:
        await connection.send(b"POST %b HTTP/1.1\r\n" % path + HOST + framing)
        await connection.send(b"Content-Type: %b\r\n\r\n" % content_type)
        said = await connection.until_closed()

    answer = Answer(said)
    assert (answer.status, answer.headers["connection"]) == (status, "close")
    assert said.count(b"connection: ") == 1
    assert answer.error["message"]


@pytest.mark.parametrize("body_bytes", [0, 60, 60_000, 200_000])
async def test_an_answer_given_once_the_body_came_keeps_the_connection(
    server: Server, body_bytes: int
) -> None:
    body = CHAT + b" " * body_bytes
    async with await server.connect() as connection:
        for refused in (b"not JSON" + body, body.replace(b"messages", b"massages")):
            await connection.send(post(refused, close=False))
            answer = await connection.answer()

            assert (answer.status in {400, 422}, answer.headers.get("connection")) == (True, None)
        await connection.send(post(body, close=False))
        assert (await connection.answer()).status == 200


async def test_an_answer_given_when_little_of_a_body_is_missing_keeps_the_connection(server: Server) -> None:
    raw = post(b" " * (HALF + 65_536), path=b"/v1/half", close=False)
    async with await server.connect() as connection:
        await connection.send(raw[:-65_536])
        answer = await connection.answer()
        await connection.send(raw[-65_536:] + post(close=False))

        assert (answer.status, answer.headers.get("connection")) == (409, None)
        assert (await connection.answer()).status == 200


async def test_an_answer_given_when_much_of_a_body_is_missing_closes_the_connection(server: Server) -> None:
    raw = post(b" " * (HALF + 100_000), path=b"/v1/half", close=False)
    async with await server.connect() as connection:
        await connection.send(raw[:-100_000])
        answer = Answer(await connection.until_closed())

    assert (answer.status, answer.headers["connection"]) == (409, "close")


async def test_many_bodies_that_came_after_their_answers_do_not_add_up(serve: Serve) -> None:
    discarded = asyncio.Event()

    def discard(protocol: BoundedHttpToolsProtocol, size: int) -> None:
        BoundedHttpToolsProtocol._discard(protocol, size)
        discarded.set()

    server = await serve(_discard=discard)
    raw = post(b" " * 60_000, headers=b"Content-Type: text/plain\r\n", close=False)
    async with await server.connect() as connection:
        for _ in range(5):
            await connection.send(raw[:-60_000])
            assert (await connection.answer()).status == 415
            discarded.clear()
            await connection.send(raw[-60_000:-1])
            await discarded.wait()
            await connection.send(raw[-1:])
        await connection.send(post(close=False))

        assert (await connection.answer()).status == 200


async def test_an_endless_body_after_the_answer_is_not_read_for_ever(server: Server) -> None:
    async with await server.connect() as connection:
        await connection.send(b"POST /v1/chat/completions HTTP/1.1\r\n" + HOST)
        await connection.send(b"Content-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert (await connection.answer()).status == 415
        assert await connection.send_until_refused(CHUNK, at_most=300 * MEGABYTE) < 16 * MEGABYTE


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 60\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 60\r\n",
        b"Content-Length: 60\r\nContent-Length: 60\r\n",
        b"Content-Length: 60\r\nContent-Length: 61\r\n",
        b"Content-Length: 60, 60\r\n",
        b"Content-Length: +60\r\n",
        b"Content-Length: -1\r\n",
        b"Content-Length: 0x3c\r\n",
        b"Content-Length: 6_0\r\n",
        b"Content-Length: \r\n",
        b"Content-Length: 99999999999999999999999\r\n",
        b"Content-Length : 60\r\n",
        b"Transfer-Encoding: gzip\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Transfer-Encoding: chunked, gzip\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding:\r\n chunked\r\n",
    ],
)
async def test_a_body_whose_length_is_told_twice_or_oddly_is_400(server: Server, framing: bytes) -> None:
    answer = await server.ask(
        b"POST /v1/chat/completions HTTP/1.1\r\n" + HOST + JSON + framing + b"\r\n" + CHAT
    )

    assert (answer.status, answer.headers["connection"]) == (400, "close")
    assert answer.error["code"] == "bad_request"
    assert server.calls == 0


async def test_a_content_length_longer_than_the_body_never_becomes_a_200(server: Server) -> None:
    async with await server.connect() as connection:
        await connection.send(b"POST /v1/chat/completions HTTP/1.1\r\n" + HOST + JSON)
        await connection.send(b"Content-Length: 100\r\n\r\n" + CHAT)
        connection.writer.write_eof()

        assert await connection.until_closed() == b""
    await server.disconnected.wait()


async def test_a_content_length_shorter_than_the_body_never_becomes_a_200(server: Server) -> None:
    answer = await server.ask(
        b"POST /v1/chat/completions HTTP/1.1\r\n" + HOST + JSON + b"Content-Length: 9\r\n\r\n" + CHAT
    )

    assert (answer.status, answer.headers["connection"]) == (400, "close")


@pytest.mark.parametrize(
    "chunk", [b"ZZ\r\nab\r\n", b"-1\r\nab\r\n", b"2\r\nabcd\r\n", b"fffffffffffffffff\r\n"]
)
async def test_a_broken_chunk_is_400(server: Server, chunk: bytes) -> None:
    answer = await server.ask(
        b"POST /v1/chat/completions HTTP/1.1\r\n"
        + HOST
        + JSON
        + b"Transfer-Encoding: chunked\r\n\r\n"
        + chunk
    )

    assert (answer.status, answer.error["code"]) == (400, "bad_request")


async def test_a_request_smuggled_behind_a_chunked_one_is_not_seen(server: Server) -> None:
    smuggled = b"0\r\nX-Trailer: 1\r\nHost: evil\r\n\r\n"
    async with await server.connect() as connection:
        await connection.send(b"POST /v1/chat/completions HTTP/1.1\r\n" + HOST + JSON)
        await connection.send(
            b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(CHAT), CHAT) + smuggled
        )

        assert (await connection.answer()).status == 200
    assert server.calls == 1


async def test_endless_trailers_are_400(server: Server) -> None:
    async with await server.connect() as connection:
        await connection.send(b"POST /v1/chat/completions HTTP/1.1\r\n" + HOST + JSON)
        await connection.send(b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX: ")
        said = asyncio.create_task(connection.until_closed())
        await connection.send_until_refused(b"x" * 65_536, at_most=64 * MEGABYTE)

        assert Answer(await said).status in (400, 422)


async def test_a_compressed_body_is_415_and_never_inflated(server: Server) -> None:
    answer = await server.ask(post(b"\x1f\x8b" + b"\x00" * 50, headers=JSON + b"Content-Encoding: gzip\r\n"))

    assert (answer.status, answer.error["code"]) == (415, "unsupported_content")
    assert server.calls == 0


@pytest.mark.parametrize(
    "headers", [b"", b"Content-Type: text/plain\r\n", b"Content-Type: multipart/form-data\r\n"]
)
async def test_a_body_that_is_not_called_json_is_415(server: Server, headers: bytes) -> None:
    answer = await server.ask(post(headers=headers))

    assert (answer.status, answer.error["code"]) == (415, "unsupported_content")


@pytest.mark.parametrize(
    "headers",
    [
        b"X-Long: " + b"x" * 17_000 + b"\r\n",
        b"".join(b"X-%d: %b\r\n" % (n, b"x" * 300) for n in range(60)),
        b"".join(b"X-%d: x\r\n" % n for n in range(100)),
    ],
    ids=["one of 17 KB", "60 of 300 bytes", "101 in number"],
)
async def test_headers_above_the_limits_are_431(server: Server, headers: bytes) -> None:
    answer = await server.ask(post(headers=JSON + headers))

    assert (answer.status, answer.error["code"]) == (431, "headers_too_large")
    assert server.refused == [431]
    assert server.calls == 0


async def test_headers_just_below_the_limits_pass(server: Server) -> None:
    many = b"".join(b"X-%d: %b\r\n" % (n, b"x" * 140) for n in range(96))

    assert (await server.ask(post(headers=JSON + many))).status == 200


async def test_a_long_body_in_the_same_read_does_not_count_as_headers(server: Server) -> None:
    async with await server.connect() as connection:
        for _ in range(2):
            await connection.send(post(CHAT + b" " * 60_000, close=False))
            assert (await connection.answer()).status == 200


@pytest.mark.parametrize(
    "opening",
    [
        b"GET /v1/models/m HTTP/1.1\r\nHost: localhost\r\nX-Endless: ",
        b"GET /v1/models/m HTTP/1.1\r\nHost: localhost\r\nX-",
        b"GET /v1/models/",
    ],
    ids=["value", "name", "request line"],
)
async def test_a_header_of_300_megabytes_is_refused_and_costs_less_than_one(
    server: Server, opening: bytes
) -> None:
    process = psutil.Process()
    peak = 0

    async def watch(said: asyncio.Task[bytes]) -> None:
        nonlocal peak
        while not said.done():
            peak = max(peak, process.memory_info().rss)
            await asyncio.wait([said], timeout=0.001)

    async def flood() -> bytes:
        async with await server.connect() as connection:
            said = asyncio.create_task(connection.until_closed())
            watching = asyncio.create_task(watch(said))
            await connection.send(opening)
            sent = await connection.send_until_refused(b"x" * 65_536, at_most=300 * MEGABYTE)
            await watching
            assert sent < 16 * MEGABYTE  # what the sockets of both sides hold
            return await said

    await flood()  # The first one pays for buffers that stay.
    before = peak = process.memory_info().rss
    said = await flood()

    assert not said or Answer(said).status in (400, 431)
    assert peak - before < MEGABYTE


@pytest.mark.parametrize(
    "method", [b"QWERTY", b"get", b"GET\x00", b"CONNECT", b"TRACE", b"PROPFIND", b"OPTIONS"]
)
async def test_an_odd_method_never_reaches_a_route(server: Server, method: bytes) -> None:
    answer = await server.ask(method + b" /v1/models/m HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n")

    assert answer.status in (400, 404, 405)


@pytest.mark.parametrize(
    "path",
    [
        b"/v1/models/../../etc/passwd",
        b"/v1/models/%2e%2e/%2e%2e/etc/passwd",
        b"/v1//models/m",
        b"/v1/models/m%00",
        b"/v1/models/%5c..%5cetc",
        b"/v1/models/%1b%5b31m",
        b"/v1/models/" + b"x" * 3_000,
        b"/nowhere",
        b"/v1/models\xff",
        b"/v1/%zz%",
    ],
)
async def test_a_path_no_route_has_is_400_or_404(server: Server, path: bytes) -> None:
    answer = await server.ask(get(path))

    assert answer.status in (400, 404)
    assert answer.error["message"]


async def test_a_model_name_with_an_encoded_slash_reaches_its_route(server: Server) -> None:
    answer = await server.ask(get(b"/v1/models/anthropic%2Fclaude"))

    assert json.loads(answer.body)["model"] == "anthropic/claude"


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b"Host: \r\n",
        b"Host: a/b?c\r\n",
        b"Host: a b\r\n",
        b"Host: user@localhost\r\n",
        b"Host: localhost:99999999\r\n",
        b"Host: [::1\r\n",
        b"Host: \xff\r\n",
        b"Host: localhost\r\nHost: localhost\r\n",
        b"Host: localhost, evil\r\n",
    ],
)
async def test_an_odd_host_is_400(server: Server, host: bytes) -> None:
    answer = await server.ask(get(b"/v1/models/m", host=host))

    assert (answer.status, answer.error["code"]) == (400, "bad_request")


@pytest.mark.parametrize(
    "host", [b"localhost", b"LOCALHOST:8000", b"10.0.0.1:80", b"[::1]:8000", b"my_host.svc.local"]
)
async def test_an_ordinary_host_is_served(server: Server, host: bytes) -> None:
    assert (await server.ask(get(b"/v1/models/m", host=b"Host: %b\r\n" % host))).status == 200


async def test_only_the_allowed_hosts_are_served_where_some_are_named(serve: Serve) -> None:
    server = await serve(allowed_hosts=frozenset({b"api.example"}))

    assert (await server.ask(get(b"/v1/models/m", host=b"Host: API.example:443\r\n"))).status == 200
    assert (await server.ask(get(b"/v1/models/m", host=b"Host: evil.example\r\n"))).status == 400


@pytest.mark.parametrize("target", [b"http://localhost/v1/models/m", b"*", b"v1/models/m", b"?x", b""])
async def test_a_target_that_is_no_path_is_400(server: Server, target: bytes) -> None:
    assert (await server.ask(get(target))).status == 400


@pytest.mark.parametrize(
    "raw",
    [
        b"GET /v1/models/m\r\n\r\n",
        b"GET /v1/models/m HTTP/0.9\r\nHost: a\r\n\r\n",
        b"GET /v1/models/m HTTP/2.0\r\nHost: a\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /v1/models/m HTTP/1.1\nHost: a\n\n",
        b"GET /v1/models/m HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n",
        b"GET /v1/models/m HTTP/1.1\r\nHost: a\r\n folded: b\r\n\r\n",
    ],
)
async def test_what_is_not_http_1_is_400_and_closed(server: Server, raw: bytes) -> None:
    answer = await server.ask(raw)

    assert (answer.status, answer.headers["connection"]) == (400, "close")


async def test_too_many_requests_sent_ahead_are_refused(server: Server) -> None:
    answers = await server.ask(get(b"/v1/models/m", headers=b"") * 1_000)

    assert answers.raw.count(b"HTTP/1.1 200") <= 20


async def test_headers_that_do_not_come_in_time_are_408(serve: Serve) -> None:
    server = await serve(head_seconds=0.05)

    answer = await server.ask(b"GET /v1/models/m HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")

    assert (answer.status, answer.error["code"]) == (408, "request_timeout")


async def test_dripping_headers_do_not_move_the_deadline(serve: Serve) -> None:
    server = await serve(head_seconds=0.05)

    async with await server.connect() as connection:
        said = asyncio.create_task(connection.until_closed())
        await connection.send(b"GET /v1/models/m HTTP/1.1\r\nHost: localhost\r\n")
        while not said.done():
            await connection.send(b"X: y\r\n")
            await asyncio.wait([said], timeout=0.005)

    assert Answer(said.result()).status == 408


async def test_a_connection_that_says_nothing_is_closed(serve: Serve) -> None:
    server = await serve(head_seconds=0.05)

    async with await server.connect() as connection:
        assert await connection.until_closed() == b""


async def test_blank_lines_between_requests_do_not_keep_a_connection(serve: Serve) -> None:
    server = await serve(head_seconds=0.05)

    async with await server.connect() as connection:
        await connection.send(post(close=False))
        assert (await connection.answer()).status == 200
        await connection.send(b"\r\n")

        assert await connection.until_closed() == b""


async def test_a_body_that_stops_coming_is_408(serve: Serve) -> None:
    server = await serve(body_idle_seconds=0.05)

    answer = await server.ask(post()[:-5])

    assert (answer.status, answer.error["code"]) == (408, "request_timeout")
    await server.disconnected.wait()


async def test_a_slow_answer_is_not_cut_by_the_clocks_of_its_request(serve: Serve) -> None:
    rung = asyncio.Event()

    def ring(protocol: BoundedHttpToolsProtocol) -> None:
        BoundedHttpToolsProtocol._on_watch(protocol)
        rung.set()

    server = await serve(head_seconds=0.02, body_idle_seconds=0.02, _on_watch=ring)
    async with await server.connect() as connection:
        await connection.send(get(b"/v1/slow", headers=b"") + b"GET /v1/mod")
        await server.entered.wait()
        for _ in range(3):
            rung.clear()
            await rung.wait()
        server.gate.set()
        said = await connection.until_closed()

    assert said.startswith(b"HTTP/1.1 200")
    assert b"slow" in said


async def test_rubbish_behind_a_request_does_not_cost_its_answer(server: Server) -> None:
    async with await server.connect() as connection:
        await connection.send(get(b"/v1/slow", headers=b"") + b"rubbish\r\n\r\n")
        await server.entered.wait()
        server.gate.set()
        said = await connection.until_closed()

    assert said.startswith(b"HTTP/1.1 200")
    assert said.endswith(b"slow")


async def test_an_offer_of_http_2_is_passed_over_and_the_body_kept(server: Server) -> None:
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    async with await server.connect() as connection:
        for _ in range(2):
            await connection.send(post(headers=JSON + offer, close=False))
            assert (await connection.answer()).status == 200

    assert server.body_bytes == len(CHAT)


async def test_an_offer_whose_body_comes_later_is_passed_over_too(server: Server) -> None:
    raw = post(headers=JSON + b"Connection: Upgrade\r\nUpgrade: h2c\r\n", close=False)
    async with await server.connect() as connection:
        await connection.send(raw[: -len(CHAT)])
        await connection.send(CHAT[:10])
        await connection.send(CHAT[10:])

        assert (await connection.answer()).status == 200


async def test_an_offer_of_a_websocket_is_an_ordinary_request(server: Server) -> None:
    offer = b"Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    async with await server.connect() as connection:
        await connection.send(get(b"/v1/models/m", headers=offer))
        answer = await connection.answer()

    assert json.loads(answer.body) == {"model": "m", "connection": "keep-alive"}


async def test_an_unforeseen_exception_is_500_in_our_form_with_one_traceback_in_the_log(
    server: Server, lines: LogLines
) -> None:
    answer = await server.ask(get(b"/v1/boom"))

    assert (answer.status, answer.error["type"]) == (500, "server_error")
    tracebacks = [line for line in lines.events() if "traceback" in line]
    assert [line["request_id"] for line in tracebacks] == [answer.headers["x-request-id"]]


async def test_an_exception_in_a_stream_closes_the_connection_without_an_end(server: Server) -> None:
    async with await server.connect() as connection:
        await connection.send(get(b"/v1/stream", headers=b""))
        said = await connection.until_closed()

    assert said.startswith(b"HTTP/1.1 200")
    assert not said.endswith(b"0\r\n\r\n")


async def test_each_exchange_is_one_line_and_each_refusal_another(server: Server, lines: LogLines) -> None:
    await server.ask(post())
    await server.ask(b"rubbish\r\n\r\n")

    served, refused = lines.events()
    assert (served["event"], served["route"], served["status"]) == ("request", "/v1/chat/completions", 200)
    assert (refused["event"], refused["error"], refused["status"]) == ("request refused", "bad_request", 400)
