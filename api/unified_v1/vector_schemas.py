"""Embeddings and reranking with the provider named beside the model."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, with_config

from api.unified_v1.schemas import Provider
from shared.requests.vectors import EmbeddingOptions, RerankOptions

_LENIENT = ConfigDict(extra="allow", strict=True)


@with_config(_LENIENT)
class EmbeddingRequest(EmbeddingOptions, total=False):
    provider: Provider | None


@with_config(_LENIENT)
class RerankRequest(RerankOptions, total=False):
    provider: Provider | None


class TokenTotal(BaseModel):
    total_tokens: int


class EmbeddingsAnswer(BaseModel):
    embeddings: list[list[float]]
    model: str
    usage: TokenTotal


class RankedText(BaseModel):
    index: int
    relevance_score: Annotated[float, Field(ge=0, le=1)]
    document: str


class RerankAnswer(BaseModel):
    results: list[RankedText]
