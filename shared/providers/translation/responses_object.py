"""OpenAI's Response object: its ids, and what it says of the request it answers.

A response is its job: `resp_` and the job's id without `job_`, which also says when it was made.
Source: openai-python 3.52, types/responses/response.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from shared.ids import JOB_ID, JobId
from shared.providers.dialects.openai_chat import read_usage

Fields = dict[str, Any]

_RESPONSE_ID: Final = re.compile(r"resp_[0-9a-f]{32}\Z")
_ECHOED: Final = (
    "instructions",
    "max_output_tokens",
    "max_tool_calls",
    "previous_response_id",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "temperature",
    "top_p",
    "user",
)
"""Fields of a response that say again what was asked; null when it was not."""


def response_id_of(job_id: JobId) -> str:
    return "resp_" + _tail(job_id)


def job_id_of(response_id: str) -> JobId | None:
    """None when it is not one of ours."""
    return JobId("job_" + response_id[5:]) if _RESPONSE_ID.match(response_id) else None


def item_id(prefix: str, job_id: JobId, index: int | str) -> str:
    """The same for the same place of the same response, streamed or read later."""
    return f"{prefix}_{_tail(job_id)}_{index}"


def _tail(job_id: JobId) -> str:
    return job_id.removeprefix("job_")


def _created_at(job_id: JobId) -> int:
    """A job's id begins with the milliseconds at which it was made."""
    return int(job_id[4:16], 16) // 1000 if JOB_ID.match(job_id) else 0


def response_object(
    request: Mapping[str, Any],
    *,
    job_id: JobId,
    model: str,
    status: str,
    output: Sequence[Fields] = (),
    incomplete: str | None = None,
    error: Fields | None = None,
    usage: Fields | None = None,
    service_tier: str | None = None,
) -> Fields:
    """`request`: as it was checked. `incomplete`: the reason, if it is."""
    text = request.get("text") or {}
    reasoning = request.get("reasoning") or {}
    parallel, store = request.get("parallel_tool_calls"), request.get("store")
    return {
        "id": response_id_of(job_id),
        "object": "response",
        "created_at": _created_at(job_id),
        "status": status,
        "background": request.get("background") is True,
        "error": error,
        "incomplete_details": None if incomplete is None else {"reason": incomplete},
        "model": model,
        "output": list(output),
        **{name: request.get(name) for name in _ECHOED},
        "metadata": request.get("metadata") or {},
        "parallel_tool_calls": True if parallel is None else parallel,
        "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
        "service_tier": service_tier or request.get("service_tier"),
        "store": True if store is None else store,
        "text": {**text, "format": text.get("format") or {"type": "text"}},
        "tool_choice": request.get("tool_choice") or "auto",
        "tools": [_tool(tool) for tool in request.get("tools") or ()],
        "top_logprobs": request.get("top_logprobs") or 0,
        # Nobody here cuts an input short, whatever was asked: one that is too long is an error.
        "truncation": "disabled",
        "usage": usage,
    }


def _tool(tool: Fields) -> Fields:
    return {"parameters": None, "strict": False, **tool}


def response_usage(usage: object) -> Fields | None:
    """A chat completion's `usage` in this form; None when it says nothing."""
    read = read_usage(usage)
    if read is None or not isinstance(usage, dict):
        return None
    details = usage.get("prompt_tokens_details")
    written = details.get("cache_write_tokens") if isinstance(details, dict) else None
    return {
        "input_tokens": read.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": read.cached_tokens,
            "cache_write_tokens": written if isinstance(written, int) else 0,
        },
        "output_tokens": read.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": read.reasoning_tokens},
        "total_tokens": read.total_tokens,
    }
