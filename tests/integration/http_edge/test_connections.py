"""Transport rows of the bad-input matrix: the order of requests, the clocks of a connection, and its log."""

from __future__ import annotations

import asyncio
import json

from api.http_protocol import BoundedHttpToolsProtocol
from tests.integration.http_edge.support import Answer, Serve, Server, get, post
from tests.unit.observability.log_lines import LogLines


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
