"""An OpenAI chat completion as an Anthropic message."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import orjson

from shared.domain.job import JobKind
from shared.errors import ProviderAnswerInvalid
from shared.providers.dialect import Call
from shared.providers.dialects.anthropic.answer import generated_chars
from shared.providers.dialects.openai_chat import read_usage
from shared.providers.tokens import tokens_of_body, tokens_of_chars

Block = dict[str, Any]

_STOP_REASONS: Final[Mapping[str, str]] = {
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
"""All else is end_turn. A stop sequence that was met cannot be told from any other end."""
_NOT_IN_AN_ID: Final = re.compile(r"[^a-zA-Z0-9_-]")


def message_of(completion: Mapping[str, Any], call: Call) -> dict[str, Any]:
    choice = completion["choices"][0]
    said, finish = choice["message"], choice.get("finish_reason")
    content: list[Block] = []
    if thinking := reasoning_of(said):
        content.append({"type": "thinking", "thinking": thinking, "signature": ""})
    refusal = string(said.get("refusal"))
    content += [{"type": "text", "text": text} for text in (string(said.get("content")), refusal) if text]
    calls = objects(said.get("tool_calls"))
    for index, each in enumerate(calls):
        if (block := _tool_use(each, index, call, cut=finish == "length")) is not None:
            content.append(block)
    return {
        **opening(completion, call),
        "content": content,
        "stop_reason": stop_reason(finish, refused=bool(refusal), called=bool(calls)),
        "stop_sequence": None,
        "usage": usage_of(completion.get("usage")) or estimated_usage(call, generated_chars(content)),
    }


def opening(completion: Mapping[str, Any], call: Call) -> dict[str, Any]:
    """What a message begins with, plain and streamed."""
    model = completion.get("model")
    return {
        "id": message_id(completion.get("id"), call),
        "type": "message",
        "role": "assistant",
        "model": model if isinstance(model, str) and model else call.target.model,
    }


def message_id(completion_id: object, call: Call) -> str:
    """The same tail as the provider's own id, so that one can be found by the other."""
    return "msg_" + (string(completion_id).removeprefix("chatcmpl-") or call.job_id.removeprefix("job_"))


def tool_use(identity: str, name: str, index: int, call: Call) -> Block:
    """A block without its input. Anthropic takes ids of [a-zA-Z0-9_-] only, when it reads them later."""
    safe = _NOT_IN_AN_ID.sub("_", identity) or f"toolu_{call.job_id.removeprefix('job_')}_{index}"
    return {"type": "tool_use", "id": safe, "name": name}


def read_input(arguments: str, call: Call) -> dict[str, Any]:
    """Raises ProviderAnswerInvalid for arguments that are no JSON object: nobody could call the tool."""
    try:
        value = orjson.loads(arguments) if arguments.strip() else {}
    except orjson.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise ProviderAnswerInvalid(
            f"{call.profile.name} called a tool with arguments that are not a JSON object.",
            provider=call.profile.id,
        )
    return value


def stop_reason(finish_reason: object, *, refused: bool, called: bool) -> str:
    if refused:
        return "refusal"
    reason = _STOP_REASONS.get(string(finish_reason), "end_turn")
    # Some servers say `stop` after calls that a named tool_choice forced.
    return "tool_use" if called and reason == "end_turn" else reason


def usage_of(usage: object) -> dict[str, Any] | None:
    """Anthropic's input_tokens leaves out what the cache took part in; OpenAI's prompt_tokens has it all."""
    read = read_usage(usage)
    if read is None:
        return None
    prompt = read.prompt_tokens
    cached = min(read.cached_tokens, prompt)
    written = min(read.cache_write_tokens, prompt - cached)
    counts: dict[str, Any] = {
        "input_tokens": prompt - cached - written,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": cached,
        "output_tokens": read.completion_tokens,
    }
    if read.reasoning_tokens:
        counts["output_tokens_details"] = {"thinking_tokens": read.reasoning_tokens}
    return counts


def estimated_usage(call: Call, chars: int) -> dict[str, Any]:
    """Anthropic's clients expect counts, also of a provider that gave none."""
    return {
        "input_tokens": tokens_of_body(JobKind.MESSAGES, call.body, call.target.model),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": tokens_of_chars(chars),
    }


def reasoning_of(said: Mapping[str, Any]) -> str:
    """vLLM from 0.11 on and OpenRouter say `reasoning`."""
    return string(said.get("reasoning_content")) or string(said.get("reasoning"))


def objects(value: object) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def string(value: object) -> str:
    return value if isinstance(value, str) else ""


def _tool_use(said: Mapping[str, Any], index: int, call: Call, *, cut: bool) -> Block | None:
    """None for a call that the limit of tokens cut off: half its input would be another call."""
    function = said.get("function")
    function = function if isinstance(function, dict) else {}
    try:
        arguments = read_input(string(function.get("arguments")), call)
    except ProviderAnswerInvalid:
        if cut:
            return None
        raise
    block = tool_use(string(said.get("id")), string(function.get("name")), index, call)
    return {**block, "input": arguments}
