"""A provider's stream that is not whole: each surface says so, and none makes up an ending."""

from __future__ import annotations

import json
from typing import Any, Final

import httpx
import pytest

pytestmark = pytest.mark.xdist_group("contract")

MODELS: Final = {"openai": "gpt-4o-mini", "anthropic": "claude-haiku-4-5"}
ASKED: Final[dict[str, str]] = {
    "/v1/chat/completions": "messages",
    "/v1/completions": "prompt",
    "/v1/responses": "input",
    "/v1/messages": "messages",
    "/api/v1/chat": "messages",
    "/v1/inference/stream": "prompt",
}
"""Routes that stream, and the field that holds what is asked there."""
ENDINGS: Final = ("[DONE]", "message_delta", "message_stop", "response.completed", '"finish_reason":"')

_CHUNK: Final = {
    "id": "chatcmpl-1",
    "object": "chat.completion.chunk",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "delta": {"content": "half of it"}, "finish_reason": None}],
}
_MESSAGE: Final[tuple[dict[str, Any], ...]] = (
    {"type": "message_start", "message": {"id": "msg_1", "model": "m", "usage": {"input_tokens": 3}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "half of it"}},
    {"type": "message_stop"},
)
BROKEN: Final = {
    "openai": f"data: {json.dumps(_CHUNK)}\n\ndata: [DONE]\n\n",
    "anthropic": "".join(f"event: {said['type']}\ndata: {json.dumps(said)}\n\n" for said in _MESSAGE),
}


@pytest.mark.parametrize("provider", MODELS)
@pytest.mark.parametrize("path", ASKED)
def test_an_end_without_a_reason_is_an_error_event_and_no_end(
    http: httpx.Client, path: str, provider: str
) -> None:
    # Byte by byte, so that the text is passed on before the end is read.
    cue = {
        "headers": {"content-type": "text/event-stream"},
        "body": BROKEN[provider],
        "slow_drip_ms": 1,
    }
    prompt = f"!script {json.dumps(cue)}"
    field = ASKED[path]
    asked = [{"role": "user", "content": prompt}] if field == "messages" else prompt
    body = {"model": MODELS[provider], field: asked, "max_tokens": 9, "stream": True}
    if field == "input":
        del body["max_tokens"]

    answer = http.post(path, json=body)

    assert "half of it" in answer.text
    assert "cut its stream short" in answer.text.rstrip().rsplit("\n", 1)[-1]
    assert not [sign for sign in ENDINGS if sign in answer.text]
