"""Anthropic Messages, spoken to callers who speak OpenAI chat completions, or the same.

    request.py      messages, tools and parameters on the way out
    content.py      the parts of one message on the way out
    answer.py       a whole message on the way back
    stream.py       the same message in events
    native.py       for callers who speak Anthropic themselves
    wanted_api.py   the version and the betas a caller wants

A parameter that would change what the caller reads and has no counterpart answers
400 and is named; one that only hints (seed, prompt_cache_key, ...) is left out;
one we do not know goes on as it is (top_k, thinking, ...).
Source: platform.claude.com/docs/en/api/messages and its OpenAI compatibility page, read 2026-11.
"""

from __future__ import annotations

from typing import Final

from shared.clock import Clock, SystemClock
from shared.providers.dialect import Answer, Call, ProviderRequest
from shared.providers.dialects.anthropic.answer import decode_message
from shared.providers.dialects.anthropic.paths import messages_path
from shared.providers.dialects.anthropic.request import encode_request
from shared.providers.dialects.anthropic.stream import AnthropicStream


class ChatAsMessages:
    """Chat jobs for a provider that speaks Anthropic Messages."""

    def __init__(self, *, clock: Clock | None = None) -> None:
        """`clock`: Anthropic's answers carry no time, an OpenAI one has `created`."""
        self._clock = clock or SystemClock()

    def encode(self, call: Call) -> ProviderRequest:
        payload, headers = encode_request(
            call.body, model=call.target.model, profile=call.profile, stream=call.stream
        )
        return ProviderRequest(messages_path(call.profile), payload, headers)

    def decode(self, body: bytes, call: Call) -> Answer:
        return decode_message(body, profile=call.profile, created=self._now())

    def open_stream(self, call: Call) -> AnthropicStream:
        return AnthropicStream(
            call.profile, model=call.target.model, created=self._now(), include_usage=call.include_usage
        )

    def _now(self) -> int:
        return int(self._clock.now().timestamp())


chat_as_messages: Final = ChatAsMessages()
