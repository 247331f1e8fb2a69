"""The older routes: what is checked of a request, what an answer looks like."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Required

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, with_config
from typing_extensions import TypedDict

from api.unified_v1.schemas import ChatUsage, ErrorAnswer, Provider
from shared.requests.chat import ChatOptions, Messages, Model

MAX_PROMPT_CHARS = 4_000_000

_LENIENT = ConfigDict(extra="allow", strict=True)
_CLOSED = ConfigDict(extra="forbid", strict=True)

Prompt = Annotated[str, StringConstraints(min_length=1, max_length=MAX_PROMPT_CHARS)]

ErrorResponse = ErrorAnswer
"""Errors of these routes are those of the unified surface."""


@with_config(_LENIENT)
class GenerateOptions(ChatOptions, total=False):
    """As in a chat, of which one answer is shown whole. Options of one provider are passed on."""

    n: Literal[1] | None  # type: ignore[misc]  # narrower than in a chat


@with_config(_LENIENT)
class PromptRequest(GenerateOptions, total=False):
    """`POST /generate-text` and `/v1/inference/*`: the options stand beside the prompt."""

    prompt: Required[Prompt]
    provider: Provider | None
    model: Model | None


@with_config(_CLOSED)
class GenerateRequest(TypedDict, total=False):
    """`POST /api/v1/ai/generate`: either `prompt` or `messages`."""

    prompt: Prompt | None
    messages: Messages | None
    provider: Provider | None
    model: Model | None
    options: GenerateOptions | None


class GenerateCost(BaseModel):
    """An estimate by list prices; 0 for a model whose price is not known."""

    amount: float
    currency: Literal["USD"] = "USD"


class GenerateResponse(BaseModel):
    id: str
    text: str
    model: str
    provider: str
    finish_reason: str | None
    usage: ChatUsage
    cost: GenerateCost
    latency_ms: int


class TextAnswer(BaseModel):
    text: str
    model: str
    provider: str
    usage: ChatUsage


class InferenceAnswer(BaseModel):
    text: str
    model: str
    usage: ChatUsage
    cached: bool = False


_Length = Annotated[int, Field(ge=1, le=100_000)]


@with_config(_LENIENT)
class SummarizeRequest(TypedDict, total=False):
    text: Required[Prompt]
    max_length: _Length | None
    min_length: Annotated[int, Field(ge=0, le=100_000)] | None
    provider: Provider | None
    model: Model | None


class Summary(BaseModel):
    summary: str
    model: str
    provider: str


class HealthStatus(BaseModel):
    """`status`: `online` while a worker serves the provider, `offline` when none does,
    `unconfigured` where neither an address nor a worker is known.
    """

    provider: str
    name: str
    status: Literal["online", "offline", "unconfigured"]
    default: bool


class AiHealth(BaseModel):
    status: Literal["healthy", "degraded", "unhealthy"]
    providers: list[HealthStatus]


def request_body(required: list[str], example: dict[str, Any]) -> dict[str, Any]:
    """What OpenAPI says of a body that the route reads by itself."""
    schema = {"type": "object", "required": required}
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": schema, "example": example}},
        }
    }
