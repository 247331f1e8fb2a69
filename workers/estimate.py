"""Tokens of a call whose provider did not count them: cancelled, cut, or silent about usage.

Four characters a token, over what a model reads as text: messages, tool calls, tool
definitions. What else a message carries counts by the piece, whatever its size on the wire.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import orjson

_CHARS_PER_TOKEN: Final = 4
MEDIA_TOKENS: Final = 1_000
"""For each image, file or audio part. A picture of 1024 x 1024 costs 765 tokens at OpenAI (gpt-4o,
high detail) and some 1,400 at Anthropic (width x height / 750): a thousand is between the two.
"""
_MEDIA: Final = frozenset({"image_url", "input_audio", "file"})


def tokens_of(chars: int) -> int:
    return -(-chars // _CHARS_PER_TOKEN)


def prompt_tokens(body: bytes) -> int:
    """Of a canonical chat request. It is parsed for this alone, so ask only where it is needed."""
    try:
        request = orjson.loads(body)
    except orjson.JSONDecodeError:
        return tokens_of(len(body))
    if not isinstance(request, dict):
        return tokens_of(len(body))
    chars, media = 0, 0
    for message in _objects(request.get("messages")):
        content = message.get("content")
        chars += _text(content)
        for part in _objects(content):
            if part.get("type") in _MEDIA:
                media += 1
            else:
                chars += _text(part.get("text")) + _text(part.get("refusal"))
        for call in _objects(message.get("tool_calls")):
            for function in _objects([call.get("function")]):
                chars += _text(function.get("name")) + _text(function.get("arguments"))
    for definitions in (request.get("tools"), request.get("functions")):
        if definitions:
            chars += len(orjson.dumps(definitions))
    return tokens_of(chars) + media * MEDIA_TOKENS


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    return (item for item in value if isinstance(item, dict)) if isinstance(value, list) else iter(())


def _text(value: Any) -> int:
    return len(value) if isinstance(value, str) else 0
