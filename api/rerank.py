"""What the three rerank routes share: the job, and the documents it ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from api.sse import AS_STORED
from api.submission import Submission
from shared.domain.job import JobKind, Surface
from shared.queue.frames import Result
from shared.routing.router import Plan

Render = Callable[[dict[str, Any], Result], dict[str, Any]]
"""The caller's form of the answer of a RERANK job."""


def rerank_call(
    document: dict[str, Any], documents: list[str], plan: Plan, surface: Surface, render: Render
) -> Submission:
    """A job of the request in `document`, whose documents come as `documents`."""

    def render_body(result: Result) -> bytes:
        return orjson.dumps(render(orjson.loads(result.body or b"{}"), result))

    asked = {**document, "documents": documents}
    # The answer of the job names documents by their index alone: no provider has to send them back.
    asked.pop("return_documents", None)
    return Submission(
        kind=JobKind.RERANK,
        document={name: value for name, value in asked.items() if value is not None},
        body=None,
        plan=plan.targets,
        fallback_on=plan.fallback_on,
        asked=plan.asked,
        surface=surface,
        stream=False,
        include_usage=True,
        render_body=render_body,
        form=AS_STORED,
    )


def texts_of(document: dict[str, Any]) -> list[str]:
    """The documents as texts, whichever way each was written."""
    return [item if isinstance(item, str) else item["text"] for item in document["documents"]]


def tokens_of(result: Result) -> int:
    return result.head.prompt_tokens + result.head.completion_tokens
