"""What is said to providers' own batch APIs, and how what they answer is read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from shared.domain.batch import LineState
from shared.providers import anthropic, openai
from shared.providers.batch_apis import Answered, BatchApi, BatchState, NotAnswered, Told
from shared.providers.batch_apis.anthropic import anthropic_batches
from shared.providers.batch_apis.openai import openai_batches

OPENAI, ANTHROPIC = openai.PROFILE, anthropic.PROFILE


def openai_batch(**fields: Any) -> bytes:
    return orjson.dumps({"id": "batch_1", "status": "in_progress", "created_at": 1_790_000_000, **fields})


def message_batch(**fields: Any) -> bytes:
    said = {
        "id": "msgbatch_1",
        "processing_status": "in_progress",
        "created_at": "2026-09-21T13:33:20Z",
        "request_counts": {"processing": 3, "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0},
        "results_url": None,
    }
    return orjson.dumps(said | fields)


@pytest.mark.parametrize("api", [openai_batches, anthropic_batches], ids=["openai", "anthropic"])
def test_a_file_of_requests_is_whole(api: BatchApi) -> None:
    requests = [api.request(f"r{n}", "/v1/messages", b'{"model":"m"}') for n in range(2)]
    file = api.head + api.between.join(requests) + api.tail

    if api is anthropic_batches:
        assert orjson.loads(file) == {
            "requests": [{"custom_id": f"r{n}", "params": {"model": "m"}} for n in range(2)]
        }
        return
    assert [orjson.loads(line) for line in file.splitlines()] == [
        {"custom_id": f"r{n}", "method": "POST", "url": "/v1/messages", "body": {"model": "m"}}
        for n in range(2)
    ]


def test_only_what_the_batch_api_serves_has_an_endpoint() -> None:
    assert openai_batches.endpoint("/chat/completions") == "/v1/chat/completions"
    assert openai_batches.endpoint("/rerank") is None
    assert anthropic_batches.endpoint("/messages") == "/v1/messages"
    assert anthropic_batches.endpoint("/v1/messages/count_tokens") is None


def test_openai_has_one_model_and_endpoint_a_batch_and_counts_inputs_of_embeddings() -> None:
    group = openai_batches.group("/v1/embeddings", "a", {})

    assert group == openai_batches.group("/v1/embeddings", "a", {})
    assert group != openai_batches.group("/v1/embeddings", "b", {})
    plain = anthropic_batches.group("/v1/messages", "a", {})
    assert plain == anthropic_batches.group("/v1/messages", "b", {})
    assert plain != anthropic_batches.group("/v1/messages", "a", {"anthropic-beta": "x"})
    assert openai_batches.weight("/v1/embeddings", {"input": ["a", "b", "c"]}) == 3
    assert openai_batches.weight("/v1/embeddings", {"input": [1, 2, 3]}) == 1
    assert openai_batches.weight("/v1/chat/completions", {"input": ["a", "b"]}) == 1


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({}, Told("batch_1", BatchState.RUNNING, 1_790_000_000)),
        (
            {"status": "cancelling", "request_counts": {"total": 4}, "metadata": {"headrace_batch": "b.0"}},
            Told("batch_1", BatchState.RUNNING, 1_790_000_000, "b.0", 4),
        ),
        (
            {"status": "completed", "output_file_id": "file-1", "error_file_id": None},
            Told("batch_1", BatchState.ENDED, 1_790_000_000, results=("/files/file-1/content",)),
        ),
        (
            {"status": "expired", "output_file_id": "a/b", "error_file_id": "file-2"},
            Told(
                "batch_1",
                BatchState.ENDED,
                1_790_000_000,
                results=("/files/a%2Fb/content", "/files/file-2/content"),
            ),
        ),
        (
            {"status": "failed", "errors": {"data": [{"message": "No such model."}]}},
            Told("batch_1", BatchState.FAILED, 1_790_000_000, problem="No such model."),
        ),
    ],
)
def test_openais_batches_are_read(said: dict[str, Any], told: Told) -> None:
    found = openai_batches.read_batch(OPENAI, openai_batch(**said))

    assert found == told
    assert Told.from_wire(found.to_wire()) == found


def test_anthropics_batches_are_read_and_their_results_are_looked_for_at_our_own_address() -> None:
    running = anthropic_batches.read_batch(ANTHROPIC, message_batch())
    ended = anthropic_batches.read_batch(
        ANTHROPIC,
        message_batch(
            processing_status="ended", results_url="https://api.anthropic.com/v1/messages/batches/1/out"
        ),
    )
    proxied = anthropic_batches.read_batch(
        replace(ANTHROPIC, base_url="https://proxy.example/v1"),
        message_batch(
            processing_status="ended", results_url="https://api.anthropic.com/v1/messages/batches/1/out"
        ),
    )

    assert running == Told("msgbatch_1", BatchState.RUNNING, 1_789_997_600, total=3)
    assert (ended.state, ended.results) == (
        BatchState.ENDED, ("https://api.anthropic.com/v1/messages/batches/1/out",)
    )  # fmt: skip
    assert proxied.results == ("/messages/batches/msgbatch_1/results",)


@pytest.mark.parametrize(
    ("api", "said", "result"),
    [
        (
            openai_batches,
            {"custom_id": "r", "response": {"status_code": 200, "body": {"a": 1}}, "error": None},
            Answered("r", 200, b'{"a":1}'),
        ),
        (
            openai_batches,
            {"custom_id": "r", "response": None, "error": {"code": "batch_expired", "message": "Late."}},
            NotAnswered("r", LineState.EXPIRED, "batch_expired", "Late."),
        ),
        (
            openai_batches,
            {"custom_id": "r", "response": None, "error": {"code": "request_timeout", "message": "Slow."}},
            NotAnswered("r", LineState.FAILED, "request_timeout", "Slow."),
        ),
        (
            anthropic_batches,
            {"custom_id": "r", "result": {"type": "succeeded", "message": {"a": 1}}},
            Answered("r", 200, b'{"a":1}'),
        ),
        (
            anthropic_batches,
            {
                "custom_id": "r",
                "result": {
                    "type": "errored",
                    "error": {"type": "error", "error": {"type": "invalid_request_error", "message": "No."}},
                },
            },
            Answered("r", 400, b'{"type":"error","error":{"type":"invalid_request_error","message":"No."}}'),
        ),
        (
            anthropic_batches,
            {"custom_id": "r", "result": {"type": "canceled"}},
            NotAnswered("r", LineState.CANCELLED, "batch_cancelled", ""),
        ),
        (
            anthropic_batches,
            {"custom_id": "r", "result": {"type": "expired"}},
            NotAnswered("r", LineState.EXPIRED, "batch_expired", ""),
        ),
    ],
)
def test_results_are_read(api: BatchApi, said: dict[str, Any], result: Answered | NotAnswered) -> None:
    assert api.read_result(orjson.dumps(said)) == result


@pytest.mark.parametrize("api", [openai_batches, anthropic_batches], ids=["openai", "anthropic"])
@pytest.mark.parametrize(
    "body", [b"", b"no", b"[]", b"{}", b'{"id":"x"}', b'{"custom_id":7}', b'{"data":{}}', b'{"data":[1]}']
)
def test_what_is_no_answer_raises_a_value_error(api: BatchApi, body: bytes) -> None:
    profile = OPENAI if api is openai_batches else ANTHROPIC
    for read in (
        lambda: api.read_batch(profile, body),
        lambda: api.read_page(profile, body),
        lambda: api.read_result(body),
    ):
        with pytest.raises(ValueError, match=r".+"):
            read()
