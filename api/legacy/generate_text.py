"""`POST /generate-text`: a prompt in, a text out."""

from __future__ import annotations

from typing import Final

import orjson
from fastapi import APIRouter, Request
from pydantic import TypeAdapter
from starlette.responses import Response

from api.legacy.prompt_call import prompt_call, told, usage_of
from api.legacy.schemas import ErrorResponse, PromptRequest, TextAnswer, request_body
from api.posted import posted
from api.submit import submit
from shared.queue.frames import Result
from shared.requests.checking import check

router: Final = APIRouter()

_REQUEST: Final = TypeAdapter(PromptRequest)


@router.post(
    "/generate-text",
    summary="Generate text",
    response_model=TextAnswer,
    responses={s: {"model": ErrorResponse} for s in (400, 401, 404, 413, 415, 422, 429, 502, 503, 504)},
    openapi_extra=request_body(["prompt"], {"prompt": "Write a haiku about queues.", "max_tokens": 64}),
    tags=["Older routes"],
)
async def generate_text(request: Request) -> Response:
    """A text by the default provider and model, unless `model` or `provider` name others."""
    asked = await posted(request)
    check(_REQUEST, asked.document)
    call = prompt_call(asked.document, asked, request, _text_answer)
    return await submit(call, request, asked.principal, asked.via)


def _text_answer(result: Result) -> bytes:
    answer, text = told(result)
    return orjson.dumps(
        {
            "text": text,
            "model": answer.get("model") or result.head.model,
            "provider": result.head.provider,
            "usage": usage_of(result),
        }
    )
