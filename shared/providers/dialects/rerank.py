"""Reranking, in the two forms servers speak: Jina's on /rerank, Cohere's on /v2/rerank.

    Jina    {model, usage{total_tokens}, results[{index, relevance_score, document?}]}
    Cohere  {id, results[{index, relevance_score}], meta{tokens{input_tokens}, billed_units}}

Requests of both share `model`, `query`, `documents` and `top_n`; either answer is read from either.
Sources: Cohere's reference of /v2/rerank, Jina's of its reranker, vLLM's of its own server.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import exp, isfinite
from typing import Any, Final

import orjson

from shared.domain.usage import Usage
from shared.providers.dialect import Answer, Call, ProviderRequest, StreamDecoder
from shared.providers.dialects.json_answer import invalid, read_object
from shared.providers.dialects.openai_chat import fit, parse_request
from shared.providers.dialects.openai_embeddings import read_tokens
from shared.providers.not_carried_over import not_carried_over

_NUMBERS: Final = frozenset({int, float})
_NOTHING: Final[Mapping[str, Any]] = {}


class Rerank:
    """See `Codec`. `hints` are left out: what a form does not know and the ranking does not need."""

    def __init__(self, path: str, *, hints: frozenset[str] = frozenset()) -> None:
        self._path = path
        self._hints = hints

    def encode(self, call: Call) -> ProviderRequest:
        request = parse_request(call.body)
        for hint in self._hints:
            request.pop(hint, None)
        headers = fit(request, call)
        return ProviderRequest(self._path, orjson.dumps(request), headers)

    def decode(self, body: bytes, call: Call) -> Answer:
        answer = read_object(body, call.profile)
        results = answer.get("results")
        if type(results) is not list or not all(type(result) is dict for result in results):
            raise invalid(call.profile, "a ranking")
        scored = [(result.get("index"), result.get("relevance_score")) for result in results]
        return ranking(scored, _usage(answer), call, answer)

    def open_stream(self, call: Call) -> StreamDecoder:
        raise not_carried_over("stream", "rankings are not streamed.")


jina_rerank: Final = Rerank("/rerank", hints=frozenset({"max_tokens_per_doc", "priority"}))
cohere_rerank: Final = Rerank("/v2/rerank")


def ranking(
    scored: Iterable[tuple[Any, Any]],
    usage: Usage | None,
    call: Call,
    said: Mapping[str, Any] = _NOTHING,
) -> Answer:
    """The answer of a RERANK job from pairs of index and score, in any order and more than asked.

    `said` may name the `id` and the `model` of the answer.
    Scores outside of 0 to 1 are logits, as models without a last sigmoid give them: all are then
    put through one, which keeps their order. Raises ProviderAnswerInvalid for what is no ranking.
    """
    request = parse_request(call.body)
    documents = len(request.get("documents") or ())
    wanted = min(request.get("top_n") or documents, documents)
    pairs = list(scored)
    if not all(
        type(index) is int and 0 <= index < documents and type(score) in _NUMBERS and isfinite(score)
        for index, score in pairs
    ):
        raise invalid(call.profile, "a ranking of the documents")
    scores = dict(pairs)
    if len(scores) < wanted:
        raise invalid(call.profile, "a ranking of all documents")
    if not all(0 <= score <= 1 for score in scores.values()):
        scores = {index: sigmoid(score) for index, score in scores.items()}
    best = sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))[:wanted]
    answer: dict[str, Any] = {
        "id": said.get("id") or f"rerank-{call.job_id.removeprefix('job_')}",
        "model": said.get("model") or call.target.model,
        "results": [{"index": index, "relevance_score": score} for index, score in best],
    }
    if usage is not None:
        answer["usage"] = {"total_tokens": usage.total_tokens}
    return Answer(orjson.dumps(answer), usage, None)


def sigmoid(logit: float) -> float:
    """Neither end overflows."""
    return 1 / (1 + exp(-logit)) if logit >= 0 else exp(logit) / (1 + exp(logit))


def _usage(answer: dict[str, Any]) -> Usage | None:
    meta = answer.get("meta")
    tokens = meta.get("tokens") if type(meta) is dict else None
    if type(tokens) is dict:
        return read_tokens({"prompt_tokens": tokens.get("input_tokens")})
    return read_tokens(answer.get("usage"))
