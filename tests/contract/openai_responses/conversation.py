"""What the tests ask through the client, and what they hear."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

from openai.types.responses import (
    FunctionToolParam,
    Response,
    ResponseFunctionToolCall,
    ResponseStreamEvent,
)

from tests.contract.openai_sdk.conversation import ANTHROPIC, BOTH, OPENAI

__all__ = ["ANTHROPIC", "BOTH", "OPENAI"]

WEATHER: Final[FunctionToolParam] = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a city.",
    "strict": False,
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city", "days"],
    },
}
TWO_CALLS: Final = [
    {"name": "get_weather", "arguments": {"city": "Paris, 巴黎 🗼", "days": 3}},
    {"name": "get_weather", "arguments": {"city": "Rome", "days": 1}},
]


def script(prompt: str = "", /, **cue: Any) -> str:
    """Input that tells the scripted provider what to do; its fields are in cues.py."""
    return f"!script {json.dumps(cue)}\n{prompt}"


def chat_stream(*deltas: dict[str, Any], finish: str = "stop") -> dict[str, Any]:
    """A cue for a stream of these deltas, as a provider of OpenAI's chat sends it."""
    choices: list[dict[str, Any]] = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    choices.append({"index": 0, "delta": {}, "finish_reason": finish})
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "scripted"}
    frames = [f"data: {json.dumps({**head, 'choices': [choice]})}\n\n" for choice in choices]
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    frames.append(f"data: {json.dumps({**head, 'choices': [], 'usage': usage})}\n\n")
    return {
        "headers": {"content-type": "text/event-stream"},
        "body": "".join(frames) + "data: [DONE]\n\n",
    }


def chat_answer(message: dict[str, Any], *, finish: str = "stop") -> dict[str, Any]:
    """A cue for this message as a whole answer of OpenAI's chat."""
    answer = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "scripted",
        "choices": [{"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
    }
    return {"headers": {"content-type": "application/json"}, "body": json.dumps(answer)}


def function_calls(answer: Response) -> list[ResponseFunctionToolCall]:
    return [item for item in answer.output if isinstance(item, ResponseFunctionToolCall)]


def hear(events: Iterable[ResponseStreamEvent]) -> tuple[list[ResponseStreamEvent], Response]:
    """All events, their numbers in order, and the response that the last one holds."""
    heard = list(events)
    assert [event.sequence_number for event in heard] == list(range(len(heard)))
    last = heard[-1]
    assert last.type in ("response.completed", "response.incomplete")
    return heard, last.response


def text_of(events: Iterable[ResponseStreamEvent]) -> str:
    return "".join(event.delta for event in events if event.type == "response.output_text.delta")
