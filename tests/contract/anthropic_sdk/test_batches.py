"""Message batches, through the official Anthropic client: created, waited for, their results iterated."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from anthropic.types.messages import MessageBatch
from anthropic.types.messages.batch_create_params import Request

from tests.contract.broker import BrokerUnderTest
from tests.fakes.provider import ScriptedProvider

pytestmark = pytest.mark.xdist_group("contract")


def a_request(custom_id: str, *, cue: str = "", **more: Any) -> Request:
    params: dict[str, Any] = {
        "model": "claude-haiku-4-5",
        "max_tokens": 64,
        "messages": [{"role": "user", "content": cue + custom_id}],
    }
    return Request(custom_id=custom_id, params={**params, **more})  # type: ignore[typeddict-item]  # some are no good, on purpose


def ended(client: anthropic.Anthropic, batch_id: str) -> MessageBatch:
    give_up_at = time.monotonic() + 30
    while (batch := client.messages.batches.retrieve(batch_id)).processing_status != "ended":
        assert time.monotonic() < give_up_at, batch
    return batch


@pytest.fixture
def other(broker: BrokerUnderTest) -> Iterator[anthropic.Anthropic]:
    """Of another account, where no other test leaves batches."""
    with anthropic.Anthropic(base_url=broker.url, api_key=broker.other_api_key, max_retries=0) as client:
        yield client


def test_a_batch_is_created_waited_for_and_its_results_iterated(client: anthropic.Anthropic) -> None:
    created = client.messages.batches.create(
        requests=[
            a_request("one"),
            a_request("for-another", model="gpt-4o-mini"),
            a_request("hot", temperature="hot"),
            a_request("refused", cue='!script {"status": 400}\n'),
            a_request("nobody", model="nobody/knows-this"),
        ]
    )
    batch = ended(client, created.id)
    results = {one.custom_id: one.result for one in client.messages.batches.results(batch.id)}

    assert (created.type, created.processing_status) == ("message_batch", "in_progress")
    assert (created.request_counts.processing, created.results_url) == (5, None)
    assert created.created_at < created.expires_at
    assert batch.ended_at is not None
    counts = batch.request_counts
    assert (counts.processing, counts.succeeded, counts.errored) == (0, 2, 3)
    assert (counts.canceled, counts.expired) == (0, 0)
    assert list(results) == ["one", "for-another", "hot", "refused", "nobody"]
    for name in ("one", "for-another"):
        result = results[name]
        assert result.type == "succeeded"
        assert (result.message.type, result.message.role) == ("message", "assistant")
        (block,) = result.message.content
        assert block.type == "text"
        assert name in block.text
        assert result.message.usage.output_tokens > 0
    kinds = {}
    for name in ("hot", "refused", "nobody"):
        result = results[name]
        assert result.type == "errored"
        kinds[name] = result.error.error.type
    assert kinds == {
        "hot": "invalid_request_error",
        "refused": "invalid_request_error",
        "nobody": "not_found_error",
    }


def test_batches_are_listed_page_by_page_both_ways(other: anthropic.Anthropic) -> None:
    made = [other.messages.batches.create(requests=[a_request("a")]).id for _ in range(5)][::-1]

    assert [one.id for one in other.messages.batches.list(limit=2)][:5] == made
    first = other.messages.batches.list(limit=2)
    assert [one.id for one in first.data] == made[:2]
    assert (first.first_id, first.last_id, first.has_more) == (made[0], made[1], True)
    back = other.messages.batches.list(limit=2, before_id=made[3])
    assert ([one.id for one in back.data], back.has_more) == (made[1:3], True)
    assert [one.id for one in back] == [made[1], made[2], made[0]]
    with pytest.raises(anthropic.BadRequestError):
        other.messages.batches.list(before_id=made[0], after_id=made[1])
    with pytest.raises(anthropic.NotFoundError):
        other.messages.batches.list(after_id="batch_none")


def test_a_batch_is_cancelled_and_then_deleted(client: anthropic.Anthropic) -> None:
    slow = [a_request(name, cue='!script {"before_headers_ms": 60000}\n') for name in ("one", "two")]
    created = client.messages.batches.create(requests=slow)

    with pytest.raises(anthropic.ConflictError):
        client.messages.batches.delete(created.id)
    cancelling = client.messages.batches.cancel(created.id)
    batch = ended(client, created.id)
    results = list(client.messages.batches.results(created.id))
    deleted = client.messages.batches.delete(created.id)

    assert cancelling.processing_status in {"canceling", "ended"}
    assert batch.cancel_initiated_at is not None
    assert (batch.request_counts.canceled, batch.request_counts.processing) == (2, 0)
    assert [one.result.type for one in results] == ["canceled", "canceled"]
    assert (deleted.id, deleted.type) == (created.id, "message_batch_deleted")
    with pytest.raises(anthropic.NotFoundError):
        client.messages.batches.retrieve(created.id)


def test_there_are_no_results_before_the_end(client: anthropic.Anthropic) -> None:
    created = client.messages.batches.create(
        requests=[a_request("one", cue='!script {"before_headers_ms": 60000}\n')]
    )

    with pytest.raises(anthropic.AnthropicError, match="results_url"):
        client.messages.batches.results(created.id)
    client.messages.batches.cancel(created.id)


@pytest.mark.parametrize(
    ("requests", "told"),
    [
        ([], "requests"),
        ([{"custom_id": "a"}], "requests[0].params"),
        ([{"custom_id": "a b", "params": {}}], "requests[0].custom_id"),
        ([{"custom_id": "", "params": {}}], "requests[0].custom_id"),
        ([{"custom_id": "x" * 65, "params": {}}], "requests[0].custom_id"),
        ([a_request("a"), {"custom_id": "é", "params": {}}], "requests[1].custom_id"),
        ([a_request("a"), a_request("b"), a_request("a")], "requests[2].custom_id"),
    ],
    ids=["none", "no params", "a space", "empty", "too long", "no ASCII", "twice"],
)
def test_a_list_that_is_no_good_is_refused_as_a_whole(
    other: anthropic.Anthropic, requests: list[Any], told: str
) -> None:
    newest = [one.id for one in other.messages.batches.list(limit=1).data]

    with pytest.raises(anthropic.BadRequestError) as refused:
        other.messages.batches.create(requests=requests)

    body: Any = refused.value.body
    assert (body["type"], body["error"]["type"]) == ("error", "invalid_request_error")
    assert body["error"]["message"].startswith(told)
    assert [one.id for one in other.messages.batches.list(limit=1).data] == newest


def test_the_beta_client_works_as_well(client: anthropic.Anthropic) -> None:
    batches = client.beta.messages.batches
    requests: Any = [a_request("one")]
    created = batches.create(requests=requests, betas=["message-batches-2024-09-24"])
    ended(client, created.id)

    (one,) = batches.results(created.id)
    listed = next(iter(batches.list(limit=1)))

    assert one.result.type == "succeeded"
    assert listed.type == "message_batch"
    assert batches.retrieve(created.id).processing_status == "ended"
    assert batches.delete(created.id).type == "message_batch_deleted"


async def test_the_async_client_works_as_well(
    client: anthropic.Anthropic, async_client: anthropic.AsyncAnthropic
) -> None:
    batches = async_client.messages.batches
    created = await batches.create(requests=[a_request("one"), a_request("two")])
    ended(client, created.id)

    names = [one.custom_id async for one in await batches.results(created.id)]
    first = (await batches.list(limit=1)).data[0].id

    assert names == ["one", "two"]
    assert first == created.id


def test_another_account_finds_nothing(client: anthropic.Anthropic, other: anthropic.Anthropic) -> None:
    created = client.messages.batches.create(requests=[a_request("one")])

    for ask in (
        other.messages.batches.retrieve,
        other.messages.batches.cancel,
        other.messages.batches.delete,
        other.messages.batches.results,
    ):
        with pytest.raises(anthropic.NotFoundError) as refused:
            ask(created.id)
        assert json.loads(refused.value.response.content)["error"]["type"] == "not_found_error"


def test_creating_again_what_was_created_is_one_batch(client: anthropic.Anthropic) -> None:
    again = client.with_options(
        default_headers={"Idempotency-Key": f"message-batch-{uuid.uuid4()}"},
    )

    first = again.messages.batches.create(requests=[a_request("one")])
    second = again.messages.batches.create(requests=[a_request("one")])

    assert first.id == second.id
    with pytest.raises(anthropic.APIStatusError) as refused:
        again.messages.batches.create(requests=[a_request("two")])
    assert refused.value.status_code == 400


async def test_version_and_betas_go_with_each_request(
    async_client: anthropic.AsyncAnthropic, client: anthropic.Anthropic, provider: ScriptedProvider
) -> None:
    headers = {"anthropic-beta": "message-batches-2024-09-24,files-api-2025-04-14"}
    requests = [a_request("versions-and-betas")]
    created = await async_client.messages.batches.create(requests=requests, extra_headers=headers)
    ended(client, created.id)

    # Lines of batches that earlier tests left running may be called meanwhile.
    (call,) = [one for one in await provider.calls(closed=1) if "versions-and-betas" in str(one.received)]

    assert call.received is not None
    assert call.received["headers"]["anthropic-version"] == async_client.default_headers["anthropic-version"]
    assert call.received["headers"]["anthropic-beta"] == "files-api-2025-04-14"
    assert "anthropic_beta" not in call.received["body"]
