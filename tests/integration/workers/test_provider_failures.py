"""Whatever a provider does, its job ends in the right error, and in nothing else."""

from __future__ import annotations

import asyncio
import gzip
import socket
from collections.abc import Iterator
from functools import partial

import pytest

from shared.errors import BrokerError
from shared.queue.frames import Result
from tests.integration.queue.support import Queue, a_job
from tests.integration.workers import support
from tests.integration.workers.raw_provider import (
    COMPLETION,
    DONE,
    JSON_HEAD,
    STOP_EVENT,
    STREAM_HEAD,
    Behaviour,
    Exchange,
    answer,
    chunk,
    error,
    event,
    sends,
    sends_then_hangs,
    serving,
)
from tests.integration.workers.support import FAST, SECRET, failure, open_connections

a_worker = partial(support.a_worker, provider=FAST)

UNAVAILABLE = ("provider_error", "provider_unavailable", 502)
BUSY = ("provider_error", "provider_unavailable", 503)
TIMEOUT = ("timeout_error", "provider_timeout", 504)
INVALID = ("provider_error", "invalid_response", 502)
MISCONFIGURED = ("provider_error", "provider_error", 502)
REFUSED = ("provider_error", "provider_credential_refused", 502)

HTML_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n"
BOMB = gzip.compress(b"0" * 50_000_000)
"""Fifty megabytes on the inside, and more than the cap allows on the outside."""
SMALL_BOMB = gzip.compress(b"0" * 5_000_000)


async def resets(exchange: Exchange) -> None:
    linger = (1).to_bytes(4, "little") + bytes(4)
    exchange.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    exchange.writer.close()


async def closes(exchange: Exchange) -> None:
    exchange.writer.close()


async def trickles(exchange: Exchange) -> None:
    """An event now and then, for ever: never idle, never done."""
    await exchange.send(STREAM_HEAD)
    closing = asyncio.ensure_future(exchange.until_closed())
    while not exchange.closed.is_set():
        await exchange.send(chunk(event()))
        await asyncio.wait({closing}, timeout=0.05)
    closing.cancel()


