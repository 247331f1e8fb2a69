"""Anthropic Messages, spoken to callers who speak OpenAI chat completions.

    request.py   messages, tools and parameters on the way out
    content.py   the parts of one message on the way out
    answer.py    a whole message on the way back
    stream.py    the same message in events

A parameter that would change what the caller reads and has no counterpart answers
400 and is named; one that only hints (seed, prompt_cache_key, ...) is left out;
one we do not know goes on as it is (top_k, thinking, ...).
Source: platform.claude.com/docs/en/api/messages and its OpenAI compatibility page, read 2026-11.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from shared.clock import Clock, SystemClock
from shared.domain.job import Target
from shared.errors import ProviderError
from shared.providers import refusals
from shared.providers.dialect import Answer, ProviderRequest
from shared.providers.dialects.anthropic.answer import decode_message
from shared.providers.dialects.anthropic.request import encode_request
from shared.providers.dialects.anthropic.stream import AnthropicStream
from shared.providers.profile import ProviderProfile


class AnthropicMessages:
    id: Final = "anthropic"

    def __init__(self, *, clock: Clock | None = None) -> None:
        """`clock`: Anthropic's answers carry no time, an OpenAI one has `created`."""
        self._clock = clock or SystemClock()

    def encode_chat(
        self, body: bytes, *, target: Target, profile: ProviderProfile, stream: bool, include_usage: bool
    ) -> ProviderRequest:
        payload, headers = encode_request(body, model=target.model, profile=profile, stream=stream)
        # Both forms of base URL are in use: the SDK's without /v1, and the OpenAI-like one with it.
        path = "/messages" if profile.base_url.endswith("/v1") else "/v1/messages"
        return ProviderRequest(path, payload, headers)

    def decode_chat(self, body: bytes, *, profile: ProviderProfile, target: Target) -> Answer:
        return decode_message(body, profile=profile, created=self._now())

    def open_stream(
        self, *, target: Target, profile: ProviderProfile, include_usage: bool
    ) -> AnthropicStream:
        return AnthropicStream(profile, model=target.model, created=self._now(), include_usage=include_usage)

    def decode_error(
        self, status: int, headers: Mapping[str, str], body: bytes, *, profile: ProviderProfile
    ) -> ProviderError:
        return refusals.from_http(status, headers, body, profile=profile)

    def _now(self) -> int:
        return int(self._clock.now().timestamp())


anthropic_messages: Final = AnthropicMessages()
