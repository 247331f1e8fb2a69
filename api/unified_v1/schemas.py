"""The unified chat route: the same options as OpenAI's, with the provider named beside the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Required

from pydantic import BaseModel, ConfigDict, StringConstraints, TypeAdapter, ValidationError, with_config

from shared.requests.chat import ChatOptions, Messages, Model
from shared.requests.problems import from_pydantic

Provider = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]


@with_config(ConfigDict(extra="allow", strict=True))
class ChatRequest(ChatOptions, total=False):
    """Options of one provider (`reasoning_effort`, `transforms`, ...) pass as they are."""

    provider: Provider | None
    model: Required[Model]
    messages: Required[Messages]
    conversation_id: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None


CHAT_REQUEST: Final = TypeAdapter(ChatRequest)
_TAGGED: Final = frozenset({"messages"})

_validate = CHAT_REQUEST.validator.validate_python


def check_chat(body: Mapping[str, Any]) -> None:
    """Raises InvalidRequest (422) with path and problem of what is wrong."""
    try:
        _validate(body)
    except ValidationError as exc:
        raise from_pydantic(exc, tagged=_TAGGED) from None


class ChatMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str | None


class ChatChoice(BaseModel):
    message: ChatMessage
    finish_reason: str


class ChatUsage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatAnswer(BaseModel):
    id: str
    provider: str
    model: str
    choices: list[ChatChoice]
    usage: ChatUsage
    conversation_id: str | None = None


class ErrorDetail(BaseModel):
    type: str
    message: str
    details: dict[str, Any]
    trace_id: str


class ErrorAnswer(BaseModel):
    error: ErrorDetail