PLAIN: dict[str, tuple[Behaviour, tuple[str, str | None, int]]] = {
    "closed before an answer": (closes, UNAVAILABLE),
    "reset before an answer": (resets, UNAVAILABLE),
    "silence": (sends_then_hangs(), TIMEOUT),
    "head and then silence": (sends_then_hangs(JSON_HEAD + b"content-length: 9\r\n\r\n"), TIMEOUT),
    "half a head": (sends_then_hangs(b"HTTP/1.1 200 OK\r\ncontent-"), TIMEOUT),
    "half a head, closed": (sends(b"HTTP/1.1 200 OK\r\ncontent-"), UNAVAILABLE),
    "half a body": (sends(JSON_HEAD + b"content-length: 999\r\n\r\n" + COMPLETION), UNAVAILABLE),
    "half a chunked body": (
        sends(JSON_HEAD + b"transfer-encoding: chunked\r\n\r\n", chunk(b'{"a":')),
        UNAVAILABLE,
    ),
    "body longer than the cap": (sends(answer(b" " * 40_000)), INVALID),
    "chunked body longer than the cap": (
        sends(JSON_HEAD + b"transfer-encoding: chunked\r\n\r\n", *[chunk(b" " * 8_000)] * 5, chunk(b"")),
        INVALID,
    ),
    "gzip, unasked": (sends(answer(SMALL_BOMB, head=JSON_HEAD + b"content-encoding: gzip\r\n")), INVALID),
    "gzip bomb": (sends(answer(BOMB, head=JSON_HEAD + b"content-encoding: gzip\r\n")), INVALID),
    "not HTTP": (sends(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"), INVALID),
    "noise": (sends(bytes(range(256)) * 20), INVALID),
    "a header bomb": (sends(b"HTTP/1.1 200 OK\r\nx: " + b"a" * 1_000_000 + b"\r\n\r\n"), INVALID),
    "a bomb of many headers": (
        sends(b"HTTP/1.1 200 OK\r\n" + b"".join(b"x-%d: a\r\n" % i for i in range(50_000)) + b"\r\n"),
        INVALID,
    ),
    "a content-length that is none": (sends(JSON_HEAD + b"content-length: ten\r\n\r\n"), INVALID),
    "two content-lengths": (
        sends(JSON_HEAD + b"content-length: 1\r\ncontent-length: 2\r\n\r\nab"),
        INVALID,
    ),
    "a chunk size that is none": (
        sends(JSON_HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\nab\r\n0\r\n\r\n"),
        INVALID,
    ),
    "an empty body": (sends(answer(b"")), INVALID),
    "HTML": (sends(answer(b"<html>busy</html>")), INVALID),
    "JSON that is no completion": (sends(answer(b"[]")), INVALID),
    "a completion of null": (sends(answer(b'{"choices":[{"message":null}]}')), INVALID),
    "NaN": (sends(answer(b'{"choices":NaN}')), INVALID),
    "deep JSON": (sends(answer(b"[" * 20_000)), INVALID),
    "invalid UTF-8": (sends(answer(b'{"choices":"\xff"}')), INVALID),
    "an error with status 200": (
        sends(answer(b'{"error":{"message":"x","type":"server_error"}}')),
        UNAVAILABLE,
    ),
    "redirect": (
        sends(error(302, headers=b"location: /elsewhere\r\n")),
        ("provider_error", "provider_error", 502),
    ),
    "permanent redirect": (
        sends(error(308, headers=b"location: /elsewhere\r\n")),
        ("provider_error", "provider_error", 502),
    ),
    "204": (sends(b"HTTP/1.1 204 No\r\n\r\n"), ("provider_error", "provider_error", 502)),
    "400": (sends(error(400)), ("provider_error", "provider_rejected", 400)),
    "401": (sends(error(401)), REFUSED),
    "403": (sends(error(403)), REFUSED),
    "404": (sends(error(404)), ("provider_error", "model_not_found", 404)),
    "408": (sends(error(408)), UNAVAILABLE),
    "429": (sends(error(429)), ("rate_limit_error", "rate_limit_exceeded", 429)),
    "500": (sends(error(500)), UNAVAILABLE),
    "502 in HTML": (sends(error(502, body=b"<html>")), UNAVAILABLE),
    "503": (sends(error(503)), BUSY),
    "529": (sends(error(529)), BUSY),
    "an error body without end": (
        sends_then_hangs(b"HTTP/1.1 500 No\r\ncontent-length: 99999999\r\n\r\n", b"x" * 100_000),
        UNAVAILABLE,
    ),
}

STREAMED: dict[str, tuple[Behaviour, tuple[str, str | None, int], int]] = {
    "silence": (sends_then_hangs(), TIMEOUT, 0),
    "head and then silence": (sends_then_hangs(STREAM_HEAD), TIMEOUT, 0),
    "silence after events": (sends_then_hangs(STREAM_HEAD, chunk(event() * 2)), TIMEOUT, 2),
    "trickle without end": (trickles, TIMEOUT, -1),
    "cut mid stream": (sends(STREAM_HEAD, chunk(event() * 3)), UNAVAILABLE, 3),
    "cut mid event": (sends(STREAM_HEAD, chunk(event() + event()[:20])), UNAVAILABLE, 1),
    "ended without a sign": (sends(STREAM_HEAD, chunk(event()), chunk(b"")), UNAVAILABLE, 1),
    # In one read, so that nothing has been passed on yet.
    "[DONE] without a reason": (sends(STREAM_HEAD, chunk(event() + DONE), chunk(b"")), UNAVAILABLE, 0),
    "[DONE] alone": (sends(STREAM_HEAD, chunk(DONE), chunk(b"")), UNAVAILABLE, 0),
    "ended with one of two choices open": (
        sends(STREAM_HEAD, chunk(event() + event(choice=1)), chunk(STOP_EVENT), chunk(b"")),
        UNAVAILABLE,
        3,
    ),
    "[DONE] with one of two choices open": (
        sends(STREAM_HEAD, chunk(event() + event(choice=1) + STOP_EVENT + DONE), chunk(b"")),
        UNAVAILABLE,
        0,
    ),
    "ended before it began": (sends(STREAM_HEAD, chunk(b"")), UNAVAILABLE, 0),
    "an event that is not JSON": (sends(STREAM_HEAD, chunk(event() + b"data: {oops\n\n")), INVALID, 1),
    "an event that is no chunk": (sends(STREAM_HEAD, chunk(event() + b"data: [1]\n\n")), INVALID, 1),
    "a delta that is no object": (
        sends(STREAM_HEAD, chunk(event() + b'data: {"choices":[{"index":0,"delta":"tick "}]}\n\n')),
        INVALID,
        1,
    ),
    "an error event": (
        sends(STREAM_HEAD, chunk(event() + b'data: {"error":{"message":"x","type":"server_error"}}\n\n')),
        UNAVAILABLE,
        1,
    ),
    "longer than the cap": (
        sends(STREAM_HEAD, *[chunk(event("x" * 900)) for _ in range(40)], chunk(DONE), chunk(b"")),
        INVALID,
        -1,
    ),
    "an event without end": (sends(STREAM_HEAD, *[chunk(b"x" * 8_000)] * 5), INVALID, 0),
    "HTML": (sends(answer(b"<html>busy</html>", head=HTML_HEAD)), INVALID, 0),
    "a plain answer": (sends(answer()), INVALID, 0),
    "a plain error with status 200": (
        sends(answer(b'{"error":{"message":"x","type":"server_error"}}')),
        UNAVAILABLE,
        0,
    ),
    "gzip": (
        sends(answer(SMALL_BOMB, head=b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n")),
        UNAVAILABLE,
        0,
    ),
    "429": (sends(error(429)), ("rate_limit_error", "rate_limit_exceeded", 429), 0),
    "500": (sends(error(500)), UNAVAILABLE, 0),
}


def told(result: Result) -> tuple[str, str | None, int]:
    error: BrokerError = failure(result)
    assert result.head.status == error.status
    assert SECRET not in repr(result)
    assert "127.0.0.1" not in error.message
    return error.type, error.code, error.status


@pytest.mark.parametrize("name", PLAIN)
async def test_a_plain_call_that_fails(queue: Queue, name: str) -> None:
    behave, expected = PLAIN[name]
    async with serving(behave) as provider, a_worker(queue, provider.base_url) as worker:
        result = await worker.run(a_job())

        assert told(result) == expected
        assert len(provider.exchanges) == 1
        assert open_connections(worker) == 0
        ((_, settlement),) = await queue.usage()
        assert settlement.error == expected[1]
        assert settlement.usage.total_tokens == 0


@pytest.mark.parametrize("name", STREAMED)
async def test_a_stream_that_fails(queue: Queue, name: str) -> None:
    behave, expected, events = STREAMED[name]
    job = a_job(stream=True)
    async with serving(behave) as provider, a_worker(queue, provider.base_url) as worker:
        result = await worker.run(job)

        assert told(result) == expected
        assert len(await worker.events(job)) == events or events < 0
        assert open_connections(worker) == 0


@pytest.mark.parametrize(
    "parts",
    [
        (chunk(event() + STOP_EVENT), chunk(DONE), chunk(b"")),
        (chunk(event() + STOP_EVENT + DONE),),
        (chunk(event() + STOP_EVENT), chunk(b"")),
        (chunk(event()), chunk(STOP_EVENT[:-2]), chunk(b"")),
        (chunk(event("", finish_reason='"length"', choice=1) + STOP_EVENT), chunk(b"")),
        # What OpenRouter tells of usage: in a choice that has ended.
        (chunk(STOP_EVENT + event("")), chunk(DONE), chunk(b"")),
    ],
    ids=[
        "whole",
        "cut after [DONE]",
        "missing [DONE]",
        "missing [DONE] and the last blank line",
        "two choices",
        "more of a choice that ended",
    ],
)
async def test_a_stream_that_says_why_it_ends_is_whole(queue: Queue, parts: tuple[bytes, ...]) -> None:
    job = a_job(stream=True)
    async with serving(sends(STREAM_HEAD, *parts)) as provider, a_worker(queue, provider.base_url) as worker:
        result = await worker.run(job)

        assert result.head.outcome == "succeeded"
        assert len(await worker.events(job)) == result.last == 2


async def test_a_provider_that_is_not_there(queue: Queue) -> None:
    async with serving(closes) as provider:
        gone = provider.base_url
    async with a_worker(queue, gone) as worker:
        assert told(await worker.run(a_job())) == UNAVAILABLE


@pytest.fixture
def full_backlog() -> Iterator[int]:
    """The port of a socket on which connection attempts are left without an answer."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = []
        for _ in range(4):
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
            waiting.append(one)
        yield listener.getsockname()[1]
        for one in waiting:
            one.close()


async def test_a_provider_that_does_not_accept(queue: Queue, full_backlog: int) -> None:
    async with a_worker(queue, f"http://127.0.0.1:{full_backlog}/v1") as worker:
        result = await worker.run(a_job())

    assert told(result) == TIMEOUT
    assert "connected" in failure(result).message
    ((_, settlement),) = await queue.usage()
    assert settlement.provider_ms < FAST.total_seconds * 1000


@pytest.mark.parametrize(
    ("behave", "stream", "phase"),
    [
        (sends_then_hangs(), False, "total, 0.6 s"),
        (sends_then_hangs(), True, "first byte, 0.25 s"),
        (sends_then_hangs(STREAM_HEAD), True, "first byte, 0.25 s"),
        (sends_then_hangs(STREAM_HEAD, chunk(event())), True, "idle, 0.25 s"),
        (trickles, True, "total, 0.6 s"),
    ],
)
async def test_a_timeout_names_the_clock_that_ran_out(
    queue: Queue, behave: Behaviour, stream: bool, phase: str
) -> None:
    async with serving(behave) as provider, a_worker(queue, provider.base_url) as worker:
        result = await worker.run(a_job(stream=stream))

    assert phase in failure(result).message


async def test_a_deadline_shorter_than_the_providers_clocks_is_the_callers(queue: Queue) -> None:
    async with serving(sends_then_hangs()) as provider, a_worker(queue, provider.base_url) as worker:
        result = await worker.run(a_job(budget_ms=100))

    assert told(result) == ("timeout_error", "deadline_exceeded", 504)


async def test_a_name_that_does_not_resolve(queue: Queue) -> None:
    async with a_worker(queue, "http://nowhere.invalid/v1") as worker:
        assert told(await worker.run(a_job())) == UNAVAILABLE


async def test_a_provider_that_does_not_speak_tls(queue: Queue) -> None:
    def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with a_worker(queue, f"https://127.0.0.1:{port}/v1") as worker:
        assert told(await worker.run(a_job())) == UNAVAILABLE
    server.close()


async def test_a_tls_handshake_that_hangs_ends_with_the_connect_clock(queue: Queue) -> None:
    async with (
        serving(sends_then_hangs()) as provider,
        a_worker(queue, provider.base_url.replace("http:", "https:")) as worker,
    ):
        result = await worker.run(a_job())

    assert told(result) == TIMEOUT
    assert "connected" in failure(result).message
