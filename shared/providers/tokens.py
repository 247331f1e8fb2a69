"""Tokens of a request as an estimate: four characters a token, a constant for what is no text."""

from __future__ import annotations

from typing import Any, Final

import orjson

from shared.domain.job import JobKind

_CHARS_PER_TOKEN: Final = 4
_MEDIA_TOKENS: Final = 1_000
_MEDIA: Final = frozenset({"image", "document", "image_url", "input_audio", "file"})


def tokens_of_chars(chars: int) -> int:
    return -(-chars // _CHARS_PER_TOKEN)


def tokens_of_body(kind: JobKind, body: bytes, model: str) -> int:
    """The same of a job's body, which is parsed for this alone."""
    document = orjson.loads(body)
    return prompt_tokens(kind, document, model) if isinstance(document, dict) else tokens_of_chars(len(body))


def prompt_tokens(kind: JobKind, document: dict[str, Any], model: str) -> int:
    """Of a request in the form of `kind`."""
    chars, media = 0, 0
    pending: list[Any] = [document.get(name) for name in ("system", "messages", "tools", "input", "prompt")]
    while pending:
        value = pending.pop()
        if isinstance(value, str):
            chars += len(value)
        elif isinstance(value, list):
            pending += value
        elif isinstance(value, dict):
            if value.get("type") in _MEDIA:
                media += 1
            else:
                pending += value.values()
    return tokens_of_chars(chars) + media * _MEDIA_TOKENS
