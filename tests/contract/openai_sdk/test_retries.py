"""What the official OpenAI client repeats by itself, and what it gives up on."""

from __future__ import annotations

import os
import signal
from typing import Any

import openai
import pytest

from tests.contract.broker import BrokerUnderTest
from tests.contract.openai_sdk.conversation import OPENAI, say, script
from tests.fakes.provider import CallRecord, ScriptedProvider

pytestmark = pytest.mark.xdist_group("contract")


@pytest.mark.parametrize(
    ("cue", "raises", "calls"),
    [
        ({"status": 500}, openai.InternalServerError, 3),
        ({"status": 503}, openai.InternalServerError, 3),
        ({"status": 401}, openai.InternalServerError, 1),
        ({"status": 400}, openai.BadRequestError, 1),
        ({"status": 422}, openai.UnprocessableEntityError, 1),
    ],
    ids=str,
)
async def test_what_the_broker_tried_enough_the_client_does_not_try_again(
    async_client: openai.AsyncOpenAI,
    provider: ScriptedProvider,
    cue: dict[str, Any],
    raises: type[openai.APIStatusError],
    calls: int,
) -> None:
    patient = async_client.with_options(max_retries=2)

    with pytest.raises(raises) as raised:
        await patient.chat.completions.create(model=OPENAI, messages=script(**cue))

    assert raised.value.response.headers.get("x-should-retry", "false") == "false"
    assert raised.value.response.request.headers["x-stainless-retry-count"] == "0"
    assert len(await provider.calls()) == calls


async def test_a_rate_limit_that_stays_is_waited_out_by_the_broker_and_not_by_the_client(
    async_client: openai.AsyncOpenAI, provider: ScriptedProvider
) -> None:
    patient = async_client.with_options(max_retries=2)

    with pytest.raises(openai.RateLimitError) as raised:
        await patient.chat.completions.create(model=OPENAI, messages=script(status=429))

    assert raised.value.response.headers.get("x-should-retry", "false") == "false"
    calls = await provider.calls()
    assert len(calls) > 1
    assert len({call.job for call in calls}) == 1


async def test_a_hiccup_of_the_provider_is_not_heard_of(
    async_client: openai.AsyncOpenAI, provider: ScriptedProvider
) -> None:
    answer = await async_client.chat.completions.create(
        model=OPENAI, messages=script("Hello", status=500, fail_times={"key": "hiccup", "n": 2})
    )

    assert answer.choices[0].message.content == "You said: Hello"
    assert [call.status for call in await provider.calls()] == [500, 500, 200]


def test_an_overloaded_provider_says_when_to_come_back(client: openai.OpenAI) -> None:
    with pytest.raises(openai.RateLimitError) as raised:
        client.chat.completions.create(
            model=OPENAI, messages=script(status=429, headers={"retry-after": "1"})
        )

    assert raised.value.response.headers["retry-after"] == "1"


def test_the_client_comes_back_by_itself_when_the_queue_was_away(
    client: openai.OpenAI, broker: BrokerUnderTest
) -> None:
    client.chat.completions.create(model=OPENAI, messages=say("Let me be known."))
    seen: list[tuple[int, str | None, str | None]] = []

    def thaw(response: Any) -> None:
        headers = response.headers
        seen.append((response.status_code, headers.get("x-should-retry"), headers.get("retry-after")))
        os.kill(broker.redis_pid, signal.SIGCONT)

    with (
        openai.DefaultHttpxClient(event_hooks={"response": [thaw]}) as transport,
        client.with_options(max_retries=4, http_client=transport) as patient,
    ):
        os.kill(broker.redis_pid, signal.SIGSTOP)
        try:
            answer = patient.chat.completions.create(model=OPENAI, messages=say("Hello"))
        finally:
            os.kill(broker.redis_pid, signal.SIGCONT)

    assert answer.choices[0].message.content == "You said: Hello"
    assert seen[0] == (503, "true", "1")
    assert seen[-1] == (200, None, None)


async def test_a_client_out_of_patience_ends_the_call_at_the_provider(
    async_client: openai.AsyncOpenAI, provider: ScriptedProvider
) -> None:
    with pytest.raises(openai.APITimeoutError):
        await async_client.chat.completions.create(
            model=OPENAI, messages=script(hang="before_headers"), timeout=0.4
        )

    (call,) = await provider.calls(closed=1)
    assert call.outcome == "client_closed"


async def test_a_timeout_is_tried_again_as_a_call_of_its_own(
    async_client: openai.AsyncOpenAI, provider: ScriptedProvider
) -> None:
    with pytest.raises(openai.APITimeoutError):
        await async_client.with_options(max_retries=1).chat.completions.create(
            model=OPENAI, messages=script(hang="before_headers"), timeout=0.4
        )

    calls = await provider.calls(closed=2)
    assert len(calls) == 2
    assert len({call.job for call in calls}) == 2


async def test_a_stream_abandoned_by_its_reader_ends_at_the_provider(
    async_client: openai.AsyncOpenAI, provider: ScriptedProvider
) -> None:
    stream = await async_client.chat.completions.create(
        model=OPENAI, messages=script(chunks=400, between_chunks_ms=50), stream=True
    )
    async for _ in stream:
        break
    await stream.close()

    (call,) = await provider.calls(closed=1)
    assert call.outcome == "client_closed"
    assert call.chunks_sent < 400


async def test_an_idempotency_key_makes_the_second_try_the_first_ones_answer(
    async_client: openai.AsyncOpenAI, provider: ScriptedProvider
) -> None:
    ask = async_client.chat.completions.create
    headers = {"Idempotency-Key": f"contract-{os.urandom(8).hex()}"}
    messages = script("Hello", before_headers_ms=600)

    with pytest.raises(openai.APITimeoutError):
        await ask(model=OPENAI, messages=messages, timeout=0.3, extra_headers=headers)
    answer = await ask(model=OPENAI, messages=messages, extra_headers=headers)

    assert answer.choices[0].message.content == "You said: Hello"
    calls: list[CallRecord] = await provider.calls()
    assert [call.outcome for call in calls] == ["complete"]
