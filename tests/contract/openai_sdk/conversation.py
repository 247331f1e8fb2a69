"""What the tests say through the client, and what they hear."""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from openai.types.chat import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionMessageFunctionToolCall,
    ChatCompletionMessageParam,
    ChatCompletionToolParam,
)

OPENAI: Final = "gpt-4o-mini"
ANTHROPIC: Final = "anthropic/claude-haiku-4-5"
BOTH: Final = (OPENAI, ANTHROPIC)
"""A model of each dialect that providers speak: callers see one form."""

WEATHER: Final[ChatCompletionToolParam] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city", "days"],
        },
    },
}


def say(text: str) -> list[ChatCompletionMessageParam]:
    return [{"role": "user", "content": text}]


def script(prompt: str = "", /, **cue: Any) -> list[ChatCompletionMessageParam]:
    """A message that tells the scripted provider what to do; its fields are in cues.py."""
    return say(f"!script {json.dumps(cue)}\n{prompt}")


@dataclass
class Heard:
    """A stream put together again."""

    text: str = ""
    tool_calls: dict[int, dict[str, str]] = field(default_factory=dict)
    """By index: id, name, arguments."""
    argument_fragments: int = 0
    finish_reason: str | None = None
    usages: list[Any] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    models: set[str] = field(default_factory=set)
    chunks: int = 0

    def add(self, chunk: ChatCompletionChunk) -> None:
        self.chunks += 1
        self.ids.add(chunk.id)
        self.models.add(chunk.model)
        if chunk.usage is not None:
            self.usages.append(chunk.usage)
        for choice in chunk.choices:
            self.text += choice.delta.content or ""
            self.finish_reason = choice.finish_reason or self.finish_reason
            for call in choice.delta.tool_calls or ():
                known = self.tool_calls.setdefault(call.index, {"id": "", "name": "", "arguments": ""})
                known["id"] += call.id or ""
                if call.function is not None:
                    known["name"] += call.function.name or ""
                    known["arguments"] += call.function.arguments or ""
                    self.argument_fragments += bool(call.function.arguments)


def hear(stream: Iterable[ChatCompletionChunk], heard: Heard | None = None) -> Heard:
    """All of it; `heard` is what is known when the stream breaks."""
    heard = heard or Heard()
    for chunk in stream:
        heard.add(chunk)
    return heard


async def hear_async(stream: AsyncIterable[ChatCompletionChunk], heard: Heard | None = None) -> Heard:
    heard = heard or Heard()
    async for chunk in stream:
        heard.add(chunk)
    return heard


def function_calls(answer: ChatCompletion) -> list[ChatCompletionMessageFunctionToolCall]:
    """The tool calls of a plain answer; there are none of another kind."""
    calls = answer.choices[0].message.tool_calls or []
    found = [call for call in calls if isinstance(call, ChatCompletionMessageFunctionToolCall)]
    assert len(found) == len(calls)
    return found
