"""The parts of one chat message as Anthropic content blocks."""

from __future__ import annotations

import re
from base64 import b64decode
from typing import Any, Final

import orjson

from shared.providers.not_carried_over import not_carried_over

Block = dict[str, Any]

_DATA_URL: Final = re.compile(r"data:([^;,]+)(?:;[^;,]+)*;base64,", re.IGNORECASE)
_IMAGE_TYPES: Final = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
_NATIVE_PARTS: Final = frozenset({"image", "document", "search_result"})
_NOT_IN_AN_ID: Final = re.compile(r"[^a-zA-Z0-9_-]")


def text_blocks(content: object, where: str) -> list[Block]:
    """Content that may only be text: of system, assistant and tool messages."""
    if content is None:
        return []
    if isinstance(content, str):
        return [_text(content)] if content else []
    blocks = []
    for at, part in _parts(content, where):
        kind = part.get("type")
        if kind not in {"text", "refusal"}:
            raise not_carried_over(at, f"a part of type {kind!r} cannot stand here for this provider.")
        if text := _string(part.get(kind), f"{at}.{kind}"):
            blocks.append(_text(text, part))
    return blocks


def user_blocks(content: object, where: str) -> list[Block]:
    """Content of a user message, with its images and documents."""
    if content is None or isinstance(content, str):
        return text_blocks(content, where)
    blocks = []
    for at, part in _parts(content, where):
        kind = part.get("type")
        if kind == "text":
            if text := _string(part.get("text"), f"{at}.text"):
                blocks.append(_text(text, part))
        elif kind == "image_url":
            blocks.append(with_cache_control(_image(part.get("image_url"), f"{at}.image_url"), part))
        elif kind == "file":
            blocks.append(with_cache_control(_document(part.get("file"), f"{at}.file"), part))
        elif kind in _NATIVE_PARTS:
            blocks.append(part)
        else:
            raise not_carried_over(at, f"this provider takes no part of type {kind!r}.")
    return blocks


def thinking_blocks(message: dict[str, Any], where: str) -> list[Block]:
    """What Claude thought before, given back as our answers give it: see answer.py.

    Anthropic takes it only with the signature it was given; `reasoning_content` has none, so it is
    left out, and the answer goes on without it.
    """
    told = message.get("thinking_blocks")
    if told is None:
        return []
    if not isinstance(told, list):
        raise not_carried_over(f"{where}.thinking_blocks", "must be a list.")
    blocks = []
    for index, block in enumerate(told):
        match block:
            case {"type": "thinking", "thinking": str(thinking), "signature": str(signature)}:
                if signature:
                    blocks.append({"type": "thinking", "thinking": thinking, "signature": signature})
            case {"type": "redacted_thinking", "data": str(data)}:
                blocks.append({"type": "redacted_thinking", "data": data})
            case _:
                raise not_carried_over(
                    f"{where}.thinking_blocks[{index}]", "must be a block of thinking with its signature."
                )
    return blocks


def tool_result(message: dict[str, Any], where: str) -> Block:
    block: Block = {
        "type": "tool_result",
        "tool_use_id": tool_id(message.get("tool_call_id"), f"{where}.tool_call_id"),
    }
    content = user_blocks(message.get("content"), f"{where}.content")
    if content:
        block["content"] = content
    return with_cache_control(block, message)


def tool_use(call: object, where: str) -> Block:
    if not isinstance(call, dict) or call.get("type", "function") != "function":
        raise not_carried_over(where, "only calls of functions can be carried over to this provider.")
    function = call.get("function")
    if not isinstance(function, dict):
        raise not_carried_over(f"{where}.function", "must be an object.")
    return {
        "type": "tool_use",
        "id": tool_id(call.get("id"), f"{where}.id"),
        "name": _string(function.get("name"), f"{where}.function.name"),
        "input": _arguments(function.get("arguments"), f"{where}.function.arguments"),
    }


def tool_id(value: object, where: str) -> str:
    """Anthropic takes ids of [a-zA-Z0-9_-] only; call and result are rewritten alike."""
    text = _string(value, where)
    if not text:
        raise not_carried_over(where, "must not be empty.")
    return _NOT_IN_AN_ID.sub("_", text)


def _arguments(text: object, where: str) -> dict[str, Any]:
    if text is None or text == "":
        return {}
    try:
        arguments = orjson.loads(text) if isinstance(text, str) else text
    except orjson.JSONDecodeError as exc:
        raise not_carried_over(where, "must be a JSON object for this provider.") from exc
    if not isinstance(arguments, dict):
        raise not_carried_over(where, "must be a JSON object for this provider.")
    return arguments


def _parts(content: object, where: str) -> list[tuple[str, dict[str, Any]]]:
    if not isinstance(content, list):
        raise not_carried_over(where, "must be a string or a list of parts.")
    parts = []
    for index, part in enumerate(content):
        if not isinstance(part, dict):
            raise not_carried_over(f"{where}[{index}]", "must be an object.")
        parts.append((f"{where}[{index}]", part))
    return parts


def _text(text: str, part: dict[str, Any] | None = None) -> Block:
    return with_cache_control({"type": "text", "text": text}, part or {})


def with_cache_control(block: Block, source: dict[str, Any]) -> Block:
    if (cache_control := source.get("cache_control")) is not None:
        block["cache_control"] = cache_control
    return block


def _image(image: object, where: str) -> Block:
    url = image.get("url") if isinstance(image, dict) else image
    url = _string(url, f"{where}.url")
    if url.startswith("https://"):
        return {"type": "image", "source": {"type": "url", "url": url}}
    media_type, data = _data_url(url, f"{where}.url", "an https:// or a base64 data: URL")
    if media_type not in _IMAGE_TYPES:
        raise not_carried_over(f"{where}.url", f"this provider reads {', '.join(sorted(_IMAGE_TYPES))} only.")
    return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data}}


def _document(file: object, where: str) -> Block:
    if not isinstance(file, dict) or file.get("file_data") is None:
        raise not_carried_over(where, "a file must be given as file_data for this provider.")
    block: Block = {
        "type": "document",
        "source": _document_source(_string(file["file_data"], f"{where}.file_data"), f"{where}.file_data"),
    }
    if isinstance(file.get("filename"), str):
        block["title"] = file["filename"]
    return block


def _document_source(url: str, where: str) -> Block:
    if url.startswith("https://"):
        return {"type": "url", "url": url}
    media_type, data = _data_url(url, where, "an https:// or a base64 data: URL")
    if media_type == "application/pdf":
        return {"type": "base64", "media_type": media_type, "data": data}
    if not media_type.startswith("text/"):
        raise not_carried_over(where, "this provider reads files of type application/pdf and text only.")
    try:
        text = b64decode(data, validate=True).decode()
    except ValueError as exc:
        raise not_carried_over(where, "must be UTF-8 text in base64.") from exc
    return {"type": "text", "media_type": "text/plain", "data": text}


def _data_url(url: str, where: str, wanted: str) -> tuple[str, str]:
    """Media type and base64 text of a data: URL. RFC 2397."""
    # Only the head is matched: the rest may be megabytes.
    head = _DATA_URL.match(url[:200])
    if head is None:
        raise not_carried_over(where, f"must be {wanted} for this provider.")
    media_type = head.group(1).strip().lower()
    return "image/jpeg" if media_type == "image/jpg" else media_type, url[head.end() :]


def _string(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise not_carried_over(where, "must be a string.")
    return value
