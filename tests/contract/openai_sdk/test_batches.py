"""Batches, through the official OpenAI client: a file up, a batch, its results down."""

from __future__ import annotations

import json
import time

import openai
import pytest
from openai.types import Batch

pytestmark = pytest.mark.xdist_group("contract")

ENDED = {"completed", "failed", "expired", "cancelled"}


def lines(*names: str, cue: str = "") -> bytes:
    return b"".join(
        json.dumps(
            {
                "custom_id": name,
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": cue + name}]},
            }
        ).encode()
        + b"\n"
        for name in names
    )


def a_batch(client: openai.OpenAI, content: bytes) -> Batch:
    file = client.files.create(file=("input.jsonl", content), purpose="batch")
    return client.batches.create(
        input_file_id=file.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        metadata={"night": "17"},
    )


def ended(client: openai.OpenAI, batch: Batch) -> Batch:
    give_up_at = time.monotonic() + 30
    while batch.status not in ENDED:
        assert time.monotonic() < give_up_at, batch
        batch = client.batches.retrieve(batch.id)
    return batch


def test_a_batch_is_created_read_listed_and_its_output_downloaded(client: openai.OpenAI) -> None:
    created = a_batch(client, lines("one", "two") + b"no json\n")

    batch = ended(client, created)

    assert (created.object, created.status) == ("batch", "validating")
    assert (batch.status, batch.metadata) == ("completed", {"night": "17"})
    counts = batch.request_counts
    assert counts is not None
    assert (counts.total, counts.completed, counts.failed) == (3, 2, 1)
    assert batch.output_file_id is not None
    assert batch.error_file_id is not None
    answers = [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
    assert {answer["custom_id"] for answer in answers} == {"one", "two"}
    assert all(answer["response"]["body"]["choices"] for answer in answers)
    (error,) = [json.loads(line) for line in client.files.content(batch.error_file_id).text.splitlines()]
    assert (error["error"]["code"], error["error"]["line"]) == ("invalid_json_line", 3)
    assert batch.id in {one.id for one in client.batches.list(limit=2)}


def test_a_batch_is_cancelled(client: openai.OpenAI) -> None:
    slow = '!script {"before_headers_ms": 60000}\n'
    created = a_batch(client, lines("one", "two", cue=slow))

    cancelling = client.batches.cancel(created.id)

    assert cancelling.status in {"cancelling", "cancelled"}
    assert ended(client, cancelling).status == "cancelled"


def test_a_batch_of_nothing_good_fails_and_says_why(client: openai.OpenAI) -> None:
    batch = ended(client, a_batch(client, b"no json\n"))

    assert batch.status == "failed"
    assert batch.errors is not None
    assert batch.errors.data is not None
    assert (batch.errors.data[0].code, batch.errors.data[0].line) == ("invalid_json_line", 1)


def test_what_is_not_there_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.batches.retrieve("batch_none")
    with pytest.raises(openai.NotFoundError):
        client.batches.create(
            input_file_id="file-none", endpoint="/v1/chat/completions", completion_window="24h"
        )


def test_who_runs_a_batch_is_said_beside_openais_own_fields(client: openai.OpenAI) -> None:
    file = client.files.create(file=("input.jsonl", lines("one")), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        extra_body={"execution": "auto"},
    )
    client.batches.cancel(batch.id)

    assert batch.model_extra is not None
    assert (batch.model_extra["execution"], batch.model_extra["handed_over"]) == ("auto", None)
