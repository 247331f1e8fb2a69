"""The smaller endpoints on the wire: what each reads of a request, and its one plain answer.

    .../embeddings                     OpenAI: vectors as numbers or base64
    .../completions                    OpenAI's older form, plain and SSE
    .../rerank  .../v2/rerank          Jina's and Cohere's form
    .../reranking  .../ranking         NVIDIA NIM: logits
    .../pipeline/feature-extraction    Hugging Face: bare arrays, a vector each
    .../pipeline/summarization         Hugging Face: [{summary_text}]

Deterministic: a vector is made of the text's characters, a score is the share of the query's
words that a document holds, a summary is the first eight words.
"""

import math
import struct
from base64 import b64encode
from typing import Any

import orjson

from cli.scripted_provider import openai
from cli.scripted_provider.dialect import Answer, BadPrompt, Chunk, Prompt

_DIMENSIONS = 8
_SUMMARY_WORDS = 8


class Endpoint:
    """One endpoint in the manner of a `Dialect`: errors, headers and models are OpenAI's."""

    render_headers = staticmethod(openai.render_headers)
    render_error = staticmethod(openai.render_error)
    render_error_frame = staticmethod(openai.render_error_frame)
    render_models = staticmethod(openai.render_models)
    render_model = staticmethod(openai.render_model)

    def read_prompt(self, body: dict[str, Any]) -> Prompt:
        raise NotImplementedError

    def render_answer(self, answer: Answer) -> bytes:
        raise NotImplementedError

    def render_frames(self, answer: Answer) -> list[bytes]:
        return [self.render_answer(answer)]


class Embeddings(Endpoint):
    def read_prompt(self, body: dict[str, Any]) -> Prompt:
        texts = _inputs(body.get("input"))
        dimensions = body.get("dimensions")
        return _prompt(body, texts, ("embeddings", texts, dimensions, body.get("encoding_format")))

    def render_answer(self, answer: Answer) -> bytes:
        _, texts, dimensions, encoding = answer.material
        vectors = [vector_of(text, dimensions or _DIMENSIONS) for text in texts]
        data = [
            {"object": "embedding", "index": i, "embedding": _encoded(v, encoding)}
            for i, v in enumerate(vectors)
        ]
        tokens = answer.prompt_tokens
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return orjson.dumps({"object": "list", "data": data, "model": answer.model, "usage": usage})


class Completions(Endpoint):
    def read_prompt(self, body: dict[str, Any]) -> Prompt:
        prompt = body.get("prompt")
        text = prompt if isinstance(prompt, str) else str((prompt or [""])[0])
        options = body.get("stream_options")
        return _prompt(
            body, [text], None, include_usage=isinstance(options, dict) and bool(options.get("include_usage"))
        )

    def render_answer(self, answer: Answer) -> bytes:
        return orjson.dumps(
            {**self._part(answer, answer.text, answer.finish_reason or "stop"), "usage": _usage(answer)}
        )

    def render_frames(self, answer: Answer) -> list[bytes]:
        frames: list[bytes] = [Chunk(_frame(self._part(answer, piece, None))) for piece in answer.pieces]
        frames.append(_frame(self._part(answer, "", answer.finish_reason or "stop")))
        if answer.usage_streamed and answer.usage_reported:
            frames.append(_frame({**self._part(answer, "", None), "choices": [], "usage": _usage(answer)}))
        return [*frames, b"data: [DONE]\n\n"]

    @staticmethod
    def _part(answer: Answer, text: str, reason: str | None) -> dict[str, Any]:
        choice = {"text": text, "index": 0, "logprobs": None, "finish_reason": reason}
        return {
            "id": f"cmpl-{answer.token}",
            "object": "text_completion",
            "created": answer.created,
            "model": answer.model,
            "choices": [choice],
        }


