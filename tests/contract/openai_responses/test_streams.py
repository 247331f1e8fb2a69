"""Streamed responses, through the official OpenAI client."""

from __future__ import annotations

import httpx
import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel

from tests.contract.openai_responses.conversation import (
    BOTH,
    OPENAI,
    TWO_CALLS,
    WEATHER,
    chat_stream,
    function_calls,
    hear,
    script,
    text_of,
)
from tests.fakes.provider import ScriptedProvider

pytestmark = pytest.mark.xdist_group("contract")

EMOJI = "Fließend 水車 👩‍👩‍👧‍👦 end"


@pytest.mark.parametrize("model", BOTH)
def test_a_stream_ends_in_what_the_plain_response_is(client: openai.OpenAI, model: str) -> None:
    plain = client.responses.create(model=model, input=EMOJI)
    events, streamed = hear(client.responses.create(model=model, input=EMOJI, stream=True))

    assert text_of(events) == plain.output_text == streamed.output_text == f"You said: {EMOJI}"
    assert _comparable(streamed) == _comparable(plain)
    Response.model_validate(streamed.model_dump(warnings="error"), strict=True)


@pytest.mark.parametrize("model", BOTH)
def test_events_come_in_openais_order(client: openai.OpenAI, model: str) -> None:
    events, _ = hear(
        client.responses.create(
            model=model, input=script(text="one two", chunks=2, tool_calls=TWO_CALLS[:1]), tools=[WEATHER],
            stream=True,
        )
    )  # fmt: skip

    assert _without_repeats([event.type for event in events]) == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    ]


def test_reasoning_is_told_as_a_summary_before_the_answer(client: openai.OpenAI) -> None:
    cue = chat_stream({"reasoning_content": "H"}, {"reasoning_content": "m."}, {"content": "Yes."})

    events, response = hear(client.responses.create(model=OPENAI, input=script(**cue), stream=True))

    assert [event.type for event in events][2:9] == [
        "response.output_item.added",
        "response.reasoning_summary_part.added",
        "response.reasoning_summary_text.delta",
        "response.reasoning_summary_text.delta",
        "response.reasoning_summary_text.done",
        "response.reasoning_summary_part.done",
        "response.output_item.done",
    ]
    assert [item.type for item in response.output] == ["reasoning", "message"]
    assert response.output_text == "Yes."


def test_a_refusal_has_events_of_its_own(client: openai.OpenAI) -> None:
    cue = chat_stream({"refusal": "I will "}, {"refusal": "not."})

    events, _ = hear(client.responses.create(model=OPENAI, input=script(**cue), stream=True))

    assert [event.delta for event in events if event.type == "response.refusal.delta"] == ["I will ", "not."]
    assert [event.refusal for event in events if event.type == "response.refusal.done"] == ["I will not."]


@pytest.mark.parametrize("model", BOTH)
def test_a_cut_stream_ends_incomplete(client: openai.OpenAI, model: str) -> None:
    events, response = hear(
        client.responses.create(model=model, input=script("x", finish_reason="length"), stream=True)
    )

    assert events[-1].type == "response.incomplete"
    assert response.status == "incomplete"
    assert response.output[0].type == "message"
    assert response.output[0].status == "incomplete"


class Mill(BaseModel):
    river: str


@pytest.mark.parametrize("model", BOTH)
def test_the_clients_own_stream_helper_puts_it_together(client: openai.OpenAI, model: str) -> None:
    said = script(text='{"river":"Rhine"}', chunks=5)
    with client.responses.stream(model=model, input=said, text_format=Mill) as stream:
        snapshots = [event.snapshot for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()

    assert snapshots[-1] == '{"river":"Rhine"}'
    assert final.output_parsed == Mill(river="Rhine")


@pytest.mark.parametrize("model", BOTH)
def test_the_stream_helper_hears_parallel_calls(client: openai.OpenAI, model: str) -> None:
    said = script(tool_calls=TWO_CALLS, split_writes=True)
    with client.responses.stream(model=model, input=said, tools=[WEATHER]) as stream:
        done = [event for event in stream if event.type == "response.function_call_arguments.done"]
        final = stream.get_final_response()

    assert len(done) == 2
    assert len({call.call_id for call in function_calls(final)}) == 2


@pytest.mark.parametrize("model", BOTH)
def test_a_failure_mid_stream_is_raised(client: openai.OpenAI, model: str) -> None:
    heard: list[ResponseStreamEvent] = []
    stream = client.responses.create(
        model=model, input=script(text="a b c d", chunks=4, error_in_stream=2), stream=True
    )
    with pytest.raises(openai.APIError) as raised:
        heard.extend(stream)

    assert not isinstance(raised.value, openai.APIStatusError)
    assert text_of(heard)
    assert heard[-1].type == "response.output_text.delta"


async def test_a_stream_abandoned_by_its_reader_ends_at_the_provider(
    async_client: openai.AsyncOpenAI, provider: ScriptedProvider
) -> None:
    stream = await async_client.responses.create(
        model=OPENAI, input=script(chunks=400, between_chunks_ms=50), stream=True
    )
    async for event in stream:
        if event.type == "response.output_text.delta":
            break
    await stream.close()

    (call,) = await provider.calls(closed=1)
    assert call.outcome == "client_closed"


def test_every_event_is_named_on_the_wire_and_ids_count_from_one(http: httpx.Client) -> None:
    body = {"model": OPENAI, "input": "Hello", "stream": True}
    answer = http.post("/v1/responses", json=body, headers={"x-stream-ids": "true"})
    frames = [frame.splitlines() for frame in answer.text.split("\n\n") if frame]

    assert "[DONE]" not in answer.text
    for number, (name, event_id, data) in enumerate(frames):
        kind = name.removeprefix("event: ")
        assert data.startswith(f'data: {{"type":"{kind}","sequence_number":{number},')
        assert event_id.endswith(f":{number + 1}")


def _comparable(response: Response) -> dict[str, object]:
    """Without what names this very response."""
    fields = response.model_dump()
    for item in fields["output"]:
        del item["id"]
    return {k: v for k, v in fields.items() if k not in {"id", "created_at"}}


def _without_repeats(kinds: list[str]) -> list[str]:
    return [kind for at, kind in enumerate(kinds) if at == 0 or kinds[at - 1] != kind]
