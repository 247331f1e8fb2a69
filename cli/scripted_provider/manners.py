"""How each provider says what OpenAI says: which paths it has, error bodies, limits, keep-alives, models.

The first segment of a path says whose manner to use (`/deepseek/v1/chat/completions`);
without one that is known here the endpoint answers in the manner of its own dialect.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from cli.scripted_provider import anthropic, openai
from cli.scripted_provider.dialect import Answer, BadPrompt, Dialect, Prompt

ErrorBody = Callable[[int, str, str | None, str | None], Any]
"""Status, message, code and parameter to the document of an error."""


def _xai(status: int, message: str, code: str | None, parameter: str | None) -> Any:
    return {"code": code or f"Status {status}", "error": message}


def _openrouter(status: int, message: str, code: str | None, parameter: str | None) -> Any:
    return {"error": {"code": code or status, "message": message}, "user_id": "user_scripted"}


def _litellm(status: int, message: str, code: str | None, parameter: str | None) -> Any:
    return {"error": {"message": message, "type": "None", "param": "None", "code": code or str(status)}}


def _fastapi(status: int, message: str, code: str | None, parameter: str | None) -> Any:
    if status == 422:
        where = ["body", *(parameter or "messages").split(".")]
        return {"detail": [{"loc": where, "msg": message, "type": "value_error"}]}
    return {"error": {"message": message, "type": code or "error", "code": code or status}}


def _huggingface(status: int, message: str, code: str | None, parameter: str | None) -> Any:
    if code is not None:
        return {"error": {"message": message, "type": code, "code": code}}
    return {"error": message, **({"estimated_time": 1.5} if status == 503 else {})}


def _vllm(status: int, message: str, code: str | None, parameter: str | None) -> Any:
    return {
        "error": {"message": message, "type": code or "Error", "param": parameter, "code": code or status}
    }


def _within_a_chunk(error: Any) -> Any:
    """OpenRouter's error in a stream is a chunk that ends the choice."""
    choice = {"index": 0, "delta": {"content": ""}, "finish_reason": "error"}
    return {"id": "gen-scripted", "object": "chat.completion.chunk", "choices": [choice], **error}


_CITATIONS = {
    "citations": ["https://example.org/a"],
    "search_results": [{"title": "A", "url": "https://example.org/a", "date": None}],
}
_COST = {"search_context_size": "low", "cost": {"total_cost": 0.006}}


def _cite(document: dict[str, Any]) -> None:
    if "choices" in document:
        document.update(_CITATIONS)
        document.get("usage", {}).update(_COST)


def _say_it_all_in_each(frames: list[bytes]) -> list[bytes]:
    """Perplexity's stream: each chunk holds the message so far; the last holds the usage too."""
    said = ""
    chunks: list[tuple[bytes, dict[str, Any] | None]] = []
    for frame in frames:
        if not frame.startswith(b"data: {"):
            chunks.append((frame, None))
            continue
        document = orjson.loads(frame[len(b"data: ") :])
        if document.get("usage") and not document["choices"]:
            if (last := chunks[-1][1]) is not None:
                last["usage"] = document["usage"] | _COST
            continue
        for choice in document["choices"]:
            said += choice["delta"].get("content") or ""
            choice["message"] = {"role": "assistant", "content": said}
        document.pop("usage", None)
        chunks.append((frame, document | _CITATIONS))
    return [
        frame if chunk is None else type(frame)(b"data: " + orjson.dumps(chunk) + b"\n\n")
        for frame, chunk in chunks
    ]


@dataclass(frozen=True, slots=True)
class Manner:
    """
    serves: ends of the paths it has; a call of any other is a 404
    error: None for the dialect's own form
    headers: request id and limits, as lines; `%b` is the request id. None for the dialect's own
    waits_with: sent before the first byte of a stream, and of a plain body
    answer, frames, error_frame: what it adds to a plain answer, and makes of a stream and of an error in one
    dialect: the form of its models, and of its 404s
    lists_models: whether it has /models
    of_a_model: what it tells of each model there
    """

    serves: frozenset[str]
    error: ErrorBody | None = None
    headers: bytes | None = b"x-request-id: %b\r\n"
    waits_with: tuple[bytes, bytes] = (b"", b"")
    answer: Callable[[dict[str, Any]], None] | None = None
    frames: Callable[[list[bytes]], list[bytes]] | None = None
    error_frame: Callable[[Any], Any] | None = None
    dialect: Dialect = openai
    lists_models: bool = True
    of_a_model: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_plain(self) -> bool:
        """Whether its dialect alone is how it speaks."""
        return self.error is None and self.headers is None and not any(self.waits_with)


_CHAT = "/chat/completions"
_COMPLETION = "/completions"
_EMBEDDINGS = "/embeddings"
_MESSAGES = frozenset({"/messages", "/messages/count_tokens"})
_RERANKS = frozenset({"/rerank", "/v2/rerank"})