class Rerank(Endpoint):
    def __init__(self, *, cohere: bool) -> None:
        self._cohere = cohere

    def read_prompt(self, body: dict[str, Any]) -> Prompt:
        query, documents = body.get("query"), body.get("documents")
        if not isinstance(query, str) or not isinstance(documents, list) or not documents:
            raise BadPrompt("query and documents are required", parameter="query")
        texts = [d if isinstance(d, str) else str(d.get("text")) for d in documents]
        return _prompt(body, [query, *texts], (query, texts, body.get("top_n")), text=query)

    def render_answer(self, answer: Answer) -> bytes:
        query, documents, top_n = answer.material
        scores = sorted(((-overlap(query, text), i) for i, text in enumerate(documents)))
        results = [{"index": i, "relevance_score": -score} for score, i in scores[: top_n or None]]
        told: dict[str, Any] = {"id": f"rerank-{answer.token}", "model": answer.model, "results": results}
        if self._cohere:
            units = {"billed_units": {"search_units": 1}, "tokens": {"input_tokens": answer.prompt_tokens}}
            del told["model"]
            told["meta"] = {"api_version": {"version": "2"}, **units}
        else:
            told["usage"] = {"total_tokens": answer.prompt_tokens, "prompt_tokens": answer.prompt_tokens}
        return orjson.dumps(told)


class NimRanking(Endpoint):
    def read_prompt(self, body: dict[str, Any]) -> Prompt:
        query, passages = body.get("query"), body.get("passages")
        if not isinstance(query, dict) or not isinstance(passages, list) or not passages:
            raise BadPrompt("query and passages are required", parameter="passages")
        texts = [str(passage.get("text")) for passage in passages]
        question = str(query.get("text"))
        return _prompt(body, [question, *texts], (question, texts), text=question)

    def render_answer(self, answer: Answer) -> bytes:
        query, texts = answer.material
        logits = sorted(((-(overlap(query, text) * 10 - 5), i) for i, text in enumerate(texts)))
        rankings = [{"index": i, "logit": -logit} for logit, i in logits]
        return orjson.dumps({"rankings": rankings, "usage": _usage(answer)})


class FeatureExtraction(Endpoint):
    def read_prompt(self, body: dict[str, Any]) -> Prompt:
        texts = _inputs(body.get("inputs"))
        return _prompt({"model": "", **body}, texts, texts)

    def render_answer(self, answer: Answer) -> bytes:
        return orjson.dumps([vector_of(text, _DIMENSIONS) for text in answer.material])


class Summarization(Endpoint):
    def read_prompt(self, body: dict[str, Any]) -> Prompt:
        texts = _inputs(body.get("inputs"))
        return _prompt({"model": "", **body}, texts, texts)

    def render_answer(self, answer: Answer) -> bytes:
        return orjson.dumps([{"summary_text": " ".join(answer.material[0].split()[:_SUMMARY_WORDS])}])


def vector_of(text: str, dimensions: int) -> list[float]:
    """Of length one, and the same for the same text. Each number is one that float32 holds exactly."""
    sums = [1.0] * dimensions
    for at, character in enumerate(text):
        sums[at % dimensions] += ord(character) % 97
    length = math.sqrt(sum(number * number for number in sums))
    return list(struct.unpack(f"<{dimensions}f", struct.pack(f"<{dimensions}f", *(n / length for n in sums))))


def overlap(query: str, text: str) -> float:
    words = set(query.lower().split())
    return len(words & set(text.lower().split())) / len(words) if words else 0.0


def _prompt(
    body: dict[str, Any],
    texts: list[str],
    material: Any,
    *,
    text: str | None = None,
    include_usage: bool = False,
) -> Prompt:
    model = body.get("model")
    if not isinstance(model, str):
        raise BadPrompt("you must provide a model parameter", parameter="model")
    return Prompt(
        model=model,
        stream=body.get("stream") is True,
        include_usage=include_usage,
        text=texts[0] if text is None else text,
        characters=sum(map(len, texts)),
        tool_result=None,
        tool=None,
        material=material,
    )


def _inputs(value: object) -> list[str]:
    """Texts; a list of tokens is the text of its numbers."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not value:
        raise BadPrompt("input is required", parameter="input")
    if isinstance(value[0], int):
        return [" ".join(map(str, value))]
    return [item if isinstance(item, str) else " ".join(map(str, item)) for item in value]


def _encoded(vector: list[float], encoding: object) -> list[float] | str:
    """`base64_int8` is Perplexity's: a signed byte a number."""
    if encoding == "base64":
        return b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    if encoding == "base64_int8":
        return b64encode(struct.pack(f"{len(vector)}b", *(round(n * 127) for n in vector))).decode()
    return vector


def _usage(answer: Answer) -> dict[str, int]:
    prompt, completion = answer.prompt_tokens, answer.completion_tokens
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _frame(document: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(document) + b"\n\n"
