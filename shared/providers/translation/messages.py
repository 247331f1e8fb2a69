"""Anthropic Messages, for providers that speak OpenAI chat completions.

    messages_request.py   parameters and tools on the way out
    messages_turns.py     system prompt and conversation on the way out
    messages_answer.py    a whole completion on the way back
    messages_events.py    the same completion in events

What would change the answer and has no counterpart is a 400 that names it: server-side
tools, files by id, documents by URL, citations. What only hints is left out: cache_control,
signatures of thinking, the display of thinking. A parameter we do not know goes on as it is.
An assistant turn at the end is passed on, but chat begins a new turn where Anthropic goes on with it.
Source: platform.claude.com/docs/en/api/messages and anthropic-python 2.11, read 2026-11.
"""

from __future__ import annotations

from typing import Any, Final

from shared.providers.dialect import Call
from shared.providers.translation.messages_answer import message_of
from shared.providers.translation.messages_events import MessageEvents
from shared.providers.translation.messages_request import chat_request
from shared.providers.translation.via_chat import ViaChat


class MessagesViaChat:
    """See `Translation`."""

    def to_chat(self, call: Call) -> dict[str, Any]:
        return chat_request(call)

    def from_chat(self, completion: dict[str, Any], call: Call) -> dict[str, Any]:
        return message_of(completion, call)

    def open_events(self, call: Call) -> MessageEvents:
        return MessageEvents(call)


messages_via_chat: Final = ViaChat(MessagesViaChat())
