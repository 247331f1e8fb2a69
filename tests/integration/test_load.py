"""The load generator against the scripted provider: it counts right, and believes nothing unfinished."""

from __future__ import annotations

import asyncio
import socket

import pytest

from bench.load import LoadResult, render_chat, run_load
from tests.fakes.provider import ScriptedProvider

KEY = {"authorization": "Bearer k"}


async def load(
    provider: ScriptedProvider, *, requests: int = 40, concurrency: int = 4, stream: bool = False
) -> LoadResult:
    body = render_chat(model="m", text="hi", stream=stream)
    url = f"{provider.base_url}/chat/completions"
    return await run_load(url, KEY, body, concurrency=concurrency, requests=requests, stream=stream)


async def test_as_many_calls_are_made_as_asked(provider: ScriptedProvider) -> None:
    result = await load(provider)
    stats = await provider.stats()

    assert (result.requests, result.errors, stats["calls"]) == (40, 0, 40)
    assert stats["max_open"] <= 4
    assert 0 < result.ttfb_p50_ms <= result.p50_ms <= result.p99_ms
    assert len(result.latencies_s) == 40


async def test_a_run_of_some_seconds_ends_with_its_last_call(provider: ScriptedProvider) -> None:
    body = render_chat(model="m", text="hi", stream=False)
    result = await run_load(f"{provider.base_url}/chat/completions", KEY, body, concurrency=2, duration_s=0.2)
    stats = await provider.stats()

    assert result.errors == stats["open"] == 0
    assert result.requests == stats["calls"] > 0


async def test_data_frames_of_streams_are_counted(provider: ScriptedProvider) -> None:
    await provider.script({"chunks": 50}, repeat=True)
    result = await load(provider, stream=True)

    assert result.errors == 0
    # One frame opens the answer and one carries the finish reason.
    assert result.chunks == 40 * 52


async def test_frames_are_counted_right_when_they_arrive_in_splinters(provider: ScriptedProvider) -> None:
    await provider.script({"chunks": 5, "split_writes": True}, repeat=True)
    result = await load(provider, requests=4, stream=True)

    assert (result.errors, result.chunks) == (0, 4 * 7)


@pytest.mark.parametrize(
    ("cue", "kind"),
    [
        ({"status": 503}, "status_503"),
        ({"no_done": True}, "no_done"),
        ({"cut_after_chunks": 1}, "closed"),
        ({"cut": "rst"}, "closed"),
    ],
)
async def test_a_call_that_did_not_end_well_is_an_error_of_its_kind(
    provider: ScriptedProvider, cue: dict[str, object], kind: str
) -> None:
    await provider.script(cue)
    result = await load(provider, requests=10, stream=True)

    assert (result.requests, result.error_kinds) == (9, {kind: 1})


async def test_a_call_that_never_ends_is_given_up(provider: ScriptedProvider) -> None:
    await provider.script({"hang": "before_headers"})
    body = render_chat(model="m", text="hi", stream=False)
    result = await run_load(
        f"{provider.base_url}/chat/completions", KEY, body, concurrency=2, requests=10, grace_s=0.2
    )

    assert (result.requests, result.error_kinds) == (9, {"unfinished": 1})
    assert (await provider.calls(closed=10))[0].outcome == "client_closed"


async def test_a_server_that_is_not_there_is_a_connect_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1/chat/completions"
        async with asyncio.timeout(10):
            result = await run_load(url, KEY, b"{}", concurrency=1, requests=2)

    assert result.error_kinds == {"connect": 2}
