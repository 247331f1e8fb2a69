"""What is said when nothing goes wrong: text, tool calls and token counts."""

import re
from itertools import pairwise
from typing import Any

import orjson

from cli.scripted_provider.cues import Cue
from cli.scripted_provider.dialect import Answer, OfferedTool, Prompt, ToolUse

# A piece holds whole code points, so no chunk's JSON breaks a character.
_PIECE = re.compile(r"\s*\S{1,12}|\s+")
_FILLER = "All work and no play makes a dull answer. "


def compose(prompt: Prompt, cue: Cue | None, *, token: str, created: int) -> Answer:
    uses = _tool_uses(prompt, cue)
    text, pieces = _text(prompt, cue, calls_tools=bool(uses))
    spoken = len(text) + sum(len(use.name) + len(use.arguments) for use in uses)
    return Answer(
        token=token,
        created=created,
        model=prompt.model,
        text=text,
        pieces=pieces,
        tool_uses=uses,
        finish_reason=cue.finish_reason if cue else None,
        prompt_tokens=count_tokens(prompt.characters),
        completion_tokens=count_tokens(spoken),
        usage_reported=cue is None or not cue.no_usage,
        usage_streamed=prompt.include_usage,
        material=prompt.material,
    )


def count_tokens(characters: int) -> int:
    return -(-characters // 4)


def _text(prompt: Prompt, cue: Cue | None, *, calls_tools: bool) -> tuple[str, list[str]]:
    """The text and, for a stream, the pieces it is cut into."""
    if cue is None:
        text = "" if calls_tools else _default_text(prompt)
    elif cue.text is not None:
        text = cue.text
    elif cue.size is not None:
        text = (_FILLER * (cue.size // len(_FILLER) + 1))[: cue.size]
    elif cue.chunks is not None or cue.chunk_text is not None:
        pieces = [cue.chunk_text or "tick "] * (1 if cue.chunks is None else cue.chunks)
        return "".join(pieces), pieces
    else:
        text = "" if calls_tools else _default_text(prompt)
    if not prompt.stream:
        return text, []
    if cue is not None and cue.chunks is not None:
        return text, _cut_evenly(text, cue.chunks)
    return text, _PIECE.findall(text)


def _default_text(prompt: Prompt) -> str:
    if prompt.tool_result is not None:
        return f"The tool said: {prompt.tool_result}"
    return f"You said: {prompt.text}"


def _cut_evenly(text: str, count: int) -> list[str]:
    bounds = [len(text) * i // count for i in range(count + 1)] if count else []
    return [text[start:end] for start, end in pairwise(bounds)]


def _tool_uses(prompt: Prompt, cue: Cue | None) -> tuple[ToolUse, ...]:
    if cue is not None and cue.tool_calls:
        return tuple(ToolUse(tool.name, _as_json(tool.arguments)) for tool in cue.tool_calls)
    if prompt.tool is None or prompt.tool_result is not None:
        return ()
    if cue is not None and (cue.text, cue.size, cue.chunks, cue.chunk_text) != (None,) * 4:
        return ()
    return (ToolUse(prompt.tool.name, _as_json(_arguments(prompt.tool, prompt.text))),)


def _as_json(arguments: dict[str, Any] | str) -> str:
    return arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode()


def _arguments(tool: OfferedTool, text: str) -> dict[str, Any]:
    """A value for each required property, or for each property when none is required."""
    properties = tool.schema.get("properties")
    if not isinstance(properties, dict):
        return {}
    names = tool.schema.get("required") or list(properties)
    return {name: _example(properties.get(name), text) for name in names}


def _example(schema: object, text: str) -> Any:
    if not isinstance(schema, dict):
        return text
    if isinstance(schema.get("enum"), list) and schema["enum"]:
        return schema["enum"][0]
    examples: dict[object, Any] = {"integer": 1, "number": 1.5, "boolean": True, "null": None, "array": []}
    if schema.get("type") == "object":
        return _arguments(OfferedTool("", schema), text)
    kind = schema.get("type")
    return examples.get(kind, text) if isinstance(kind, str) else text
