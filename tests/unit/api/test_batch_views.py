"""A batch as each API shows it, at moments that no test of whole processes waits for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from api.anthropic_v1.batch_schemas import MessageBatch
from api.unified_v1.batch_schemas import UnifiedBatch
from shared.db.repositories.batches import Batch
from shared.domain.batch import BatchForm, BatchStatus
from shared.ids import AccountId, ApiKeyId, BatchId

NOW = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)
URL = "https://broker.example/results"


def a_batch(status: BatchStatus, **more: Any) -> Batch:
    nothing: dict[str, Any] = dict.fromkeys(Batch.__slots__)
    numbers = ("checked_lines", "checked_bytes", "fed_lines", "total")
    counts = dict.fromkeys((*numbers, "completed", "failed", "cancelled", "expired"), 0)
    known = {
        "id": BatchId("batch_" + "0" * 32),
        "account_id": AccountId("acme"),
        "api_key_id": ApiKeyId("key_a"),
        "form": BatchForm.ANTHROPIC,
        "endpoint": "/v1/messages",
        "input_file_id": "file-a",
        "status": status,
        "options": {"requests": 9},
        "created_at": NOW - timedelta(hours=1),
        "expires_at": NOW + timedelta(hours=23),
    }
    return Batch(**{**nothing, **counts, **known, **more})


def told(batch: Batch) -> dict[str, Any]:
    return MessageBatch.of(batch, results_url=URL, now=NOW).model_dump(mode="json")


@pytest.mark.parametrize(
    ("status", "shown"),
    [
        (BatchStatus.VALIDATING, "in_progress"),
        (BatchStatus.IN_PROGRESS, "in_progress"),
        (BatchStatus.FINALIZING, "in_progress"),
        (BatchStatus.CANCELLING, "canceling"),
    ],
)
def test_all_requests_of_a_message_batch_are_processing_until_it_has_ended(
    status: BatchStatus, shown: str
) -> None:
    batch = told(a_batch(status, total=5, completed=3, failed=1))

    assert batch["processing_status"] == shown
    assert batch["request_counts"] == {
        "processing": 9, "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0,
    }  # fmt: skip
    assert (batch["results_url"], batch["ended_at"]) == (None, None)
    assert batch["created_at"] == "2026-11-27T11:00:00Z"


def test_a_message_batch_is_archived_once_its_results_are_gone() -> None:
    kept_until = NOW + timedelta(days=1)
    ended = a_batch(
        BatchStatus.EXPIRED,
        total=9,
        completed=4,
        expired=5,
        expired_at=NOW,
        output_file_id="file-b",
        results_expire_at=kept_until,
    )

    before = told(ended)
    after = MessageBatch.of(ended, results_url=URL, now=kept_until).model_dump(mode="json")

    assert (before["processing_status"], before["results_url"], before["archived_at"]) == ("ended", URL, None)
    assert (after["results_url"], after["archived_at"]) == (None, "2026-11-28T12:00:00Z")
    assert before["request_counts"] == after["request_counts"]
    assert before["request_counts"]["expired"] == 5


@pytest.mark.parametrize("read", [0, 4, 9])
def test_one_whose_input_was_taken_away_counts_every_request_as_failed(read: int) -> None:
    failed = a_batch(BatchStatus.FAILED, failed_at=NOW, total=read, failed=read)

    message = told(failed)
    unified = UnifiedBatch.of(failed).request_counts

    assert (message["processing_status"], message["results_url"]) == ("ended", None)
    assert message["request_counts"] == {
        "processing": 0, "succeeded": 0, "errored": 9, "canceled": 0, "expired": 0,
    }  # fmt: skip
    assert (unified.total, unified.failed, unified.processing) == (9, 9, 0)


def test_counts_of_the_unified_form_add_up_at_any_time() -> None:
    for status in BatchStatus:
        for options in ({}, {"requests": 9}):
            batch = a_batch(status, options=options, total=5, completed=3, cancelled=1)
            counts = UnifiedBatch.of(batch).request_counts.model_dump()
            total = counts.pop("total")
            assert total == sum(counts.values()) == options.get("requests", 5), (status, options)
