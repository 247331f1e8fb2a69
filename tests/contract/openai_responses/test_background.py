"""Responses in the background, through the official OpenAI client."""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import Any

import httpx
import openai
import pytest
from openai.types.responses import Response

from tests.contract.broker import BrokerUnderTest
from tests.contract.openai_responses.conversation import ANTHROPIC, BOTH, OPENAI, script, text_of
from tests.fakes.provider import ScriptedProvider

pytestmark = pytest.mark.xdist_group("contract")

WAITS = ("queued", "in_progress")


def ended(client: openai.OpenAI, response: Response) -> Response:
    """Polled, as OpenAI's guide has it."""
    give_up_at = time.monotonic() + 20
    while response.status in WAITS and time.monotonic() < give_up_at:
        response = client.responses.retrieve(response.id)
    return response


@pytest.mark.parametrize("model", BOTH)
def test_a_response_is_made_in_the_background_of_any_provider(client: openai.OpenAI, model: str) -> None:
    waits = client.responses.create(
        model=model, input=script("Hello", before_headers_ms=300), background=True, metadata={"order": "17"}
    )

    done = ended(client, waits)

    assert (waits.status, waits.output, waits.background) == ("queued", [], True)
    assert (done.id, done.status, done.background) == (waits.id, "completed", True)
    assert done.output_text == "You said: Hello"
    assert done.metadata == {"order": "17"}
    assert done.created_at == waits.created_at
    assert client.responses.retrieve(waits.id) == done


def test_the_provider_is_not_told_of_it(client: openai.OpenAI) -> None:
    done = ended(client, client.responses.create(model="echo/phi-4", input="Hello", background=True))

    assert json.loads(done.output_text)["body"].keys() <= {"model", "messages", "stream"}


def test_what_is_not_stored_cannot_be_in_the_background(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model=OPENAI, input="Hello", background=True, store=False)

    assert refused.value.param == "store"


def test_one_that_fails_says_why_and_one_cut_short_that_it_was(client: openai.OpenAI) -> None:
    failed = ended(client, client.responses.create(model=OPENAI, input=script(status=400), background=True))
    cut = client.responses.create(
        model=OPENAI, input=script(text="a b", finish_reason="length"), background=True
    )
    cut = ended(client, cut)

    assert failed.status == "failed"
    assert failed.error is not None
    assert failed.error.code == "invalid_prompt"
    assert (cut.status, cut.incomplete_details and cut.incomplete_details.reason) == (
        "incomplete",
        "max_output_tokens",
    )


@pytest.mark.parametrize("model", BOTH)
def test_a_conversation_goes_on_from_the_background_and_in_it(client: openai.OpenAI, model: str) -> None:
    first = ended(client, client.responses.create(model=model, input="One", background=True))
    second = client.responses.create(
        model="echo/phi-4", input="Two", background=True, previous_response_id=first.id
    )
    second = ended(client, second)
    messages = json.loads(second.output_text)["body"]["messages"]
    items = list(client.responses.input_items.list(second.id, order="asc"))

    assert [message["content"] for message in messages] == ["One", "You said: One", "Two"]
    assert len(items) == 3
    waits = client.responses.create(model=OPENAI, input=script(before_headers_ms=500), background=True)
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model=OPENAI, input="x", previous_response_id=waits.id)
    assert refused.value.code == "previous_response_not_completed"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_cancelled_one_lets_go_of_the_provider_within_a_second(
    client: openai.OpenAI, provider: ScriptedProvider, *, stream: bool
) -> None:
    cue = {"chunks": 400, "between_chunks_ms": 50} if stream else {"hang": "before_headers"}
    waits: Any = await asyncio.to_thread(_begun, client, script(**cue), stream=stream)
    await provider.calls(opened=1)

    started = time.monotonic()
    cancelled = await asyncio.to_thread(client.responses.cancel, waits.id)
    (call,) = await provider.calls(closed=1)
    took = time.monotonic() - started
    again = await asyncio.to_thread(client.responses.cancel, waits.id)

    assert (cancelled.id, cancelled.status) == (waits.id, "cancelled")
    assert call.outcome == "client_closed"
    assert took < 1
    assert again == cancelled


