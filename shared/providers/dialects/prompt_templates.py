"""A conversation as one text, for servers that only continue text.

None begins with a mark of its own such as <s>: the server's tokenizer puts it there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

from shared.providers.not_carried_over import not_carried_over

TemplateName = Literal["plain", "chatml", "llama3", "mistral"]
Turns = list[tuple[str, str]]

_ROLES: Final = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


def render(template: TemplateName, messages: list[dict[str, Any]]) -> str:
    """Raises InvalidRequest (400) for what is no text."""
    return _TEMPLATES[template]([_turn(message, at) for at, message in enumerate(messages)])


def _turn(message: dict[str, Any], at: int) -> tuple[str, str]:
    role = _ROLES.get(str(message.get("role")))
    if role is None or message.get("tool_calls"):
        raise not_carried_over(f"messages.{at}", "this endpoint takes text alone, no tools.")
    content = message.get("content")
    parts = content if isinstance(content, list) else [{"type": "text", "text": content or ""}]
    for part in parts:
        if not isinstance(part, dict) or part.get("type") != "text":
            raise not_carried_over(f"messages.{at}.content", "this endpoint takes text alone.")
    return role, "\n".join(str(part.get("text", "")) for part in parts)


def _plain(turns: Turns) -> str:
    if [role for role, _ in turns] == ["user"]:
        return turns[0][1]
    return "\n\n".join([*(f"{role.capitalize()}: {text}" for role, text in turns), "Assistant:"])


def _chatml(turns: Turns) -> str:
    said = "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in turns)
    return f"{said}<|im_start|>assistant\n"


def _llama3(turns: Turns) -> str:
    said = "".join(f"<|start_header_id|>{role}<|end_header_id|>\n\n{text}<|eot_id|>" for role, text in turns)
    return f"{said}<|start_header_id|>assistant<|end_header_id|>\n\n"


def _mistral(turns: Turns) -> str:
    """It has no system turn: what stands in one opens the next user turn."""
    said, waiting = "", []
    for role, text in turns:
        if role == "assistant":
            said += f" {text}</s>"
        elif role == "system":
            waiting.append(text)
        else:
            waiting.append(text)
            said += "[INST] " + "\n\n".join(waiting) + " [/INST]"
            waiting = []
    return said + ("[INST] " + "\n\n".join(waiting) + " [/INST]" if waiting else "")


_TEMPLATES: Final[Mapping[TemplateName, Callable[[Turns], str]]] = {
    "plain": _plain,
    "chatml": _chatml,
    "llama3": _llama3,
    "mistral": _mistral,
}
