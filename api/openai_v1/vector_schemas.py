"""What completions, embeddings and reranking under /v1 answer, for OpenAPI."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.openai_v1.schemas import CompletionUsage


class _Answer(BaseModel):
    model_config = ConfigDict(extra="allow")


class CompletionChoice(_Answer):
    text: str
    index: int
    logprobs: dict[str, Any] | None = None
    finish_reason: str


class Completion(_Answer):
    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: CompletionUsage | None = None


class Embedding(BaseModel):
    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str
    """Numbers, or base64 of little-endian float32."""


class EmbeddingUsage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class EmbeddingList(_Answer):
    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


class RankedText(BaseModel):
    text: str


class RankedDocument(BaseModel):
    index: int
    relevance_score: Annotated[float, Field(ge=0, le=1)]
    document: RankedText | None = None


class Ranking(BaseModel):
    model: str
    usage: EmbeddingUsage
    results: list[RankedDocument]