def _begun(client: openai.OpenAI, asked: str, *, stream: bool) -> Any:
    if not stream:
        return client.responses.create(model=OPENAI, input=asked, background=True)
    with client.responses.create(model=OPENAI, input=asked, background=True, stream=True) as events:
        return next(events).response  # type: ignore[union-attr]  # the first one says what was created


def test_one_that_ended_stays_as_it_is_when_it_is_cancelled(client: openai.OpenAI) -> None:
    done = ended(client, client.responses.create(model=OPENAI, input="Hello", background=True))

    assert client.responses.cancel(done.id) == done


def test_a_deleted_one_is_gone(client: openai.OpenAI) -> None:
    done = ended(client, client.responses.create(model=OPENAI, input="Hello", background=True))
    client.responses.delete(done.id)

    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(done.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.delete(done.id)


@pytest.mark.parametrize("model", BOTH)
def test_its_events_are_told_from_when_it_waits(client: openai.OpenAI, model: str) -> None:
    asked = script(text="one two three", chunks=3, before_headers_ms=300)
    events = list(client.responses.create(model=model, input=asked, background=True, stream=True))
    last = events[-1]
    assert last.type == "response.completed"
    again = list(client.responses.retrieve(last.response.id, stream=True))

    assert [event.type for event in events[:3]] == [
        "response.created",
        "response.queued",
        "response.in_progress",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert text_of(events) == "one two three"
    assert again == events
    assert client.responses.retrieve(last.response.id).to_dict() == last.response.to_dict()


@pytest.mark.parametrize("heard", [1, 2, 4])
async def test_a_broken_stream_goes_on_where_it_broke(
    client: openai.OpenAI, provider: ScriptedProvider, heard: int
) -> None:
    def ask() -> list[Any]:
        asked = script(text="one two three four", chunks=4, before_headers_ms=200, between_chunks_ms=200)
        with client.responses.create(model=OPENAI, input=asked, background=True, stream=True) as stream:
            return [next(stream) for _ in range(heard)]

    events = await asyncio.to_thread(ask)
    # Longer than a caller who left is waited for.
    await provider.calls(closed=1)
    response_id = events[0].response.id
    rest = list(
        client.responses.retrieve(response_id, stream=True, starting_after=events[-1].sequence_number)
    )

    assert [event.sequence_number for event in events + rest] == list(range(len(events + rest)))
    assert text_of(events + rest) == "one two three four"
    assert rest[-1].type == "response.completed"
    assert [call.outcome for call in await provider.calls()] == ["complete"]


def test_a_stream_of_one_that_failed_early_can_be_read_on_too(client: openai.OpenAI) -> None:
    created = client.responses.create(model=OPENAI, input=script(status=400), background=True, stream=True)
    first = next(created)
    assert first.type == "response.created"
    with pytest.raises(openai.APIError):
        list(created)
    ended(client, first.response)

    for after in (0, 1):
        with pytest.raises(openai.APIError):
            list(client.responses.retrieve(first.response.id, stream=True, starting_after=after))
    with pytest.raises(openai.BadRequestError):
        client.responses.retrieve(first.response.id, stream=True, starting_after=9)


def test_one_key_is_one_response(client: openai.OpenAI) -> None:
    headers = {"Idempotency-Key": f"contract-{os.urandom(8).hex()}"}

    def ask(text: str) -> Response:
        return client.responses.create(model=OPENAI, input=text, background=True, extra_headers=headers)

    first = ask("Hello")
    done = ended(client, first)

    assert ask("Hello") == done
    with pytest.raises(openai.UnprocessableEntityError):
        ask("Something else")


def test_a_job_of_this_form_is_a_response(
    http: httpx.Client, client: openai.OpenAI, broker: BrokerUnderTest
) -> None:
    body = {"model": ANTHROPIC, "input": "Hello"}
    job = http.post("/api/v1/jobs", json={"endpoint": "/v1/responses", "body": body}).json()
    response_id = job["id"].replace("job_", "resp_")
    done = ended(client, client.responses.retrieve(response_id))

    assert done.output_text == "You said: Hello"
    assert done.background is True
    with openai.OpenAI(base_url=broker.base_url, api_key=broker.other_api_key) as stranger:
        for ask in (stranger.responses.retrieve, stranger.responses.cancel, stranger.responses.delete):
            with pytest.raises(openai.NotFoundError):
                ask(response_id)
