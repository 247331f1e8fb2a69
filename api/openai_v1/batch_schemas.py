"""What `/v1/batches` takes and answers."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final, Literal, Required

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, with_config
from typing_extensions import TypedDict

from shared.batches.handed_over import Execution, HandedOver
from shared.batches.requests import ENDPOINTS
from shared.db.repositories.batches import Batch
from shared.requests.checking import check

MAX_WINDOW: Final = 10_000
Notes = Annotated[
    dict[
        Annotated[str, StringConstraints(min_length=1, max_length=64)],
        Annotated[str, StringConstraints(max_length=512)],
    ],
    Field(max_length=16),
]
Endpoint = Literal[
    "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages"
]
Url = Annotated[str, StringConstraints(min_length=1, max_length=2_048)]
_STRICT: Final = ConfigDict(extra="forbid", strict=True)


@with_config(_STRICT)
class ExpiresAfter(TypedDict):
    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=3_600, le=2_592_000)]


@with_config(_STRICT)
class BatchOptions(TypedDict, total=False):
    """What every way to create a batch takes."""

    metadata: Notes | None
    output_expires_after: ExpiresAfter | None
    validation: Literal["lenient", "strict"] | None
    window: Annotated[int, Field(ge=1, le=MAX_WINDOW)] | None
    execution: Literal["lines", "provider", "auto"] | None
    webhook_url: Url | None


@with_config(_STRICT)
class BatchRequest(BatchOptions, total=False):
    input_file_id: Required[Annotated[str, StringConstraints(min_length=1, max_length=64)]]
    endpoint: Required[Endpoint]
    completion_window: Required[Literal["24h"]]


_REQUEST: Final = TypeAdapter(BatchRequest)
OPTIONS: Final[dict[str, Any]] = {
    "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
    "output_expires_after": {
        "type": "object",
        "required": ["anchor", "seconds"],
        "properties": {
            "anchor": {"type": "string", "enum": ["created_at"]},
            "seconds": {"type": "integer", "minimum": 3600, "maximum": 2592000},
        },
    },
    "validation": {"type": "string", "enum": ["lenient", "strict"]},
    "window": {"type": "integer", "minimum": 1, "maximum": MAX_WINDOW},
    "execution": {"type": "string", "enum": [one.value for one in Execution]},
    "webhook_url": {"type": "string"},
}
REQUEST_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["input_file_id", "endpoint", "completion_window"],
                    "additionalProperties": False,
                    "properties": {
                        "input_file_id": {"type": "string"},
                        "endpoint": {"type": "string", "enum": list(ENDPOINTS)},
                        "completion_window": {"type": "string", "enum": ["24h"]},
                        **OPTIONS,
                    },
                },
                "example": {
                    "input_file_id": "file-000000000000000000000000",
                    "endpoint": "/v1/chat/completions",
                    "completion_window": "24h",
                    "metadata": {"night": "17"},
                },
            }
        },
    }
}


def check_batch_request(document: Mapping[str, Any]) -> None:
    """Raises InvalidRequest (422) with path and problem of what is wrong."""
    check(_REQUEST, document)


def options_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """As a row keeps them."""
    lasts = document.get("output_expires_after")
    options = {
        "validation": document.get("validation"),
        "window": document.get("window"),
        "execution": document.get("execution"),
        "output_seconds": None if lasts is None else lasts["seconds"],
    }
    return {name: value for name, value in options.items() if value is not None}


class BatchFault(BaseModel):
    code: str
    message: str
    param: str | None
    line: int | None


class BatchFaults(BaseModel):
    object: Literal["list"] = "list"
    data: list[BatchFault]


class RequestCounts(BaseModel):
    """`completed`, `failed`, `cancelled` and `expired` make up `total` once the batch has ended."""

    total: int
    completed: int
    failed: int
    cancelled: int
    expired: int


class BatchUsage(BaseModel):
    input_tokens: int
    input_tokens_details: dict[str, int]
    output_tokens: int
    output_tokens_details: dict[str, int]
    total_tokens: int


class HandedOverBatch(BaseModel):
    """`batches`: what it is called at the provider; several where it is too large for one there."""

    provider: str | None
    batches: list[str]
    why_not: str | None

    @classmethod
    def of(cls, batch: Batch) -> HandedOverBatch | None:
        if batch.handed_over is None:
            return None
        found = HandedOver.of(batch.handed_over)
        return cls(
            provider=found.provider or None,
            batches=[part.batch for part in found.parts if part.batch is not None],
            why_not=found.why_not,
        )


class BatchObject(BaseModel):
    """Times are unix seconds. `model`: where all requests name the same. `handed_over`: where a provider's
    own batch API was to run it.
    """

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    model: str | None
    errors: BatchFaults | None
    input_file_id: str
    completion_window: Literal["24h"] = "24h"
    status: str
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    usage: BatchUsage | None
    metadata: dict[str, str] | None
    execution: Literal["lines", "provider", "auto"]
    handed_over: HandedOverBatch | None

    @classmethod
    def of(cls, batch: Batch) -> BatchObject:
        return cls(
            id=batch.id,
            endpoint=batch.endpoint,
            model=batch.model,
            errors=None
            if batch.errors is None
            else BatchFaults(data=[BatchFault(**fault) for fault in batch.errors]),
            input_file_id=batch.input_file_id,
            status=batch.status.value,
            output_file_id=batch.output_file_id,
            error_file_id=batch.error_file_id,
            created_at=int(batch.created_at.timestamp()),
            in_progress_at=_seconds(batch.in_progress_at),
            expires_at=int(batch.expires_at.timestamp()),
            finalizing_at=_seconds(batch.finalizing_at),
            completed_at=_seconds(batch.completed_at),
            failed_at=_seconds(batch.failed_at),
            expired_at=_seconds(batch.expired_at),
            cancelling_at=_seconds(batch.cancelling_at),
            cancelled_at=_seconds(batch.cancelled_at),
            request_counts=RequestCounts(
                total=batch.total,
                completed=batch.completed,
                failed=batch.failed,
                cancelled=batch.cancelled,
                expired=batch.expired,
            ),
            usage=_usage(batch),
            metadata=batch.notes,
            execution=Execution(batch.execution).value,
            handed_over=HandedOverBatch.of(batch),
        )


class BatchList(BaseModel):
    object: Literal["list"] = "list"
    data: list[BatchObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


def _usage(batch: Batch) -> BatchUsage | None:
    """Known once it ended."""
    if batch.usage is None:
        return None
    prompt, completion = batch.usage["prompt"], batch.usage["completion"]
    return BatchUsage(
        input_tokens=prompt,
        input_tokens_details={"cached_tokens": 0},
        output_tokens=completion,
        output_tokens_details={"reasoning_tokens": 0},
        total_tokens=prompt + completion,
    )


def _seconds(at: datetime | None) -> int | None:
    return None if at is None else int(at.timestamp())
