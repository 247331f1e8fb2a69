"""What every route with a JSON body answers when the body, or who sent it, is wrong. Never a 500."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from api.error_views import surface_of
from shared.domain.job import Surface
from tests.contract.broker import BrokerUnderTest

pytestmark = pytest.mark.xdist_group("contract")

PROMPT: dict[str, Any] = {"prompt": "Hello"}
EMBED: dict[str, Any] = {"model": "library/plain", "input": "Hello"}
RANK: dict[str, Any] = {"model": "library/plain", "query": "Hello", "documents": ["Hello"]}


@dataclass(frozen=True)
class Wrong:
    """`change` spoils the good `body`; `path` is where."""

    path: str
    body: dict[str, Any]
    change: dict[str, Any]
    where: str

    def __str__(self) -> str:
        return f"{self.path} {json.dumps(self.change)[:60]}"


GOOD = {
    "/v1/completions": {"model": "library/any", **PROMPT},
    "/v1/embeddings": EMBED,
    "/api/v1/embeddings": EMBED,
    "/v1/rerank": RANK,
    "/v2/rerank": RANK,
    "/api/v1/rerank": RANK,
    "/generate-text": PROMPT,
    "/summarize": {"text": "Hello"},
    "/api/v1/ai/generate": PROMPT,
    "/v1/inference/complete": PROMPT,
    "/v1/inference/stream": PROMPT,
}
EMBEDDINGS, RERANKS = ("/v1/embeddings", "/api/v1/embeddings"), ("/v1/rerank", "/v2/rerank", "/api/v1/rerank")
PROMPTS = ("/generate-text", "/v1/inference/complete", "/v1/inference/stream")
CHANGES: list[tuple[tuple[str, ...], dict[str, Any], str]] = [
    (("/v1/completions",), {"model": ""}, "model"),
    (("/v1/completions",), {"prompt": None}, "prompt"),
    (("/v1/completions",), {"prompt": []}, "prompt"),
    (("/v1/completions",), {"prompt": [1, "two"]}, "prompt[1]"),
    (("/v1/completions",), {"prompt": [[1], [-2]]}, "prompt[1][0]"),
    (("/v1/completions",), {"max_tokens": "many"}, "max_tokens"),
    (("/v1/completions",), {"temperature": 3}, "temperature"),
    (("/v1/completions",), {"n": 0}, "n"),
    (("/v1/completions",), {"stream": "yes"}, "stream"),
    (("/v1/completions",), {"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
    (EMBEDDINGS, {"model": 7}, "model"),
    (EMBEDDINGS, {"input": ""}, "input"),
    (EMBEDDINGS, {"input": []}, "input"),
    (EMBEDDINGS, {"input": {"text": "Hello"}}, "input"),
    (EMBEDDINGS, {"input": ["Hello", ""]}, "input[1]"),
    (EMBEDDINGS, {"input": ["Hello", 7]}, "input[1]"),
    (EMBEDDINGS, {"input": [1, 2.5]}, "input[1]"),
    (EMBEDDINGS, {"input": [[1], []]}, "input[1]"),
    (EMBEDDINGS, {"input": ["Hello"] * 2_049}, "input"),
    (EMBEDDINGS, {"dimensions": 0}, "dimensions"),
    (EMBEDDINGS, {"encoding_format": "int8"}, "encoding_format"),
    (RERANKS, {"query": ""}, "query"),
    (RERANKS, {"documents": []}, "documents"),
    (RERANKS, {"documents": "Hello"}, "documents"),
    (RERANKS, {"documents": ["Hello", 7]}, "documents[1]"),
    (RERANKS, {"documents": [{"title": "Hello"}]}, "documents[0].text"),
    (RERANKS, {"documents": ["Hello"] * 1_001}, "documents"),
    (RERANKS, {"documents": ["x" * 1_000_001]}, "documents[0]"),
    (RERANKS, {"top_n": 0}, "top_n"),
    (RERANKS, {"return_documents": "no"}, "return_documents"),
    (("/api/v1/embeddings", "/api/v1/rerank"), {"provider": "No Such/Form"}, "provider"),
    (PROMPTS, {"prompt": ""}, "prompt"),
    (PROMPTS, {"prompt": ["Hello"]}, "prompt"),
    (PROMPTS, {"max_tokens": 0}, "max_tokens"),
    (PROMPTS, {"temperature": "warm"}, "temperature"),
    (PROMPTS, {"n": 2}, "n"),
    (PROMPTS, {"model": "no\tmodel"}, "model"),
    (("/generate-text", "/v1/inference/complete"), {"stream": True}, "stream"),
    (("/api/v1/ai/generate",), {"prompt": None}, "prompt"),
    (("/api/v1/ai/generate",), {"messages": [{"role": "user", "content": "Hello"}]}, "prompt"),
    (("/api/v1/ai/generate",), {"prompt": None, "messages": []}, "messages"),
    (("/api/v1/ai/generate",), {"prompt": None, "messages": [{"role": "user"}]}, "messages[0].content"),
    (("/api/v1/ai/generate",), {"temperature": 1}, "temperature"),
    (("/api/v1/ai/generate",), {"options": []}, "options"),
    (("/api/v1/ai/generate",), {"options": {"temperature": 3}}, "options.temperature"),
    (("/api/v1/ai/generate",), {"options": {"stream": True}}, "stream"),
    (("/summarize",), {"text": ""}, "text"),
    (("/summarize",), {"max_length": 0}, "max_length"),
    (("/summarize",), {"max_length": 5, "min_length": 6}, "min_length"),
]
WRONG = [Wrong(path, GOOD[path], change, where) for paths, change, where in CHANGES for path in paths]
every_route = pytest.mark.parametrize("path", GOOD)


def told(response: httpx.Response) -> tuple[str, str | None]:
    """The sentence of an error and the field it names, in whichever form the path asks for."""
    document = response.json()
    match surface_of(response.url.path):
        case Surface.COHERE:
            assert set(document) == {"id", "message"}
            return document["message"], None
        case Surface.OPENAI:
            error = document["error"]
            assert set(error) == {"message", "type", "param", "code"}
            return error["message"], error["param"]
        case _:
            error = document["error"]
            assert set(error) == {"type", "message", "details", "trace_id"}
            return error["message"], error["details"].get("param")


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_a_wrong_field_is_named(http: httpx.Client, wrong: Wrong) -> None:
    response = http.post(wrong.path, json=wrong.body | wrong.change)

    assert response.status_code == 422
    sentence, param = told(response)
    assert sentence.startswith(f"{wrong.where}: ")
    assert param in (wrong.where, None)


@every_route
def test_a_missing_field_is_named(http: httpx.Client, path: str) -> None:
    response = http.post(path, json={})

    assert response.status_code == 422
    sentence, _ = told(response)
    assert "is required" in sentence


@every_route
@pytest.mark.parametrize("body", [b"", b"{", b"give me", b'{"a": 1, "a": 2}', b'{"a": "\xff"}'], ids=repr)
def test_what_is_no_json_is_a_400(http: httpx.Client, path: str, body: bytes) -> None:
    response = http.post(path, content=body, headers={"content-type": "application/json"})

    assert response.status_code == 400
    told(response)


@every_route
@pytest.mark.parametrize("body", [b"[]", b'"text"', b"7", b"null"], ids=repr)
def test_json_that_is_no_object_is_a_422(http: httpx.Client, path: str, body: bytes) -> None:
    response = http.post(path, content=body, headers={"content-type": "application/json"})

    assert response.status_code == 422
    told(response)


@every_route
def test_a_body_of_another_type_is_a_415(http: httpx.Client, path: str) -> None:
    response = http.post(path, content=b"<prompt/>", headers={"content-type": "application/xml"})

    assert response.status_code == 415
    told(response)


@every_route
def test_a_body_too_large_is_a_413(http: httpx.Client, path: str) -> None:
    response = http.post(
        path, content=b" " * (10 * 1024 * 1024 + 1), headers={"content-type": "application/json"}
    )

    assert response.status_code == 413
    told(response)


@every_route
def test_more_values_than_anybody_means_are_a_400(http: httpx.Client, path: str) -> None:
    body = b'{"a": [%b0]}' % (b"0," * 400_000)

    response = http.post(path, content=body, headers={"content-type": "application/json"})

    assert response.status_code == 400
    told(response)


@every_route
@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer gw_live_wrong"}], ids=["none", "wrong"])
def test_without_a_good_key_it_is_a_401(broker: BrokerUnderTest, path: str, headers: dict[str, str]) -> None:
    response = httpx.post(f"{broker.url}{path}", json=GOOD[path], headers=headers, trust_env=False)

    assert response.status_code == 401
    told(response)


@every_route
def test_another_method_is_a_405(http: httpx.Client, path: str) -> None:
    response = http.get(path)

    assert response.status_code == 405
    told(response)


@every_route
def test_a_model_nobody_serves_is_a_404(http: httpx.Client, path: str) -> None:
    response = http.post(path, json={**GOOD[path], "model": "no-such-model"})

    assert response.status_code == 404
    sentence, _ = told(response)
    assert "no-such-model" in sentence


@every_route
def test_a_good_body_is_answered(http: httpx.Client, path: str) -> None:
    body = GOOD[path] | ({"provider": "openai"} if path == "/summarize" else {})

    assert http.post(path, json=body).status_code == 200
