"""System prompt and turns of Anthropic Messages as the messages of a chat.

One user turn may become several messages: results of tools stand in messages of their own,
before what else the user said. Chat has only text there, so images and documents in a result
are handed on with the user's.

Several texts become one, line by line: many servers take nothing but a string.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from shared.providers.not_carried_over import not_carried_over

Block = dict[str, Any]
Message = dict[str, Any]

_ATTACHED: Final = "The result is attached to the next message."


def conversation(system: object, turns: object, *, with_reasoning: bool) -> list[Message]:
    """`with_reasoning`: whether earlier thinking can be said; else it is left out, as a hint."""
    messages: list[Message] = []
    if text := _text_only(system, "system"):
        messages.append({"role": "system", "content": text})
    if not isinstance(turns, list):
        raise not_carried_over("messages", "must be a list.")
    for index, turn in enumerate(turns):
        where = f"messages[{index}]"
        role = turn.get("role") if isinstance(turn, dict) else None
        if role == "user":
            messages += _user(turn.get("content"), f"{where}.content")
        elif role == "assistant":
            messages.append(
                _assistant(turn.get("content"), f"{where}.content", with_reasoning=with_reasoning)
            )
        elif role == "system":
            messages.append(
                {"role": "system", "content": _text_only(turn.get("content"), f"{where}.content")}
            )
        else:
            raise not_carried_over(f"{where}.role", "must be user, assistant or system.")
    return messages


def _user(content: object, where: str) -> list[Message]:
    if isinstance(content, str):
        return [{"role": "user", "content": content}]
    results: list[Message] = []
    parts: list[Block] = []
    for at, block in _blocks(content, where):
        if block.get("type") == "tool_result":
            result, attached = _tool_result(block, at)
            results.append(result)
            parts += attached
        else:
            parts += _parts(block, at)
    return [*results, {"role": "user", "content": _joined(parts)}] if parts else results


def _assistant(content: object, where: str, *, with_reasoning: bool) -> Message:
    if isinstance(content, str):
        return {"role": "assistant", "content": content}
    text: list[str] = []
    thinking: list[str] = []
    calls: list[Block] = []
    for at, block in _blocks(content, where):
        match block.get("type"):
            case "text":
                text.append(_string(block.get("text"), f"{at}.text"))
            case "thinking":
                thinking.append(_string(block.get("thinking"), f"{at}.thinking"))
            case "redacted_thinking":
                pass  # only Anthropic can read it
            case "tool_use":
                calls.append(_tool_call(block, at))
            case kind:
                raise not_carried_over(at, f"a block of type {kind!r} cannot be carried over.")
    message: Message = {"role": "assistant", "content": "".join(text)}
    if calls:
        message["content"] = message["content"] or None
        message["tool_calls"] = calls
    if with_reasoning and (reasoning := "".join(thinking)):
        message["reasoning_content"] = reasoning
    return message


def _tool_call(block: Block, where: str) -> Block:
    arguments = block.get("input")
    if not isinstance(arguments, dict):
        raise not_carried_over(f"{where}.input", "must be an object.")
    return {
        "id": _string(block.get("id"), f"{where}.id"),
        "type": "function",
        "function": {
            "name": _string(block.get("name"), f"{where}.name"),
            "arguments": orjson.dumps(arguments).decode(),
        },
    }


def _tool_result(block: Block, where: str) -> tuple[Message, list[Block]]:
    """The message, and the parts that cannot stand in it."""
    content = block.get("content")
    parts: list[Block] = []
    if isinstance(content, str):
        parts.append(_text(content))
    elif content is not None:
        for at, inner in _blocks(content, f"{where}.content"):
            parts += _parts(inner, at)
    text = "\n".join(part["text"] for part in parts if part["type"] == "text")
    attached = [part for part in parts if part["type"] != "text"]
    if attached and not text:
        text = _ATTACHED
    if block.get("is_error") is True and not text.lower().startswith("error"):
        # Chat has no flag for it, and models read the word.
        text = f"Error: {text}" if text else "Error"
    tool_call_id = _string(block.get("tool_use_id"), f"{where}.tool_use_id")
    return {"role": "tool", "tool_call_id": tool_call_id, "content": text}, attached


def _parts(block: Block, where: str) -> list[Block]:
    """What a user may say: usually one part; a document may hold several."""
    match block.get("type"):
        case "text":
            return [_text(_string(block.get("text"), f"{where}.text"))]
        case "image":
            return [_image(block.get("source"), f"{where}.source")]
        case "document":
            return _document(block, where)
        case "search_result":
            texts = _text_only(block.get("content"), f"{where}.content")
            return [_headed(texts, block.get("title"), block.get("source"))]
        case kind:
            raise not_carried_over(where, f"a block of type {kind!r} cannot be carried over.")


def _image(source: object, where: str) -> Block:
    match source:
        case {"type": "base64", "media_type": str(media_type), "data": str(data)}:
            url = f"data:{media_type};base64,{data}"
        case {"type": "url", "url": str(url)}:
            pass
        case _:
            raise not_carried_over(where, "an image must be given as base64 or as a URL for this provider.")
    return {"type": "image_url", "image_url": {"url": url}}


def _document(block: Block, where: str) -> list[Block]:
    citations = block.get("citations")
    if isinstance(citations, dict) and citations.get("enabled"):
        raise not_carried_over(f"{where}.citations", "this provider does not cite.")
    title, context = block.get("title"), block.get("context")
    match block.get("source"):
        case {"type": "base64", "data": str(data), **rest}:
            media_type = rest.get("media_type", "application/pdf")
            file = {
                "filename": title if isinstance(title, str) and title else "document.pdf",
                "file_data": f"data:{media_type};base64,{data}",
            }
            return [*([_text(context)] if isinstance(context, str) else []), {"type": "file", "file": file}]
        case {"type": "text", "data": str(text)} | {"type": "content", "content": str(text)}:
            return [_headed(text, title, context)]
        case {"type": "content", "content": list(inner)}:
            heads = [_text(head) for head in (title, context) if isinstance(head, str) and head]
            at = f"{where}.source.content"
            return heads + [part for path, each in _blocks(inner, at) for part in _parts(each, path)]
        case _:
            raise not_carried_over(
                f"{where}.source", "a document must be given as base64 or as text for this provider."
            )


def _headed(text: str, *heads: object) -> Block:
    return _text("\n".join([*(head for head in heads if isinstance(head, str) and head), text]))


def _joined(parts: list[Block]) -> str | list[Block]:
    if all(part["type"] == "text" for part in parts):
        return "\n".join(part["text"] for part in parts)
    return parts


def _text_only(content: object, where: str) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    texts = []
    for at, block in _blocks(content, where):
        if block.get("type") != "text":
            raise not_carried_over(at, "only text can stand here for this provider.")
        texts.append(_string(block.get("text"), f"{at}.text"))
    return "\n".join(texts)


def _blocks(content: object, where: str) -> list[tuple[str, Block]]:
    if not isinstance(content, list):
        raise not_carried_over(where, "must be a string or a list of blocks.")
    blocks = []
    for index, block in enumerate(content):
        if not isinstance(block, dict):
            raise not_carried_over(f"{where}[{index}]", "must be an object.")
        blocks.append((f"{where}[{index}]", block))
    return blocks


def _text(text: str) -> Block:
    return {"type": "text", "text": text}


def _string(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise not_carried_over(where, "must be a string.")
    return value
