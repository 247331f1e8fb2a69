"""Transport rows of the bad-input matrix: bodies, what they say of their length, and early answers."""

from __future__ import annotations

import asyncio

import pytest

from api.http_protocol import BoundedHttpToolsProtocol
from tests.integration.http_edge.support import (
    CHAT,
    CHUNK,
    HALF,
    HOST,
    JSON,
    MEGABYTE,
    SETTINGS,
    Answer,
    Serve,
    Server,
    post,
)


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
