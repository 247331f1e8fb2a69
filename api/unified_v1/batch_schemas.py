"""What `/api/v1/batches` takes and answers."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final, Literal, Required

from pydantic import BaseModel, ConfigDict, StringConstraints, TypeAdapter, with_config
from typing_extensions import TypedDict

from api.openai_v1.batch_schemas import OPTIONS, BatchFault, BatchOptions, Endpoint, HandedOverBatch
from shared.batches.handed_over import Execution
from shared.batches.lines import MAX_CUSTOM_ID_CHARS
from shared.batches.requests import ENDPOINTS
from shared.db.repositories.batches import Batch
from shared.domain.batch import BatchForm, BatchStatus
from shared.requests.checking import check, fault

PATH: Final = "/api/v1/batches"
_STRICT: Final = ConfigDict(extra="forbid", strict=True)


@with_config(_STRICT)
class InlineRequest(TypedDict, total=False):
    custom_id: Required[Annotated[str, StringConstraints(min_length=1, max_length=MAX_CUSTOM_ID_CHARS)]]
    method: Literal["POST"]
    url: Required[Endpoint]
    body: Required[dict[str, Any]]


@with_config(_STRICT)
class UnifiedBatchRequest(BatchOptions, total=False):
    """`endpoint`: what every line of the file asks; without it each names its own."""

    requests: list[Any]
    input_file_id: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    endpoint: Endpoint | None


_REQUEST: Final = TypeAdapter(UnifiedBatchRequest)
_INLINE: Final = TypeAdapter(InlineRequest)


def check_unified_batch(document: Mapping[str, Any], count: int) -> None:
    """Of the body without its requests, of which there were `count`. Raises InvalidRequest (422)."""
    check(_REQUEST, document)
    if "input_file_id" in document:
        if "requests" in document:
            raise fault("requests", "goes not together with input_file_id")
        return
    if document.get("endpoint") is not None:
        raise fault("endpoint", "goes together with input_file_id alone: each of the requests has its url")
    if document.get("requests") != [] or not count:
        raise fault("requests", "must be a list of one request at least, unless there is an input_file_id")


def check_inline_request(said: Mapping[str, Any]) -> None:
    """Raises InvalidRequest (422)."""
    check(_INLINE, said)


REQUEST_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {
                        "requests": {
                            "type": "array",
                            "minItems": 1,
                            "items": {
                                "type": "object",
                                "required": ["custom_id", "url", "body"],
                                "additionalProperties": False,
                                "properties": {
                                    "custom_id": {
                                        "type": "string",
                                        "minLength": 1,
                                        "maxLength": MAX_CUSTOM_ID_CHARS,
                                    },
                                    "method": {"type": "string", "enum": ["POST"]},
                                    "url": {"type": "string", "enum": list(ENDPOINTS)},
                                    "body": {
                                        "type": "object",
                                        "description": "What that route would be asked.",
                                    },
                                },
                            },
                        },
                        "input_file_id": {"type": "string"},
                        "endpoint": {"type": "string", "enum": list(ENDPOINTS)},
                        **OPTIONS,
                    },
                },
                "example": {
                    "requests": [
                        {
                            "custom_id": "17",
                            "url": "/v1/chat/completions",
                            "body": {
                                "model": "gpt-4o-mini",
                                "messages": [{"role": "user", "content": "Hello"}],
                            },
                        },
                        {
                            "custom_id": "18",
                            "url": "/v1/embeddings",
                            "body": {"model": "openai/text-embedding-3-small", "input": "Hello"},
                        },
                    ],
                    "metadata": {"night": "17"},
                },
            }
        },
    }
}


class UnifiedCounts(BaseModel):
    """They add up to `total`: `processing` is what has not ended."""

    total: int
    processing: int
    succeeded: int
    failed: int
    cancelled: int
    expired: int


class UnifiedUsage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class BatchUrls(BaseModel):
    self: str
    results: str
    cancel: str


class UnifiedBatch(BaseModel):
    """`form`: whose API it came by, which says what its results look like. `endpoint`: where all requests
    have the same. `model`: where they name the same. `errors`: of one that failed as a whole.
    `handed_over`: where its provider's batch API runs it. `results_expire_at`: until when its results can be
    read; null until it ended, or for ever.
    """

    id: str
    object: Literal["batch"] = "batch"
    form: BatchForm
    status: BatchStatus
    endpoint: str | None
    model: str | None
    request_counts: UnifiedCounts
    validation: Literal["lenient", "strict"]
    window: int | None
    execution: Literal["lines", "provider", "auto"]
    handed_over: HandedOverBatch | None
    errors: list[BatchFault]
    input_file_id: str
    output_file_id: str | None
    error_file_id: str | None
    created_at: datetime
    in_progress_at: datetime | None
    cancelling_at: datetime | None
    ended_at: datetime | None
    expires_at: datetime
    results_expire_at: datetime | None
    usage: UnifiedUsage | None
    metadata: dict[str, str] | None
    webhook_url: str | None
    urls: BatchUrls

    @classmethod
    def of(cls, batch: Batch) -> UnifiedBatch:
        own = f"{PATH}/{batch.id}"
        return cls(
            id=batch.id,
            form=batch.form,
            status=batch.status,
            endpoint=batch.endpoint or None,
            model=batch.model,
            request_counts=_counts(batch),
            validation="strict" if batch.is_strict else "lenient",
            window=batch.window,
            execution=Execution(batch.execution).value,
            handed_over=HandedOverBatch.of(batch),
            errors=[BatchFault(**one) for one in batch.errors or ()],
            input_file_id=batch.input_file_id,
            output_file_id=batch.output_file_id,
            error_file_id=batch.error_file_id,
            created_at=batch.created_at,
            in_progress_at=batch.in_progress_at,
            cancelling_at=batch.cancelling_at,
            ended_at=batch.ended_at,
            expires_at=batch.expires_at,
            results_expire_at=batch.results_expire_at,
            usage=_usage(batch),
            metadata=batch.notes,
            webhook_url=batch.webhook_url,
            urls=BatchUrls(self=own, results=f"{own}/results", cancel=f"{own}/cancel"),
        )


class UnifiedBatchList(BaseModel):
    """`next_cursor`: null on the last page."""

    object: Literal["list"] = "list"
    data: list[UnifiedBatch]
    next_cursor: str | None


class DeletedBatch(BaseModel):
    id: str
    object: Literal["batch"] = "batch"
    deleted: bool = True


def _counts(batch: Batch) -> UnifiedCounts:
    """How many there are may be known before all have been looked at."""
    ended = batch.completed + batch.failed + batch.cancelled + batch.expired
    total = max(batch.total, ended, batch.requests or 0)
    rest = total - ended
    # Those of one that failed as a whole may never have been read.
    lost = rest if batch.status is BatchStatus.FAILED else 0
    return UnifiedCounts(
        total=total,
        processing=rest - lost,
        succeeded=batch.completed,
        failed=batch.failed + lost,
        cancelled=batch.cancelled,
        expired=batch.expired,
    )


def _usage(batch: Batch) -> UnifiedUsage | None:
    """Known once it ended."""
    if batch.usage is None:
        return None
    prompt, completion = batch.usage["prompt"], batch.usage["completion"]
    return UnifiedUsage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)
