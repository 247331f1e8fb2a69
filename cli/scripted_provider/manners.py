"""How each provider says what OpenAI says: its error bodies, its limit headers, its keep-alives.

The first segment of a path says whose manner to use (`/deepseek/v1/chat/completions`);
without one that is known here the endpoint answers in the manner of its own dialect.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from cli.scripted_provider.dialect import Answer, Dialect, Prompt

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


@dataclass(frozen=True, slots=True)
class Manner:
    """
    error: None for the dialect's own form
    headers: request id and limits, as lines; `%b` is the request id
    waits_with: sent before the first byte of a stream, and of a plain body
    """

    error: ErrorBody | None = None
    headers: bytes = b"x-request-id: %b\r\n"
    waits_with: tuple[bytes, bytes] = (b"", b"")


MANNERS: dict[str, Manner] = {
    "deepseek": Manner(waits_with=(b": keep-alive\n\n", b"\n\n")),
    "xai": Manner(
        error=_xai,
        headers=b"x-request-id: %b\r\nx-ratelimit-limit-requests: 480\r\n"
        b"x-ratelimit-remaining-requests: 479\r\n",
    ),
    "openrouter": Manner(
        error=_openrouter,
        headers=b"x-generation-id: %b\r\nx-ratelimit-limit: 20\r\nx-ratelimit-remaining: 19\r\n"
        b"x-ratelimit-reset: 1893456000000\r\n",
        waits_with=(b": OPENROUTER PROCESSING\n\n", b""),
    ),
    "litellm": Manner(error=_litellm, headers=b"x-litellm-call-id: %b\r\n"),
    "nvidia_nim": Manner(error=_fastapi, headers=b"nvcf-reqid: %b\r\nnvcf-status: fulfilled\r\n"),
    "perplexity": Manner(error=_fastapi),
    "huggingface": Manner(error=_huggingface),
    "vllm": Manner(error=_vllm),
}


class Mannered:
    """A dialect in the manner of a provider."""

    def __init__(self, dialect: Dialect, manner: Manner) -> None:
        self._dialect = dialect
        self._manner = manner

    def read_prompt(self, body: dict[str, Any]) -> Prompt:
        return self._dialect.read_prompt(body)

    def render_headers(self, request_id: bytes) -> bytes:
        return self._manner.headers % request_id

    def render_answer(self, answer: Answer) -> bytes:
        return self._manner.waits_with[1] + self._dialect.render_answer(answer)

    def render_frames(self, answer: Answer) -> list[bytes]:
        frames = self._dialect.render_frames(answer)
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
        return b"data: " + orjson.dumps(self._manner.error(500, message, code, None)) + b"\n\n"

    def render_models(self, created: int) -> bytes:
        return self._dialect.render_models(created)

    def render_model(self, model: str, created: int) -> bytes:
        return self._dialect.render_model(model, created)
