"""What a worker or scheduler answers on its own port, over real sockets."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import httpx
import pytest

from shared.observability import metrics
from shared.observability.process_port import MAX_CONNECTIONS, MAX_HEAD_BYTES, Answers, serving
from tests.fakes.server_process import free_port


async def page() -> bytes:
    return b"one 1\n"


async def well() -> str | None:
    return None


async def unwell() -> str | None:
    return 'draining "now"'


async def ask(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    try:
        return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


async def test_it_answers_scrapers_and_probes_and_nobody_else() -> None:
    port = free_port()
    async with (
        serving("127.0.0.1", port, Answers(page, well, unwell)),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
    ):
        scraped = await client.get("/metrics?all=1")
        live, ready = await client.get("/health/live"), await client.get("/health/ready")
        head = await client.head("/metrics")

        assert (scraped.status_code, scraped.text) == (200, "one 1\n")
        assert scraped.headers["content-type"] == metrics.CONTENT_TYPE
        assert (head.status_code, head.text, head.headers["content-length"]) == (200, "", "6")
        assert (live.status_code, live.json()) == (200, {"status": "ok"})
        assert (ready.status_code, ready.json()) == (
            503,
            {"status": "unavailable", "reason": 'draining "now"'},
        )
        assert "\n" not in ready.text
        assert (await client.get("/")).status_code == 404
        assert (await client.get("/metrics/")).status_code == 404
        assert (await client.post("/metrics", content=b"x" * 100_000)).status_code == 405
        assert (await ask(port, b"GET /metrics\r\n\r\n")).startswith(b"HTTP/1.1 400 ")
        long = b"GET /metrics HTTP/1.1\r\nx: " + b"y" * (2 * MAX_HEAD_BYTES) + b"\r\n\r\n"
        assert (await ask(port, long)).startswith(b"HTTP/1.1 431 ")


async def test_without_a_page_there_are_no_metrics() -> None:
    port = free_port()
    async with (
        serving("127.0.0.1", port, Answers(None, well, well)),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
    ):
        assert (await client.get("/metrics")).status_code == 404
        assert (await client.get("/health/ready")).status_code == 200


async def test_those_who_only_connect_keep_no_probe_out() -> None:
    port = free_port()
    async with serving("127.0.0.1", port, Answers(page, well, well)):
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(MAX_CONNECTIONS)]

        assert b" 200 " in await ask(port, b"GET /health/live HTTP/1.1\r\n\r\n")
        reader, _ = idle[0]
        with suppress(ConnectionError):
            assert await reader.read() == b""
        for _, writer in idle:
            writer.close()


async def test_a_port_that_is_taken_is_an_error() -> None:
    port = free_port()
    async with serving("127.0.0.1", port, Answers(page, well, well)):
        with pytest.raises(OSError, match="in use"):
            async with serving("127.0.0.1", port, Answers(page, well, well)):
                pass


async def test_an_answer_under_way_does_not_hold_up_the_end_of_the_process() -> None:
    port, asked = free_port(), asyncio.Event()

    async def never() -> bytes:
        asked.set()
        await asyncio.Event().wait()
        return b""

    async with asyncio.timeout(2):
        async with serving("127.0.0.1", port, Answers(never, well, well)):
            asking = asyncio.create_task(ask(port, b"GET /metrics HTTP/1.1\r\n\r\n"))
            await asked.wait()
        # Closed or reset, as the kernel has it: no answer.
        [got] = await asyncio.gather(asking, return_exceptions=True)
        assert got == b"" or isinstance(got, ConnectionError)
