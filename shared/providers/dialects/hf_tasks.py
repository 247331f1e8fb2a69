"""Tasks of Hugging Face's inference API: one path each, below the model.

huggingface.co/docs/inference-providers/tasks (feature-extraction, summarization), read 2026-11.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from shared.errors import ProviderAnswerInvalid
from shared.providers import refusals
from shared.providers.dialect import Answer, Call, ProviderRequest, StreamDecoder
from shared.providers.dialects.json_answer import invalid
from shared.providers.dialects.openai_chat import fit, parse_request
from shared.providers.dialects.openai_embeddings import embeddings_answer
from shared.providers.model_path import model_path
from shared.providers.not_carried_over import not_carried_over

_NUMBERS: Final = frozenset({int, float})


class FeatureExtraction:
    """See `Codec`. Texts to nested arrays of numbers: a vector each, or one for every token of each."""

    def encode(self, call: Call) -> ProviderRequest:
        request = parse_request(call.body)
        texts = request.pop("input")
        if not _are_texts(texts):
            raise not_carried_over("input", "Hugging Face embeds text, not tokens.")
        if request.pop("dimensions", None) is not None:
            raise not_carried_over("dimensions", "Hugging Face embeds with the model's own number of them.")
        for name in ("encoding_format", "user"):
            request.pop(name, None)
        headers = fit(request, call)
        model = request.pop("model")
        request["inputs"] = [texts] if isinstance(texts, str) else texts
        return ProviderRequest(_task_path(model, "feature-extraction"), orjson.dumps(request), headers)

    def decode(self, body: bytes, call: Call) -> Answer:
        vectors = _read(body, call)
        if type(vectors) is not list:
            raise invalid(call.profile, "embeddings")
        request = parse_request(call.body)
        texts = request["input"]
        if isinstance(texts, str):
            texts = [texts]
        if len(texts) == 1 and vectors and type(vectors[0]) in _NUMBERS:
            vectors = [vectors]
        if len(vectors) != len(texts):
            raise invalid(call.profile, "one vector for each input")
        try:
            pooled = [_pooled(vector) for vector in vectors]
        except (TypeError, ValueError) as exc:
            raise invalid(call.profile, "embeddings") from exc
        answer = {
            "object": "list",
            "model": call.target.model,
            # The task counts no tokens.
            "usage": {"prompt_tokens": 0, "total_tokens": 0},
        }
        return embeddings_answer(pooled, None, request, call, answer)

    def open_stream(self, call: Call) -> StreamDecoder:
        raise not_carried_over("stream", "embeddings are not streamed.")


class Summarization:
    """See `Codec`. A text to `[{summary_text}]`."""

    def encode(self, call: Call) -> ProviderRequest:
        request = parse_request(call.body)
        headers = fit(request, call)
        lengths = {
            name: request[name] for name in ("max_length", "min_length") if request.get(name) is not None
        }
        body: dict[str, Any] = {"inputs": request["text"]}
        if lengths:
            body["parameters"] = lengths
        path = _task_path(request["model"], "summarization")
        return ProviderRequest(path, orjson.dumps(body), headers)

    def decode(self, body: bytes, call: Call) -> Answer:
        answer = _read(body, call)
        first = answer[0] if type(answer) is list and answer else answer
        summary = first.get("summary_text") if type(first) is dict else None
        if type(summary) is not str:
            raise invalid(call.profile, "a summary")
        told = {
            "id": f"summary-{call.job_id.removeprefix('job_')}",
            "model": call.target.model,
            "summary": summary,
        }
        return Answer(orjson.dumps(told), None, None, len(summary))

    def open_stream(self, call: Call) -> StreamDecoder:
        raise not_carried_over("stream", "summaries are not streamed.")


feature_extraction: Final = FeatureExtraction()
summarization: Final = Summarization()


def _task_path(model: str, task: str) -> str:
    return f"/hf-inference/models/{model_path(model)}/pipeline/{task}"


def _are_texts(texts: object) -> bool:
    return isinstance(texts, str) or (
        isinstance(texts, list) and bool(texts) and all(isinstance(text, str) for text in texts)
    )


def _read(body: bytes, call: Call) -> Any:
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise ProviderAnswerInvalid(
            f"The answer of {call.profile.name} is not JSON.", provider=call.profile.id
        ) from exc
    if type(answer) is dict and answer.get("error"):
        raise refusals.from_event(answer, profile=call.profile)
    return answer


def _pooled(vector: Any) -> list[float]:
    """The vector of a text; where there is one for each token, their mean."""
    while type(vector) is list and len(vector) == 1 and type(vector[0]) is list:
        vector = vector[0]
    if type(vector) is not list or not vector:
        raise TypeError
    if type(vector[0]) is not list:
        return vector
    return [sum(column) / len(vector) for column in zip(*vector, strict=True)]
