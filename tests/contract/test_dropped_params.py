"""`x-headrace-drop-params` on the wire: what was left out is told, plain and streamed."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.xdist_group("contract")

HELLO = [{"role": "user", "content": "Hello"}]
ASKED = {"x-headrace-drop-params": "true"}
CASES = [
    (
        "/v1/chat/completions",
        {"model": "anthropic/claude-haiku-4-5", "n": 2, "logprobs": True},
        "n, logprobs",
    ),
    (
        "/v1/messages",
        {"model": "gpt-4o-mini", "max_tokens": 9, "container": "c", "top_k": 3},
        "top_k, container",
    ),
    (
        "/api/v1/chat",
        {"provider": "anthropic", "model": "claude-haiku-4-5", "seed": 1, "logprobs": True},
        "logprobs",
    ),
]


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize(("path", "body", "names"), CASES)
def test_what_was_left_out_is_told(
    http: httpx.Client, path: str, body: dict[str, Any], names: str, stream: bool
) -> None:
    answer = http.post(path, json={**body, "messages": HELLO, "stream": stream}, headers=ASKED)

    assert answer.status_code == 200
    assert answer.headers["x-headrace-dropped-params"] == names


@pytest.mark.parametrize(("path", "body", "names"), CASES)
def test_it_is_refused_by_name_when_nobody_asked_for_that(
    http: httpx.Client, path: str, body: dict[str, Any], names: str
) -> None:
    answer = http.post(path, json={**body, "messages": HELLO})

    assert answer.status_code == 400
    assert names.partition(",")[0] in answer.json()["error"]["message"]
    assert "x-headrace-dropped-params" not in answer.headers
