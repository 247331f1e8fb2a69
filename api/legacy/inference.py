"""`POST /v1/inference/complete` and `/v1/inference/stream`: a prompt continued, whole or as it comes."""

from __future__ import annotations

from typing import Any, Final

import orjson
from fastapi import APIRouter, Request
from pydantic import TypeAdapter
from starlette.responses import Response

from api.legacy.prompt_call import prompt_call, told, usage_of
from api.legacy.schemas import ErrorResponse, InferenceAnswer, PromptRequest, request_body
from api.posted import posted
from api.resume import register_form
from api.sse import StreamForm
from api.submit import submit
from shared.domain.job import Surface
from shared.queue.frames import Result
from shared.requests.checking import check

router: Final = APIRouter(prefix="/v1/inference", tags=["Older routes"])

_REQUEST: Final = TypeAdapter(PromptRequest)
_REQUEST_BODY: Final = request_body(["prompt"], {"prompt": "Once upon a time", "max_tokens": 64})


@router.post(
    "/complete",
    summary="Complete a prompt",
    response_model=InferenceAnswer,
    responses={s: {"model": ErrorResponse} for s in (400, 401, 404, 413, 415, 422, 429, 502, 503, 504)},
    openapi_extra=_REQUEST_BODY,
)
async def complete(request: Request) -> Response:
    """The whole answer at once."""
    asked = await posted(request)
    check(_REQUEST, asked.document)
    call = prompt_call(asked.document, asked, request, _answer, surface=Surface.INFERENCE)
    return await submit(call, request, asked.principal, asked.via)


@router.post(
    "/stream",
    summary="Stream the completion of a prompt",
    response_class=Response,
    responses={
        200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}},
        **{s: {"model": ErrorResponse} for s in (400, 401, 404, 413, 415, 422, 429, 502, 503, 504)},
    },
    openapi_extra=_REQUEST_BODY,
)
async def stream(request: Request) -> Response:
    """Server-sent events `{"text": ...}`, then `[DONE]`."""
    asked = await posted(request)
    check(_REQUEST, asked.document)
    call = prompt_call(
        asked.document, asked, request, _answer, surface=Surface.INFERENCE, stream=True, form=FORM
    )
    return await submit(call, request, asked.principal, asked.via)


def _answer(result: Result) -> bytes:
    answer, text = told(result)
    return orjson.dumps(
        {
            "text": text,
            "model": answer.get("model") or result.head.model,
            "usage": usage_of(result),
            "cached": False,
        }
    )


def _text_event(event: bytes) -> bytes:
    chunk: dict[str, Any] = orjson.loads(event)
    choices = chunk.get("choices") or [{}]
    text = (choices[0].get("delta") or {}).get("content")
    return orjson.dumps({"text": text}) if text else b""


FORM: Final = register_form(Surface.INFERENCE, StreamForm(_text_event))