MANNERS: dict[str, Manner] = {
    "openai": Manner(frozenset({_CHAT, _COMPLETION, _EMBEDDINGS}), headers=None),
    "anthropic": Manner(_MESSAGES, headers=None, dialect=anthropic),
    "deepseek": Manner(frozenset({_CHAT, _COMPLETION}), waits_with=(b": keep-alive\n\n", b"\n\n")),
    "xai": Manner(
        frozenset({_CHAT}),
        error=_xai,
        headers=b"x-request-id: %b\r\n"
        b"x-ratelimit-limit-requests: 480\r\nx-ratelimit-remaining-requests: 479\r\n"
        b"x-ratelimit-limit-tokens: 4000000\r\nx-ratelimit-remaining-tokens: 3999990\r\n",
    ),
    "openrouter": Manner(
        frozenset({_CHAT, _COMPLETION, _EMBEDDINGS, "/rerank", "/messages"}),
        error=_openrouter,
        error_frame=_within_a_chunk,
        headers=b"x-generation-id: %b\r\nx-ratelimit-limit: 20\r\nx-ratelimit-remaining: 19\r\n"
        b"x-ratelimit-reset: 1893456000000\r\n",
        waits_with=(b": OPENROUTER PROCESSING\n\n", b""),
        of_a_model={
            "name": "Scripted: a model",
            "context_length": 128000,
            "pricing": {"prompt": "0.000001", "completion": "0.000002"},
        },
    ),
    "litellm": Manner(
        frozenset({_CHAT, _COMPLETION, _EMBEDDINGS}) | _RERANKS | _MESSAGES,
        error=_litellm,
        headers=b"x-litellm-call-id: %b\r\n"
        b"x-ratelimit-limit-requests: 100\r\nx-ratelimit-remaining-requests: 99\r\n"
        b"x-ratelimit-limit-tokens: 100000\r\nx-ratelimit-remaining-tokens: 99990\r\n",
    ),
    "nvidia_nim": Manner(
        frozenset({_CHAT, _COMPLETION, _EMBEDDINGS, "/reranking", "/ranking"}),
        error=_fastapi,
        headers=b"nvcf-reqid: %b\r\nnvcf-status: fulfilled\r\n",
    ),
    "perplexity": Manner(
        frozenset({_CHAT, _EMBEDDINGS}),
        error=_fastapi,
        answer=_cite,
        frames=_say_it_all_in_each,
        lists_models=False,
    ),
    "huggingface": Manner(
        frozenset({_CHAT, "/pipeline/feature-extraction", "/pipeline/summarization"}), error=_huggingface
    ),
    "vllm": Manner(
        frozenset({_CHAT, _COMPLETION, _EMBEDDINGS}) | _RERANKS | _MESSAGES,
        error=_vllm,
        of_a_model={"root": "scripted", "parent": None, "max_model_len": 40960},
    ),
}


class Mannered:
    """A dialect in the manner of a provider."""

    def __init__(self, dialect: Dialect, manner: Manner) -> None:
        self._dialect = dialect
        self._manner = manner

    def read_prompt(self, body: dict[str, Any]) -> Prompt:
        return self._dialect.read_prompt(body)

    def render_headers(self, request_id: bytes) -> bytes:
        if self._manner.headers is None:
            return self._dialect.render_headers(request_id)
        return self._manner.headers % request_id

    def render_answer(self, answer: Answer) -> bytes:
        body = self._dialect.render_answer(answer)
        if self._manner.answer is not None:
            document = orjson.loads(body)
            self._manner.answer(document)
            body = orjson.dumps(document)
        return self._manner.waits_with[1] + body

    def render_frames(self, answer: Answer) -> list[bytes]:
        frames = self._dialect.render_frames(answer)
        if self._manner.frames is not None:
            frames = self._manner.frames(frames)
        waiting = self._manner.waits_with[0]
        return [waiting, *frames] if waiting else frames

    def render_error(
        self, *, status: int, message: str, code: str | None, parameter: str | None, request_id: bytes
    ) -> bytes:
        if self._manner.error is None:
            return self._dialect.render_error(
                status=status, message=message, code=code, parameter=parameter, request_id=request_id
            )
        return orjson.dumps(self._manner.error(status, message, code, parameter))

    def render_error_frame(self, *, message: str, code: str | None) -> bytes:
        if self._manner.error is None:
            return self._dialect.render_error_frame(message=message, code=code)
        document = self._manner.error(500, message, code, None)
        if self._manner.error_frame is not None:
            document = self._manner.error_frame(document)
        return b"data: " + orjson.dumps(document) + b"\n\n"

    def render_models(self, created: int) -> bytes:
        document = orjson.loads(self._dialect.render_models(created))
        for model in document["data"]:
            model.update(self._manner.of_a_model)
        return orjson.dumps(document)

    def render_model(self, model: str, created: int) -> bytes:
        return orjson.dumps(
            {**orjson.loads(self._dialect.render_model(model, created)), **self._manner.of_a_model}
        )


class NotThere(Mannered):
    """A path that the provider does not have, whatever is asked of it."""

    def read_prompt(self, body: dict[str, Any]) -> Prompt:
        raise BadPrompt("There is no such path.", status=404)


def spoken(dialects: Mapping[str, Dialect]) -> dict[tuple[str, str], Dialect]:
    """What stands at the end of a path of a provider: by provider and end."""
    at: dict[tuple[str, str], Dialect] = {}
    for provider, manner in MANNERS.items():
        for end, dialect in dialects.items():
            if end not in manner.serves:
                at[provider, end] = NotThere(manner.dialect, manner)
            else:
                at[provider, end] = dialect if manner.is_plain else Mannered(dialect, manner)
    return at
