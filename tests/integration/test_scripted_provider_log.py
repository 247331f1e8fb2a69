"""The scripted provider's account of its calls, and its life as a process."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from pathlib import Path

import pytest

from tests.fakes.provider import ScriptedProvider

HOLD = '{"hang": "mid_stream", "name": "hold"}'


def request(*, job: str = "job_1", cue: str = "{}", stream: bool = True) -> bytes:
    body = json.dumps({"model": "m", "stream": stream, "messages": [{"role": "user", "content": "hi"}]})
    return (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer k\r\n"
        f"x-headrace-job-id: {job}\r\nx-headrace-attempt: 2\r\nx-script: {cue}\r\n"
        f"content-length: {len(body)}\r\n\r\n{body}"
    ).encode()


def connect(provider: ScriptedProvider) -> socket.socket:
    host, _, port = provider.url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)))


async def test_a_call_is_logged_with_its_job_attempt_cue_and_outcome(provider: ScriptedProvider) -> None:
    with connect(provider) as caller:
        caller.sendall(request(cue='{"chunks": 3, "name": "three"}'))
        (call,) = await provider.calls(closed=1)

    assert (call.job, call.attempt, call.model, call.stream) == ("job_1", 2, "m", True)
    assert (call.path, call.cue, call.status) == ("/v1/chat/completions", "three", 200)
    assert (call.chunks_sent, call.outcome) == (3, "complete")
    assert call.close_at is not None
    assert call.open_at <= call.close_at


@pytest.mark.parametrize("linger", [None, struct.pack("ii", 1, 0)], ids=["fin", "rst"])
@pytest.mark.parametrize("cue", [HOLD, '{"between_chunks_ms": 1, "chunks": 100000}', '{"huge_body_mb": 200}'])
async def test_a_client_that_leaves_is_noticed(
    provider: ScriptedProvider, cue: str, linger: bytes | None
) -> None:
    caller = connect(provider)
    caller.sendall(request(cue=cue))
    await provider.calls(opened=1)
    if linger:
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    caller.close()
    (call,) = await provider.calls(closed=1)

    assert call.outcome == "client_closed"


async def test_stats_count_open_calls_and_the_most_at_once(provider: ScriptedProvider) -> None:
    callers = [connect(provider) for _ in range(3)]
    for caller in callers:
        caller.sendall(request(cue=HOLD))
    await provider.calls(opened=3)
    during = await provider.stats()
    for caller in callers:
        caller.close()
    await provider.calls(closed=3)
    after = await provider.stats()

    assert (during["open"], during["max_open"]) == (3, 3)
    assert (after["open"], after["max_open"], after["outcomes"]) == (0, 3, {"client_closed": 3})


async def test_a_call_still_open_when_cleared_is_not_counted_later(provider: ScriptedProvider) -> None:
    old = connect(provider)
    old.sendall(request(cue=HOLD))
    await provider.calls(opened=1)
    await provider.clear()
    with connect(provider) as new:
        new.sendall(request(job="job_2"))
        old.close()
        calls = await provider.calls(closed=1)

    assert [call.job for call in calls] == ["job_2"]
    assert (await provider.stats())["open"] == 0


async def test_the_log_file_has_an_open_and_a_close_line_per_call(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    provider = ScriptedProvider(log=path).start()
    with connect(provider) as caller:
        caller.sendall(request(cue=HOLD))
        await provider.calls(opened=1)
        before = [json.loads(line) for line in path.read_text().splitlines()]
        code = provider.stop()
    lines = [json.loads(line) for line in path.read_text().splitlines()]

    assert [line["event"] for line in before] == ["open"]
    assert [line["event"] for line in lines] == ["open", "close"]
    assert lines[1]["outcome"] == "stopped"
    assert {key: lines[1][key] for key in lines[0] if key != "event"} == {
        key: value for key, value in lines[0].items() if key != "event"
    }
    assert code == 0


async def test_it_starts_again_on_its_port_after_a_kill() -> None:
    provider = ScriptedProvider().start()
    url = provider.url
    provider.kill()
    provider.start()
    try:
        assert provider.url == url
        assert await provider.calls() == []
    finally:
        assert provider.stop() == 0


async def test_a_delay_for_all_holds_every_reply(tmp_path: Path) -> None:
    provider = ScriptedProvider(delay_ms=30).start()
    try:
        with connect(provider) as caller:
            caller.sendall(request(stream=False))
            (call,) = await provider.calls(closed=1)
    finally:
        provider.stop()

    assert call.close_at is not None
    # The loop counts from when it woke up, which may be a few ms before the call was opened.
    assert call.close_at - call.open_at >= 0.02


async def test_health_needs_no_credential(provider: ScriptedProvider) -> None:
    reader, writer = await asyncio.open_connection(*provider.url.removeprefix("http://").split(":"))
    writer.write(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    reply = await reader.read(-1)
    writer.close()
    await writer.wait_closed()

    assert reply.startswith(b"HTTP/1.1 200 OK")
    assert reply.endswith(b'{"status":"ok"}')
