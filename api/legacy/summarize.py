"""`POST /summarize`: a summary of a text."""

from __future__ import annotations

from typing import Any, Final

import orjson
from fastapi import APIRouter, Request
from pydantic import TypeAdapter
from starlette.responses import Response

from api.legacy.default_target import take_plan_or_default
from api.legacy.schemas import ErrorResponse, SummarizeRequest, Summary, request_body
from api.posted import Posted, posted
from api.sse import AS_STORED
from api.submission import Submission
from api.submit import submit
from shared.domain.job import JobKind, Surface
from shared.queue.frames import Result
from shared.requests.checking import check, fault
from shared.routing.choice import plan_for
from shared.routing.router import Plan

router: Final = APIRouter()

_REQUEST: Final = TypeAdapter(SummarizeRequest)
_TASK_PROVIDER: Final = "huggingface"
_TASK_MODEL: Final = "facebook/bart-large-cnn"
"""What Hugging Face's documentation of the task recommends."""
_UNBOUNDED: Final = float("inf")


@router.post(
    "/summarize",
    summary="Summarize a text",
    response_model=Summary,
    responses={s: {"model": ErrorResponse} for s in (400, 401, 404, 413, 415, 422, 429, 502, 503, 504)},
    openapi_extra=request_body(["text"], {"text": "A long text about queues.", "max_length": 60}),
    tags=["Older routes"],
)
async def summarize(request: Request) -> Response:
    """By Hugging Face's summarization where that is served and nothing else is named, else through
    a chat. `min_length` and `max_length` count tokens; a chat model is asked for about as many words.
    """
    asked = await posted(request)
    document, via = asked.document, asked.via
    check(_REQUEST, document)
    if (document.get("min_length") or 0) > (document.get("max_length") or _UNBOUNDED):
        raise fault("min_length", "is above `max_length`")
    plan = _plan(asked, request)
    call = Submission(
        kind=JobKind.SUMMARIZATION,
        document=document,
        body=None,
        plan=plan.targets,
        fallback_on=plan.fallback_on,
        asked=plan.asked,
        surface=Surface.UNIFIED,
        stream=False,
        include_usage=False,
        render_body=_summary,
        form=AS_STORED,
    )
    return await submit(call, request, asked.principal, via)


def _plan(asked: Posted, request: Request) -> Plan:
    document, via = asked.document, asked.via
    named = document.get("model") is not None or document.get("provider") is not None
    if not named and _TASK_PROVIDER in via.providers():
        document.pop("provider", None)
        name = f"{_TASK_PROVIDER}/{_TASK_MODEL}"
        return plan_for(name, document, JobKind.SUMMARIZATION, request.scope["headers"], asked.principal, via)
    return take_plan_or_default(document, JobKind.SUMMARIZATION, request, asked.principal, via)


def _summary(result: Result) -> bytes:
    answer: dict[str, Any] = orjson.loads(result.body or b"{}")
    return orjson.dumps(
        {
            "summary": answer["summary"],
            "model": answer.get("model") or result.head.model,
            "provider": result.head.provider,
        }
    )
