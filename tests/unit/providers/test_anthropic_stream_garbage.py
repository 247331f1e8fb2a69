"""A delta that is not Anthropic's ends the stream with an error, never with a text that lacks it."""

from __future__ import annotations

import pytest

from shared.domain.job import JobKind, Target
from shared.errors import ProviderAnswerInvalid
from shared.providers import anthropic
from shared.providers.sse_reader import SseEvent
from tests.unit.providers.support import a_call


@pytest.mark.parametrize(
    "data", [b'{"type":"content_block_delta","delta":{"x":1}}', b'{"delta":{"type":"text_delta","text":"a"}}']
)
def test_a_delta_of_no_kind_is_no_answer(data: bytes) -> None:
    target = Target("anthropic", "claude-sonnet-4-5")
    stream = anthropic.PROFILE.codec(JobKind.CHAT).open_stream(a_call(anthropic.PROFILE, target))
    start = b'{"type":"message_start","message":{"id":"msg_1","model":"m","usage":{"input_tokens":1}}}'
    stream.feed(SseEvent("message_start", start))

    with pytest.raises(ProviderAnswerInvalid):
        stream.feed(SseEvent("content_block_delta", data))
