"""A prompt and its options as a chat, and the text of the answer."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.requests import Request

from api.legacy.default_target import take_plan_or_default
from api.posted import Posted
from api.sse import AS_STORED, StreamForm
from api.submission import RenderBody, Submission
from shared.domain.job import JobKind, Surface
from shared.queue.frames import Result
from shared.requests.checking import fault, refuse_several_answers
from shared.routing.default_model import OPENAI


def prompt_call(
    document: dict[str, Any],
    asked: Posted,
    request: Request,
    render_body: RenderBody,
    *,
    surface: Surface = Surface.UNIFIED,
    stream: bool = False,
    form: StreamForm = AS_STORED,
) -> Submission:
    """`document`: a chat's options, and `prompt`, `provider` and `model` where they were given."""
    if not stream and document.get("stream"):
        raise fault("stream", "this route does not stream")
    document.pop("stream", None)
    prompt = document.pop("prompt", None)
    if prompt is not None:
        document["messages"] = [{"role": "user", "content": prompt}]
    via = asked.via
    plan = take_plan_or_default(document, JobKind.CHAT, request, asked.principal, via)
    if (
        plan.targets[0].provider == OPENAI
        and document.get("max_tokens") is None
        and document.get("max_completion_tokens") is None
    ):
        # Its reasoning models refuse the older name; all of its chat models know this one.
        document["max_completion_tokens"] = via.settings.openai_max_tokens
    if stream:
        refuse_several_answers(document)
        document["stream"] = True
    return Submission(
        kind=JobKind.CHAT,
        document=document,
        body=None,
        plan=plan.targets,
        fallback_on=plan.fallback_on,
        asked=plan.asked,
        surface=surface,
        stream=stream,
        include_usage=False,
        render_body=render_body,
        form=form,
    )


def told(result: Result) -> tuple[dict[str, Any], str]:
    """The chat completion of a result, and the text in it."""
    answer: dict[str, Any] = orjson.loads(result.body or b"{}")
    return answer, answer["choices"][0]["message"].get("content") or ""


def usage_of(result: Result) -> dict[str, int]:
    head = result.head
    return {
        "prompt_tokens": head.prompt_tokens,
        "completion_tokens": head.completion_tokens,
        "total_tokens": head.prompt_tokens + head.completion_tokens,
    }
