"""A request for a job: what is asked, of which route, and what its caller wants besides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Required

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, with_config
from typing_extensions import TypedDict

from api.job_view import JobAnswer
from shared.requests.checking import check

MAX_NOTES: Final = 16
Endpoint = Literal[
    "/v1/chat/completions",
    "/v1/messages",
    "/v1/responses",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/rerank",
    "/api/v1/chat",
    "/api/v1/embeddings",
    "/api/v1/rerank",
]
Notes = Annotated[
    dict[
        Annotated[str, StringConstraints(min_length=1, max_length=64)],
        Annotated[str, StringConstraints(max_length=512)],
    ],
    Field(max_length=MAX_NOTES),
]
Url = Annotated[str, StringConstraints(min_length=1, max_length=2_048)]


@with_config(ConfigDict(extra="forbid", strict=True))
class JobRequest(TypedDict, total=False):
    endpoint: Required[Endpoint]
    body: Required[dict[str, Any]]
    metadata: Notes | None
    webhook_url: Url | None
    timeout_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None


_REQUEST: Final = TypeAdapter(JobRequest)


def check_job_request(document: Mapping[str, Any]) -> None:
    """Raises InvalidRequest (422) with path and problem of what is wrong."""
    check(_REQUEST, document)


REQUEST_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["endpoint", "body"],
                    "additionalProperties": False,
                    "properties": {
                        "endpoint": {"type": "string", "enum": list(Endpoint.__args__)},  # type: ignore[attr-defined]  # a Literal has its words there
                        "body": {"type": "object", "description": "What that route would be asked."},
                        "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
                        "webhook_url": {"type": "string"},
                        "timeout_seconds": {"type": "number", "exclusiveMinimum": 0},
                    },
                },
                "example": {
                    "endpoint": "/v1/chat/completions",
                    "body": {
                        "model": "gpt-4o-mini",
                        "messages": [{"role": "user", "content": "Hello"}],
                    },
                    "metadata": {"order": "17"},
                },
            }
        },
    }
}


class JobList(BaseModel):
    """`next_cursor`: null on the last page."""

    object: Literal["list"] = "list"
    data: list[JobAnswer]
    next_cursor: str | None


class DeletedJob(BaseModel):
    id: str
    object: Literal["job"] = "job"
    deleted: bool = True
