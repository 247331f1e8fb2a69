from __future__ import annotations

from typing import Any

import orjson
import pytest

from shared.domain.job import JobKind, Target
from shared.domain.usage import Usage
from shared.errors import InvalidRequest, ProviderAnswerInvalid, ProviderRejected
from shared.ids import JobId
from shared.providers.dialect import Answer, Call
from shared.providers.dialects.rerank import Rerank, cohere_rerank, jina_rerank, sigmoid
from tests.unit.providers.support import OPENAI, VLLM

BGE = Target("vllm", "BAAI/bge-reranker-v2-m3")
HINTS = {"max_tokens_per_doc": 512, "priority": 3}
JINA = {
    "model": "BAAI/bge-reranker-v2-m3",
    "usage": {"total_tokens": 24, "prompt_tokens": 24},
    "results": [
        {"index": 2, "relevance_score": 0.9, "document": {"text": "three"}},
        {"index": 0, "relevance_score": 0.5, "document": {"text": "one"}},
        {"index": 1, "relevance_score": 0.0, "document": {"text": "two"}},
    ],
}
COHERE = {
    "id": "07734bd2-2473-4f07-94e1-0d9f0e6843cf",
    "results": [
        {"index": 2, "relevance_score": 0.9},
        {"index": 0, "relevance_score": 0.5},
        {"index": 1, "relevance_score": 0.0},
    ],
    "meta": {
        "api_version": {"version": "2"},
        "billed_units": {"search_units": 1},
        "tokens": {"input_tokens": 24},
    },
}
both = pytest.mark.parametrize("codec", [jina_rerank, cohere_rerank], ids=["jina", "cohere"])


def call(**fields: Any) -> Call:
    request = {"model": BGE.model, "query": "which?", "documents": ["one", "two", "three"], **fields}
    return Call(orjson.dumps(request), BGE, VLLM, job_id=JobId("job_1"))


def results_of(answer: Answer) -> list[tuple[int, float]]:
    results = orjson.loads(answer.body)["results"]
    assert all(set(result) == {"index", "relevance_score"} for result in results)
    return [(result["index"], result["relevance_score"]) for result in results]


def scores(*pairs: tuple[Any, Any]) -> bytes:
    return orjson.dumps({"results": [{"index": i, "relevance_score": score} for i, score in pairs]})


def test_jinas_form_is_asked_on_its_path_without_the_hints_it_does_not_know() -> None:
    request = jina_rerank.encode(call(top_n=2, **HINTS))

    assert request.path == "/rerank"
    assert orjson.loads(request.body) == orjson.loads(call(top_n=2).body)


def test_coheres_form_is_asked_on_its_path_with_its_hints() -> None:
    request = cohere_rerank.encode(call(top_n=2, **HINTS))

    assert request.path == "/v2/rerank"
    assert orjson.loads(request.body) == orjson.loads(call(top_n=2, **HINTS).body)


@both
@pytest.mark.parametrize("form", [JINA, COHERE], ids=["jina", "cohere"])
def test_either_form_of_an_answer_is_read(codec: Rerank, form: dict[str, Any]) -> None:
    answer = codec.decode(orjson.dumps(form), call())

    assert results_of(answer) == [(2, 0.9), (0, 0.5), (1, 0.0)]
    assert answer.usage == Usage(prompt_tokens=24)
    document = orjson.loads(answer.body)
    assert document["usage"] == {"total_tokens": 24}
    assert document["model"] == BGE.model
    assert document["id"] == form.get("id", "rerank-1")


def test_the_best_comes_first_and_no_more_than_asked_for() -> None:
    body = scores((0, 0.1), (1, 0.8), (2, 0.4))

    assert results_of(jina_rerank.decode(body, call())) == [(1, 0.8), (2, 0.4), (0, 0.1)]
    assert results_of(jina_rerank.decode(body, call(top_n=1))) == [(1, 0.8)]
    assert len(results_of(jina_rerank.decode(body, call(top_n=9)))) == 3


def test_equal_scores_stay_in_the_order_of_the_documents() -> None:
    body = scores((2, 0.5), (0, 0.5), (1, 0.5))

    assert [index for index, _ in results_of(jina_rerank.decode(body, call()))] == [0, 1, 2]


def test_logits_become_scores_of_the_same_order() -> None:
    answer = jina_rerank.decode(scores((0, -3), (1, 4.5), (2, 0.5)), call())

    assert results_of(answer) == [(1, sigmoid(4.5)), (2, sigmoid(0.5)), (0, sigmoid(-3))]


def test_the_sigmoid_is_within_0_and_1_at_any_distance() -> None:
    assert [sigmoid(logit) for logit in (-1e6, 0, 1e6)] == [0.0, 0.5, 1.0]


def test_without_usage_none_is_claimed() -> None:
    answer = jina_rerank.decode(scores((0, 0.1), (1, 0.8), (2, 0.4)), call())

    assert answer.usage is None
    assert "usage" not in orjson.loads(answer.body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b'{"results":{}}',
        b'{"results":[1,2,3]}',
        scores(),
        scores((0, 0.1), (1, 0.8)),
        scores((0, 0.1), (1, 0.8), (1, 0.9)),
        scores((0, 0.1), (1, 0.8), (3, 0.4)),
        scores((0, 0.1), (1, 0.8), (-1, 0.4)),
        scores((0, 0.1), (1, 0.8), ("2", 0.4)),
        scores((0, 0.1), (1, 0.8), ([], 0.4)),
        scores((0, 0.1), (1, 0.8), (True, 0.4)),
        scores((0, 0.1), (1, 0.8), (2, None)),
        scores((0, 0.1), (1, 0.8), (2, "high")),
        scores((0, 0.1), (1, 0.8), (2, True)),
    ],
    ids=repr,
)
@both
def test_what_ranks_not_every_document_is_no_answer(codec: Rerank, body: bytes) -> None:
    with pytest.raises(ProviderAnswerInvalid):
        codec.decode(body, call())


@both
def test_an_error_in_a_200_is_that_error(codec: Rerank) -> None:
    with pytest.raises(ProviderRejected, match="no reranker"):
        codec.decode(b'{"error":{"message":"no reranker","type":"BadRequestError","code":400}}', call())


@both
def test_there_are_no_streams_of_rankings(codec: Rerank) -> None:
    with pytest.raises(InvalidRequest, match="stream"):
        codec.open_stream(call())


def test_a_server_of_openais_dialect_is_asked_in_jinas_form_if_it_reranks() -> None:
    assert VLLM.codec(JobKind.RERANK) is jina_rerank
    assert not OPENAI.serves(JobKind.RERANK)
