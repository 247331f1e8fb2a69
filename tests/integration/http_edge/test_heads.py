"""Transport rows of the bad-input matrix: request lines, headers, hosts and offers of other protocols."""

from __future__ import annotations

import asyncio
import json

import psutil
import pytest

from tests.integration.http_edge.support import CHAT, HOST, JSON, MEGABYTE, Answer, Serve, Server, get, post


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
