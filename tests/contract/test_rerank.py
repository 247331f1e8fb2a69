"""The three rerank routes, each in the form of its callers."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.contract.broker import BrokerUnderTest

pytestmark = pytest.mark.xdist_group("contract")

JINA, COHERE, UNIFIED = "/v1/rerank", "/v2/rerank", "/api/v1/rerank"
TEXTS = ["a fish", "a line of people", "people in a line"]


def asked(model: str = "plain", **fields: Any) -> dict[str, Any]:
    return {"model": f"library/{model}", "query": "line of", "documents": TEXTS, **fields}


@pytest.mark.parametrize("model", ["plain", "cohere"])
def test_jinas_form_is_spoken_whichever_the_provider_speaks(http: httpx.Client, model: str) -> None:
    answer = http.post(JINA, json=asked(model)).json()

    assert answer == {
        "model": model,
        "usage": {"prompt_tokens": 10, "total_tokens": 10},
        "results": [
            {"index": 1, "relevance_score": 1.0, "document": {"text": TEXTS[1]}},
            {"index": 2, "relevance_score": 0.5, "document": {"text": TEXTS[2]}},
            {"index": 0, "relevance_score": 0.0, "document": {"text": TEXTS[0]}},
        ],
    }


def test_documents_may_be_objects_and_need_not_come_back(http: httpx.Client) -> None:
    documents = [{"text": text} for text in TEXTS]

    answer = http.post(JINA, json=asked(documents=documents, return_documents=False, top_n=1)).json()

    assert answer["results"] == [{"index": 1, "relevance_score": 1.0}]


@pytest.mark.parametrize("model", ["plain", "cohere"])
def test_coheres_form_is_spoken_whichever_the_provider_speaks(http: httpx.Client, model: str) -> None:
    body = asked(model, documents=TEXTS * 67, top_n=2, max_tokens_per_doc=512, priority=3)

    answer = http.post(COHERE, json=body).json()

    assert set(answer) == {"id", "results", "meta"}
    assert answer["results"] == [{"index": 1, "relevance_score": 1.0}, {"index": 4, "relevance_score": 1.0}]
    assert answer["meta"] == {"api_version": {"version": "2"}, "billed_units": {"search_units": 3}}


def test_the_unified_form_has_each_document_as_a_string(http: httpx.Client) -> None:
    body = asked(top_n=2) | {"provider": "library", "model": "plain"}

    answer = http.post(UNIFIED, json=body).json()

    assert answer == {
        "results": [
            {"index": 1, "relevance_score": 1.0, "document": TEXTS[1]},
            {"index": 2, "relevance_score": 0.5, "document": TEXTS[2]},
        ]
    }


@pytest.mark.parametrize("path", [JINA, COHERE, UNIFIED])
def test_logits_become_scores(http: httpx.Client, path: str) -> None:
    answer = http.post(path, json=asked("logits")).json()

    scores = [result["relevance_score"] for result in answer["results"]]
    assert [result["index"] for result in answer["results"]] == [1, 2, 0]
    assert all(0 <= score <= 1 for score in scores)


def test_a_thousand_documents_are_ranked(http: httpx.Client) -> None:
    answer = http.post(JINA, json=asked(documents=["line"] * 1_000, return_documents=False)).json()

    assert [result["index"] for result in answer["results"]] == list(range(1_000))


def test_usage_is_estimated_where_the_provider_says_none(http: httpx.Client) -> None:
    answer = http.post(JINA, json=asked("mute")).json()

    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] >= 0


@pytest.mark.parametrize(("model", "status"), [("garbage", 502), ("refuse", 400)])
def test_failures_are_told_in_the_form_of_each_route(http: httpx.Client, model: str, status: int) -> None:
    jina, cohere, unified = (http.post(path, json=asked(model)) for path in (JINA, COHERE, UNIFIED))

    assert [response.status_code for response in (jina, cohere, unified)] == [status] * 3
    assert set(jina.json()["error"]) == {"message", "type", "param", "code"}
    assert set(cohere.json()) == {"id", "message"}
    assert set(unified.json()["error"]) == {"type", "message", "details", "trace_id"}
    assert unified.json()["error"]["details"]["provider"] == "library"


@pytest.mark.parametrize("path", [JINA, COHERE, UNIFIED])
def test_a_provider_that_ranks_nothing_says_so(http: httpx.Client, path: str) -> None:
    response = http.post(path, json=asked() | {"model": "openai/gpt-4o-mini"})

    assert response.status_code == 400
    assert "rerank" in response.text


def test_the_same_key_for_an_idempotent_request_is_the_same_ranking(
    http: httpx.Client, broker: BrokerUnderTest
) -> None:
    key = {"idempotency-key": "a-ranking-asked-twice"}

    first, again = (http.post(COHERE, json=asked(), headers=key) for _ in range(2))
    other = {**key, "authorization": f"Bearer {broker.other_api_key}"}
    stranger = http.post(COHERE, json=asked(), headers=other)

    assert again.json() == first.json()
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in stranger.headers
    assert stranger.json()["id"] != first.json()["id"]
