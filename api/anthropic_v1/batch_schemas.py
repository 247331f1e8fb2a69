"""What `/v1/messages/batches` takes and answers.

Source: anthropic-python 2.11, types/messages/message_batch.py; docs.anthropic.com, Message Batches API.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final, Literal, Required

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, with_config
from typing_extensions import TypedDict

from shared.batches.handed_over import Execution
from shared.db.repositories.batches import Batch
from shared.domain.batch import BatchStatus
from shared.requests.checking import check, fault

MAX_WINDOW: Final = 10_000
_STRICT: Final = ConfigDict(extra="forbid", strict=True)


@with_config(_STRICT)
class InlineRequest(TypedDict):
    custom_id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    params: dict[str, Any]


@with_config(_STRICT)
class MessageBatchRequest(TypedDict, total=False):
    """The last three are our own."""

    requests: Required[list[Any]]
    window: Annotated[int, Field(ge=1, le=MAX_WINDOW)] | None
    webhook_url: Annotated[str, StringConstraints(min_length=1, max_length=2_048)] | None
    execution: Literal["lines", "provider", "auto"] | None


_REQUEST: Final = TypeAdapter(MessageBatchRequest)
_INLINE: Final = TypeAdapter(InlineRequest)


def check_message_batch(document: Mapping[str, Any], count: int) -> None:
    """Of the body without its requests, of which there were `count`. Raises InvalidRequest."""
    check(_REQUEST, document)
    if document["requests"] or not count:
        raise fault("requests", "must be a list of one request at least, its name written plainly")


def check_inline_request(said: Mapping[str, Any]) -> None:
    """Raises InvalidRequest."""
    check(_INLINE, said)


REQUEST_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["requests"],
                    "additionalProperties": False,
                    "properties": {
                        "requests": {
                            "type": "array",
                            "minItems": 1,
                            "items": {
                                "type": "object",
                                "required": ["custom_id", "params"],
                                "additionalProperties": False,
                                "properties": {
                                    "custom_id": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"},
                                    "params": {
                                        "type": "object",
                                        "description": "What /v1/messages would be asked.",
                                    },
                                },
                            },
                        },
                        "window": {"type": "integer", "minimum": 1, "maximum": MAX_WINDOW},
                        "webhook_url": {"type": "string"},
                        "execution": {"type": "string", "enum": [one.value for one in Execution]},
                    },
                },
                "example": {
                    "requests": [
                        {
                            "custom_id": "first",
                            "params": {
                                "model": "claude-haiku-4-5",
                                "max_tokens": 256,
                                "messages": [{"role": "user", "content": "Hello"}],
                            },
                        }
                    ]
                },
            }
        },
    }
}


class MessageBatchCounts(BaseModel):
    """All are `processing` until the batch has ended."""

    processing: int
    succeeded: int
    errored: int
    canceled: int
    expired: int


class MessageBatch(BaseModel):
    """Times are RFC 3339. `archived_at`: since when its results are gone."""

    id: str
    type: Literal["message_batch"] = "message_batch"
    processing_status: Literal["in_progress", "canceling", "ended"]
    request_counts: MessageBatchCounts
    created_at: datetime
    expires_at: datetime
    ended_at: datetime | None
    cancel_initiated_at: datetime | None
    archived_at: datetime | None
    results_url: str | None

    @classmethod
    def of(cls, batch: Batch, *, results_url: str, now: datetime) -> MessageBatch:
        gone_at = batch.results_expire_at
        is_archived = gone_at is not None and gone_at <= now
        has_results = batch.has_ended and batch.output_file_id is not None and not is_archived
        return cls(
            id=batch.id,
            processing_status=_status(batch),
            request_counts=_counts(batch),
            created_at=batch.created_at,
            expires_at=batch.expires_at,
            ended_at=batch.ended_at,
            cancel_initiated_at=batch.cancelling_at,
            archived_at=gone_at if is_archived else None,
            results_url=results_url if has_results else None,
        )


class MessageBatchList(BaseModel):
    data: list[MessageBatch]
    has_more: bool
    first_id: str | None
    last_id: str | None


class DeletedMessageBatch(BaseModel):
    id: str
    type: Literal["message_batch_deleted"] = "message_batch_deleted"


def _status(batch: Batch) -> Literal["in_progress", "canceling", "ended"]:
    if batch.has_ended:
        return "ended"
    return "canceling" if batch.status is BatchStatus.CANCELLING else "in_progress"


def _counts(batch: Batch) -> MessageBatchCounts:
    total = batch.requests or batch.total
    if not batch.has_ended:
        return MessageBatchCounts(processing=total, succeeded=0, errored=0, canceled=0, expired=0)
    if batch.status is BatchStatus.FAILED:
        # As a whole, as its input was taken away: some of it may never have been read.
        return MessageBatchCounts(processing=0, succeeded=0, errored=total, canceled=0, expired=0)
    return MessageBatchCounts(
        processing=0,
        succeeded=batch.completed,
        errored=batch.failed,
        canceled=batch.cancelled,
        expired=batch.expired,
    )
