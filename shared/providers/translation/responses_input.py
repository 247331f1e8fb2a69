"""Input items of a Responses request as chat messages.

    instructions                    a system message in front
    message                         a message; its parts by their chat names
    reasoning                       `reasoning_content` of the assistant message that follows
    function_call                   a tool call; those in a row are one assistant message
    function_call_output            a tool message

What chat has no word for is a 400 that names the item. `encrypted_content` of reasoning, which
nobody but its provider can read, and ids and states of items are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from shared.providers.not_carried_over import not_carried_over

Fields = dict[str, Any]


def to_messages(instructions: object, items: object, *, with_reasoning: bool = True) -> list[Fields]:
    """Raises InvalidRequest (400). `with_reasoning`: whether the provider takes earlier reasoning back."""
    conversation = _Conversation(with_reasoning=with_reasoning)
    if isinstance(instructions, str) and instructions:
        conversation.messages.append({"role": "system", "content": instructions})
    if isinstance(items, str):
        items = [{"role": "user", "content": items}]
    if not isinstance(items, list):
        raise not_carried_over("input", "must be text or a list of items.")
    for index, item in enumerate(items):
        conversation.add(item, f"input[{index}]")
    return conversation.messages


class _Conversation:
    def __init__(self, *, with_reasoning: bool) -> None:
        self.messages: list[Fields] = []
        self._with_reasoning = with_reasoning
        self._reasoning = ""
        """Said, and waiting for the assistant's words or calls that it led to."""

    def add(self, item: object, where: str) -> None:
        if not isinstance(item, dict):
            raise not_carried_over(where, "must be an object.")
        kind = item.get("type") or ("message" if "role" in item else "item_reference")
        if kind == "message":
            self._message(item, where)
        elif kind == "function_call":
            self._call(item, where)
        elif kind == "function_call_output":
            self._output(item, where)
        elif kind == "reasoning":
            if self._with_reasoning:
                self._reasoning += _reasoning_text(item)
        elif kind == "item_reference":
            raise not_carried_over(where, "items cannot be referred to by id: send the item itself.")
        else:
            raise not_carried_over(where, f"an item of type {kind!r} cannot be carried over.")

    def _message(self, item: Fields, where: str) -> None:
        role, content = item.get("role"), item.get("content")
        if role == "assistant":
            self._assistant(_assistant(content, f"{where}.content"))
            return
        self._reasoning = ""
        if role not in {"user", "system", "developer"}:
            raise not_carried_over(f"{where}.role", "must be user, system, developer or assistant.")
        # Every provider of chat knows `system`, and OpenAI reads it as `developer` where a model wants that.
        said = _content(content, f"{where}.content")
        self.messages.append({"role": "user" if role == "user" else "system", "content": said})

    def _assistant(self, message: Fields) -> None:
        if self._reasoning:
            message["reasoning_content"], self._reasoning = self._reasoning, ""
        self.messages.append(message)

    def _call(self, item: Fields, where: str) -> None:
        call = {
            "id": _string(item, "call_id", where),
            "type": "function",
            "function": {
                "name": _string(item, "name", where),
                "arguments": _string(item, "arguments", where),
            },
        }
        last = self.messages[-1] if self.messages else None
        if last is None or last["role"] != "assistant" or (self._reasoning and "tool_calls" not in last):
            self._assistant({"role": "assistant", "content": None})
            last = self.messages[-1]
        elif self._reasoning:
            last["reasoning_content"] = last.get("reasoning_content", "") + self._reasoning
            self._reasoning = ""
        last.setdefault("tool_calls", []).append(call)

    def _output(self, item: Fields, where: str) -> None:
        self._reasoning = ""
        content = _content(item.get("output"), f"{where}.output")
        self.messages.append(
            {"role": "tool", "tool_call_id": _string(item, "call_id", where), "content": content}
        )


def _content(content: object, where: str) -> str | list[Fields]:
    """Text as a string, since not every provider takes a list of it; anything else as parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise not_carried_over(where, "must be text or a list of parts.")
    parts = []
    for index, part in enumerate(content):
        at = f"{where}[{index}]"
        kind = part.get("type") if isinstance(part, dict) else None
        translate = _PARTS.get(kind) if isinstance(kind, str) else None
        if translate is None:
            raise not_carried_over(at, f"a part of type {kind!r} cannot stand here.")
        parts.append(translate(part, at))
    if len(parts) == 1 and parts[0].keys() == {"type", "text"}:
        return str(parts[0]["text"])
    return parts


def _assistant(content: object, where: str) -> Fields:
    """What the model said before: the text and the refusal, each in its own field."""
    if isinstance(content, str):
        return {"role": "assistant", "content": content}
    if not isinstance(content, list):
        raise not_carried_over(where, "must be text or a list of parts.")
    said: dict[str, str] = {}
    for index, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        field = _SAID.get(kind) if isinstance(kind, str) else None
        if field is None:
            raise not_carried_over(f"{where}[{index}]", f"a part of type {kind!r} cannot stand here.")
        said[field] = said.get(field, "") + _string(part, field, f"{where}[{index}]")
    message: Fields = {"role": "assistant", "content": said.get("text")}
    if "refusal" in said:
        message["refusal"] = said["refusal"]
    elif "text" not in said:
        message["content"] = ""
    return message


_SAID: Final = {"output_text": "text", "input_text": "text", "text": "text", "refusal": "refusal"}
"""Part of an assistant's message -> its field that holds the text."""


def _text_part(part: Fields, where: str) -> Fields:
    text = {"type": "text", "text": _string(part, "text", where)}
    return text if part.get("cache_control") is None else {**text, "cache_control": part["cache_control"]}


def _image_part(part: Fields, where: str) -> Fields:
    if not isinstance(part.get("image_url"), str):
        raise not_carried_over(f"{where}.image_url", "an image must be given as a URL or a data: URL.")
    image = {"url": part["image_url"]}
    if part.get("detail") is not None:
        image["detail"] = part["detail"]
    return {"type": "image_url", "image_url": image}


def _file_part(part: Fields, where: str) -> Fields:
    if part.get("file_url") is not None:
        raise not_carried_over(f"{where}.file_url", "a file must be given as file_data.")
    file = {k: part[k] for k in ("file_data", "file_id", "filename") if part.get(k) is not None}
    if not file.keys() & {"file_data", "file_id"}:
        raise not_carried_over(f"{where}.file_data", "is required.")
    return {"type": "file", "file": file}


def _audio_part(part: Fields, where: str) -> Fields:
    return {"type": "input_audio", "input_audio": part.get("input_audio")}


_PARTS: Final[dict[str, Callable[[Fields, str], Fields]]] = {
    "input_text": _text_part,
    "output_text": _text_part,
    "text": _text_part,
    "input_image": _image_part,
    "input_file": _file_part,
    "input_audio": _audio_part,
}


def _reasoning_text(item: Fields) -> str:
    """The reasoning itself where it was given, else its summary."""
    return "\n\n".join(
        part["text"]
        for part in item.get("content") or item.get("summary") or ()
        if isinstance(part, dict) and isinstance(part.get("text"), str)
    )


def _string(fields: Fields, name: str, where: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise not_carried_over(f"{where}.{name}", "must be a string.")
    return value
