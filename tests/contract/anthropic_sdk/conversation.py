"""What the tests say through the client, and what they hear."""

from __future__ import annotations

import json
from typing import Any, Final

from anthropic.types import Message, MessageParam, ToolParam, ToolUseBlock

OPENAI: Final = "gpt-4o-mini"
ANTHROPIC: Final = "anthropic/claude-haiku-4-5"
BOTH: Final = (ANTHROPIC, OPENAI)
"""A model of each dialect that providers speak: callers see one form."""
ECHO: Final = "echo/phi-4"
"""Speaks OpenAI's form, and answers with what it was sent."""

WEATHER: Final[ToolParam] = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city", "days"],
    },
}


def say(text: str) -> list[MessageParam]:
    return [{"role": "user", "content": text}]


def script(prompt: str = "", /, **cue: Any) -> list[MessageParam]:
    """A message that tells the scripted provider what to do; its fields are in cues.py."""
    return say(f"!script {json.dumps(cue)}\n{prompt}")


def text_of(message: Message) -> str:
    """What was said in text; there may be nothing else."""
    (block,) = message.content
    assert block.type == "text"
    return block.text


def calls_of(message: Message) -> list[ToolUseBlock]:
    return [block for block in message.content if isinstance(block, ToolUseBlock)]


def echoed(message: Message) -> Any:
    return json.loads(text_of(message))
