"""Responses read again, continued and deleted, through the official OpenAI client."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest
from redis.asyncio import Redis

from shared import keyspace
from shared.ids import JobId
from tests.contract.broker import BrokerUnderTest
from tests.contract.openai_responses.conversation import (
    ANTHROPIC,
    BOTH,
    OPENAI,
    WEATHER,
    function_calls,
    hear,
    script,
    text_of,
)
from tests.fixtures.stack import FreshStack

pytestmark = pytest.mark.xdist_group("contract")

UNKNOWN = "resp_" + "0" * 32


@pytest.fixture
def other_client(broker: BrokerUnderTest) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=broker.base_url, api_key=broker.other_api_key, max_retries=0) as client:
        yield client


@pytest.mark.parametrize("model", BOTH)
def test_a_response_is_read_again_as_it_was_answered(client: openai.OpenAI, model: str) -> None:
    plain = client.responses.create(model=model, input="Hello")
    _, streamed = hear(client.responses.create(model=model, input="Hello", stream=True))

    assert client.responses.retrieve(plain.id) == plain
    assert client.responses.retrieve(streamed.id) == streamed


@pytest.mark.parametrize("starting_after", [None, 0, 3, 7])
def test_a_streamed_response_is_replayed_behind_a_sequence_number(
    client: openai.OpenAI, starting_after: int | None
) -> None:
    events, response = hear(
        client.responses.create(model=OPENAI, input=script(text="a b c d", chunks=4), stream=True)
    )
    behind = openai.omit if starting_after is None else starting_after

    again = list(client.responses.retrieve(response.id, stream=True, starting_after=behind))

    assert again == events[0 if starting_after is None else starting_after + 1 :]


def test_a_stream_still_running_is_taken_up_where_it_was_left(client: openai.OpenAI) -> None:
    asked = script(text="one two three four five six", chunks=6, between_chunks_ms=60)
    with client.responses.create(model=OPENAI, input=asked, stream=True) as stream:
        heard = [next(stream) for _ in range(5)]
        created = heard[0]
        assert created.type == "response.created"
        rest = list(
            client.responses.retrieve(
                created.response.id, stream=True, starting_after=heard[-1].sequence_number
            )
        )

    assert [event.sequence_number for event in heard + rest] == list(range(len(heard + rest)))
    assert text_of(heard + rest) == "one two three four five six"
    assert rest[-1].type == "response.completed"


@pytest.mark.parametrize("model", BOTH)
def test_a_conversation_goes_on_without_being_sent_again(client: openai.OpenAI, model: str) -> None:
    first = client.responses.create(
        model="echo/phi-4", input="One", instructions="Only for the first.", store=True
    )
    second = client.responses.create(model=model, input="Two", previous_response_id=first.id)
    third = client.responses.create(model="echo/phi-4", input="Three", previous_response_id=second.id)
    messages = json.loads(third.output_text)["body"]["messages"]

    assert second.previous_response_id == first.id
    assert third.previous_response_id == second.id
    assert messages == [
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "Two"},
        {"role": "assistant", "content": "You said: Two"},
        {"role": "user", "content": "Three"},
    ]


def test_a_conversation_outlives_the_response_it_went_on_from(client: openai.OpenAI) -> None:
    first = client.responses.create(model=OPENAI, input="One")
    second = client.responses.create(model=OPENAI, input="Two", previous_response_id=first.id)
    client.responses.delete(first.id)

    third = client.responses.create(model="echo/phi-4", input="Three", previous_response_id=second.id)

    assert [m["content"] for m in json.loads(third.output_text)["body"]["messages"]][::2] == [
        "One",
        "Two",
        "Three",
    ]


@pytest.mark.parametrize("model", BOTH)
def test_a_function_call_is_continued_with_its_output_alone(client: openai.OpenAI, model: str) -> None:
    _, first = hear(client.responses.create(model=model, input="Paris", tools=[WEATHER], stream=True))
    (call,) = function_calls(first)

    second = client.responses.create(
        model=model,
        previous_response_id=first.id,
        input=[{"type": "function_call_output", "call_id": call.call_id, "output": "21 degrees"}],
        tools=[WEATHER],
    )

    assert second.output_text == "The tool said: 21 degrees"


def test_input_items_are_all_that_the_response_was_made_from(client: openai.OpenAI) -> None:
    first = client.responses.create(model=OPENAI, input="One")
    second = client.responses.create(
        model=OPENAI,
        previous_response_id=first.id,
        input=[{"role": "user", "content": [{"type": "input_text", "text": "Two"}]}],
    )

    items = list(client.responses.input_items.list(second.id, order="asc"))
    newest_first = list(client.responses.input_items.list(second.id, limit=1))

    assert [_said(item) for item in items] == ["One", "You said: One", "Two"]
    assert items[1].id == first.output[0].id
    assert [item.id for item in newest_first] == [item.id for item in reversed(items)]
    assert len({item.id for item in items}) == 3


def test_pages_of_input_items_say_whether_there_are_more(http: httpx.Client) -> None:
    items = [{"role": "user", "content": f"{n}"} for n in range(5)]
    made = http.post("/v1/responses", json={"model": OPENAI, "input": items}).json()

    page = http.get(f"/v1/responses/{made['id']}/input_items", params={"limit": 2}).json()
    rest = http.get(
        f"/v1/responses/{made['id']}/input_items", params={"limit": 9, "after": page["last_id"]}
    ).json()

    assert (page["object"], page["has_more"], rest["has_more"]) == ("list", True, False)
    assert page["first_id"] == page["data"][0]["id"]
    assert [item["content"][0]["text"] for item in page["data"] + rest["data"]] == ["4", "3", "2", "1", "0"]


def test_a_deleted_response_is_gone(client: openai.OpenAI, http: httpx.Client) -> None:
    _, response = hear(client.responses.create(model=OPENAI, input="Hello", stream=True))

    answer = http.delete(f"/v1/responses/{response.id}")

    assert answer.json() == {"id": response.id, "object": "response", "deleted": True}
    for ask in _asks(client, response.id):
        with pytest.raises(openai.NotFoundError):
            ask()


def test_a_response_that_was_not_to_be_stored_is_not_there(client: openai.OpenAI) -> None:
    answer = client.responses.create(model=OPENAI, input="Hello", store=False)

    assert answer.store is False  # type: ignore[attr-defined]  # OpenAI sends it, its client does not know
    for ask in _asks(client, answer.id):
        with pytest.raises(openai.NotFoundError):
            ask()
    with pytest.raises(openai.BadRequestError):
        client.responses.create(model=OPENAI, input="Go on", previous_response_id=answer.id)


def test_an_answer_is_there_again_by_its_key_when_what_it_went_on_from_is_gone(client: openai.OpenAI) -> None:
    def go_on(key: str) -> Any:
        return client.responses.create(
            model=OPENAI, input="Two", previous_response_id=first.id, extra_headers={"Idempotency-Key": key}
        )

    first = client.responses.create(model=OPENAI, input="One")
    key = f"contract-{os.urandom(8).hex()}"
    second = go_on(key)
    client.responses.delete(first.id)

    assert go_on(key) == second
    with pytest.raises(openai.BadRequestError, match="no such response"):
        client.responses.create(
            model=OPENAI,
            input="Two",
            previous_response_id=first.id,
            extra_headers={"Last-Event-ID": f"job_{'0' * 32}:1"},
        )
    with pytest.raises(openai.BadRequestError) as gone:
        go_on(f"{key}-other")
    assert gone.value.code == "previous_response_not_found"


def test_a_response_of_another_account_does_not_exist(
    client: openai.OpenAI, other_client: openai.OpenAI
) -> None:
    _, response = hear(client.responses.create(model=OPENAI, input="Hello", stream=True))

    for ask in _asks(other_client, response.id):
        with pytest.raises(openai.NotFoundError) as raised:
            ask()
        assert raised.value.code == "not_found"
        assert raised.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError) as refused:
        other_client.responses.create(model=OPENAI, input="Go on", previous_response_id=response.id)
    assert refused.value.code == "previous_response_not_found"
    assert client.responses.retrieve(response.id) == response


@pytest.mark.parametrize("response_id", [UNKNOWN, "resp_x", "job_" + "0" * 32, "%2e%2e", "x" * 300])
def test_ids_of_nothing_are_not_found(client: openai.OpenAI, response_id: str) -> None:
    for ask in _asks(client, response_id):
        with pytest.raises(openai.NotFoundError):
            ask()


def test_a_chat_completion_is_no_response(client: openai.OpenAI, http: httpx.Client) -> None:
    chat = http.post(
        "/v1/chat/completions", json={"model": OPENAI, "messages": [{"role": "user", "content": "Hello"}]}
    )
    response_id = chat.headers["x-headrace-job-id"].replace("job_", "resp_")

    for ask in _asks(client, response_id):
        with pytest.raises(openai.NotFoundError):
            ask()


def test_a_response_that_failed_says_so_and_is_not_continued(
    client: openai.OpenAI, http: httpx.Client
) -> None:
    body = {"model": OPENAI, "input": script(error_in_stream=1, chunks=3), "stream": True}
    answer = http.post("/v1/responses", json=body)
    response_id = json.loads(answer.text.split("data: ")[1].split("\n")[0])["response"]["id"]

    found = client.responses.retrieve(response_id)
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model=OPENAI, input="Go on", previous_response_id=response_id)

    assert found.status == "failed"
    assert found.error is not None
    assert found.error.code == "server_error"
    assert refused.value.code == "previous_response_not_completed"
    assert refused.value.param == "previous_response_id"


def test_a_response_in_progress_is_told_as_such_and_not_deleted(client: openai.OpenAI) -> None:
    asked = script(text="a b c", chunks=3, between_chunks_ms=150)
    with client.responses.create(model=OPENAI, input=asked, stream=True) as stream:
        created = next(stream)
        assert created.type == "response.created"
        found = client.responses.retrieve(created.response.id)
        with pytest.raises(openai.ConflictError):
            client.responses.delete(created.response.id)
        rest = list(stream)

    assert found.status == "in_progress"
    assert found.output == []
    assert text_of(rest) == "a b c"


def test_only_what_was_streamed_can_be_replayed(client: openai.OpenAI) -> None:
    plain = client.responses.create(model=OPENAI, input="Hello")
    _, streamed = hear(client.responses.create(model=OPENAI, input="Hello", stream=True))

    with pytest.raises(openai.BadRequestError) as not_streamed:
        client.responses.retrieve(plain.id, stream=True)
    with pytest.raises(openai.BadRequestError) as behind_the_end:
        client.responses.retrieve(streamed.id, stream=True, starting_after=500)

    assert not_streamed.value.param == "stream"
    assert behind_the_end.value.param == "starting_after"


def test_only_a_response_in_the_background_could_be_cancelled(client: openai.OpenAI) -> None:
    answer = client.responses.create(model=OPENAI, input="Hello")

    with pytest.raises(openai.BadRequestError, match="background"):
        client.responses.cancel(answer.id)


async def test_any_process_reads_goes_on_from_and_replays_what_another_answered(
    fresh_stack: FreshStack,
) -> None:
    stack = await fresh_stack(apis=2, settings={"HEADRACE_QUEUE__SHARDS": "4"})
    one, two = (
        openai.AsyncOpenAI(base_url=f"{api.url}/v1", api_key=stack.api_key, max_retries=0)
        for api in stack.apis
    )
    async with one, two:
        stream = await one.responses.create(model=OPENAI, input="One", stream=True)
        events = [event async for event in stream]
        last = events[-1]
        assert last.type == "response.completed"

        read = await two.responses.retrieve(last.response.id)
        replayed = [event async for event in await two.responses.retrieve(last.response.id, stream=True)]
        second = await two.responses.create(
            model=ANTHROPIC, input="Two", previous_response_id=last.response.id
        )
        await one.responses.delete(last.response.id)
        with pytest.raises(openai.NotFoundError):
            await two.responses.retrieve(last.response.id)
        items = [item async for item in one.responses.input_items.list(second.id, order="asc")]

    assert read == last.response
    assert replayed == events
    assert [_said(item) for item in items] == ["One", "You said: One", "Two"]


async def test_a_conversation_that_outgrew_the_largest_body_is_refused(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack(settings={"HEADRACE_API__MAX_BODY_BYTES": "5000"})
    async with openai.AsyncOpenAI(base_url=f"{stack.url}/v1", api_key=stack.api_key, max_retries=0) as client:
        first = await client.responses.create(model=OPENAI, input="x" * 2_000)
        with pytest.raises(openai.APIStatusError) as raised:
            await client.responses.create(model=OPENAI, input="y" * 2_000, previous_response_id=first.id)

    assert raised.value.status_code == 413
    assert raised.value.param == "previous_response_id"


async def test_a_response_is_kept_as_long_as_configured_and_one_not_stored_as_any_job(
    fresh_stack: FreshStack,
) -> None:
    stack = await fresh_stack(
        settings={
            "HEADRACE_API__RESPONSES_RETAIN_SECONDS": "5000",
            "HEADRACE_QUEUE__RETAIN_SECONDS": "100",
        }
    )
    redis = Redis.from_url(stack.redis.url)
    async with (
        openai.AsyncOpenAI(base_url=f"{stack.url}/v1", api_key=stack.api_key, max_retries=0) as client,
        redis,
    ):
        kept = await client.responses.create(model=OPENAI, input="Hello")
        not_stored = await client.responses.create(model=OPENAI, input="Hello", store=False)
        seconds = [await redis.ttl(_job_key(answer.id)) for answer in (kept, not_stored)]

    assert 4_900 < seconds[0] <= 5_000
    assert 50 < seconds[1] <= 100


def _job_key(response_id: str) -> str:
    return keyspace.job(0, JobId(response_id.replace("resp_", "job_")))


def _asks(client: openai.OpenAI, response_id: str) -> list[Callable[[], Any]]:
    responses = client.responses
    return [
        lambda: responses.retrieve(response_id),
        lambda: responses.retrieve(response_id, stream=True),
        lambda: responses.input_items.list(response_id),
        lambda: responses.cancel(response_id),
        lambda: responses.delete(response_id),
    ]


def _said(item: Any) -> str:
    return "".join(part.text for part in item.content)
