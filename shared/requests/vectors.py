"""Completions, embeddings and reranking under /v1: what is checked of a request, what an answer looks like.

Source: openai-openapi 2.3.0, and Jina's API for reranking.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Required

from pydantic import ConfigDict, Discriminator, Field, StringConstraints, Tag, with_config
from typing_extensions import TypedDict

from shared.requests.chat import LogitBias, Model, Penalty, Share, Stop, StreamOptions, Temperature

MAX_INPUTS: Final = 2_048
MAX_INPUT_NODES: Final = 400_000
"""Lists of tokens hold as many values as tokens, of which OpenAI takes 300,000 in one request."""
MAX_DOCUMENTS: Final = 1_000
MAX_DOCUMENT_CHARS: Final = 1_000_000
MAX_QUERY_CHARS: Final = 100_000

_LENIENT: Final = ConfigDict(extra="allow", strict=True)

_Token = Annotated[int, Field(ge=0)]
_Tokens = Annotated[list[_Token], Field(min_length=1, fail_fast=True)]


def _text_tag(value: Any) -> str:
    if not isinstance(value, list):
        return "~text"
    first = value[0] if value else ""
    if isinstance(first, list):
        return "~token-lists"
    return "~tokens" if isinstance(first, int) else "~texts"


_Lists = (
    Annotated[_Tokens, Tag("~tokens")]
    | Annotated[list[_Tokens], Field(max_length=MAX_INPUTS, fail_fast=True), Tag("~token-lists")]
)
Prompt = Annotated[
    Annotated[str, Tag("~text")]
    | Annotated[list[str], Field(min_length=1, max_length=MAX_INPUTS, fail_fast=True), Tag("~texts")]
    | _Lists,
    Discriminator(_text_tag),
]
_Text = Annotated[str, StringConstraints(min_length=1)]
Input = Annotated[
    Annotated[_Text, Tag("~text")]
    | Annotated[list[_Text], Field(min_length=1, max_length=MAX_INPUTS, fail_fast=True), Tag("~texts")]
    | _Lists,
    Discriminator(_text_tag),
]


@with_config(_LENIENT)
class CompletionRequest(TypedDict, total=False):
    model: Required[Model]
    prompt: Required[Prompt]
    suffix: str | None
    max_tokens: Annotated[int, Field(ge=0)] | None
    temperature: Temperature | None
    top_p: Share | None
    n: Annotated[int, Field(ge=1, le=128)] | None
    best_of: Annotated[int, Field(ge=0, le=20)] | None
    echo: bool | None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None
    stop: Stop | None
    frequency_penalty: Penalty | None
    presence_penalty: Penalty | None
    logit_bias: LogitBias | None
    seed: int | None
    stream: bool | None
    stream_options: StreamOptions | None
    user: str | None


@with_config(_LENIENT)
class EmbeddingOptions(TypedDict, total=False):
    model: Required[Model]
    input: Required[Input]
    dimensions: Annotated[int, Field(ge=1, le=65_536)] | None
    encoding_format: Literal["float", "base64"] | None
    user: str | None


@with_config(_LENIENT)
class DocumentText(TypedDict):
    text: Annotated[str, StringConstraints(max_length=MAX_DOCUMENT_CHARS)]


def _document_tag(value: Any) -> str:
    return "~object" if isinstance(value, dict) else "~text"


Document = Annotated[
    Annotated[str, StringConstraints(max_length=MAX_DOCUMENT_CHARS), Tag("~text")]
    | Annotated[DocumentText, Tag("~object")],
    Discriminator(_document_tag),
]


Documents = Annotated[list[Document], Field(min_length=1, max_length=MAX_DOCUMENTS, fail_fast=True)]


@with_config(_LENIENT)
class RerankOptions(TypedDict, total=False):
    """What every rerank route checks."""

    model: Required[Model]
    query: Required[Annotated[str, StringConstraints(min_length=1, max_length=MAX_QUERY_CHARS)]]
    documents: Required[
        Annotated[list[Document], Field(min_length=1, max_length=MAX_DOCUMENTS, fail_fast=True)]
    ]
    top_n: Annotated[int, Field(ge=1)] | None
    return_documents: bool | None
    max_tokens_per_doc: Annotated[int, Field(ge=1)] | None
    priority: Annotated[int, Field(ge=0, le=999)] | None
