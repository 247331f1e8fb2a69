"""Anthropic Messages: what is checked of a request, what an answer looks like.

As in OpenAI's form, the parsed body itself travels on, so that fields we do not know reach
the provider that does: see shared/requests/chat.py for why these are typed dicts.
Source: anthropic-python 2.11, types/message_create_params.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Required

from pydantic import (
    AfterValidator,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    TypeAdapter,
    ValidationError,
    with_config,
)
from typing_extensions import TypedDict

from shared.requests.problems import from_pydantic

MAX_MESSAGES: Final = 100_000
MAX_BLOCKS: Final = 10_000

_LENIENT: Final = ConfigDict(extra="allow", strict=True)

Name = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Model = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[\x21-\x7e]+$")]
Share = Annotated[float, Field(ge=0, le=1)]
Kind = Annotated[str, StringConstraints(min_length=1, max_length=64)]


@with_config(_LENIENT)
class TextBlock(TypedDict):
    type: Literal["text"]
    text: str


@with_config(_LENIENT)
class Source(TypedDict, total=False):
    type: Required[Kind]
    media_type: str
    data: str
    url: str
    file_id: str


@with_config(_LENIENT)
class SourcedBlock(TypedDict, total=False):
    """An image or a document."""

    type: Required[Kind]
    source: Required[Source]


@with_config(_LENIENT)
class ToolUseBlock(TypedDict):
    type: Literal["tool_use"]
    id: Name
    name: Name
    input: dict[str, Any]


@with_config(_LENIENT)
class ToolResultBlock(TypedDict, total=False):
    type: Required[Literal["tool_result"]]
    tool_use_id: Required[Name]
    content: ResultContent | None
    is_error: bool | None


@with_config(_LENIENT)
class ThinkingBlock(TypedDict, total=False):
    type: Required[Literal["thinking"]]
    thinking: Required[str]
    signature: str


@with_config(_LENIENT)
class OtherBlock(TypedDict):
    """A block that only the provider knows."""

    type: Kind


_BLOCK_TAGS: Final = {
    "text": "~text",
    "image": "~sourced",
    "document": "~sourced",
    "tool_use": "~tool_use",
    "tool_result": "~tool_result",
    "thinking": "~thinking",
}
_PLAIN_TAGS: Final = frozenset({"~text", "~sourced"})


def _block_tag(block: Any) -> str:
    kind = block.get("type") if isinstance(block, dict) else None
    return _BLOCK_TAGS.get(kind, "~other") if isinstance(kind, str) else "~other"


def _result_tag(block: Any) -> str:
    tag = _block_tag(block)
    return tag if tag in _PLAIN_TAGS else "~other"


def _content_tag(content: Any) -> str:
    return "~string" if isinstance(content, str) else "~blocks"


ResultBlock = Annotated[
    Annotated[TextBlock, Tag("~text")]
    | Annotated[SourcedBlock, Tag("~sourced")]
    | Annotated[OtherBlock, Tag("~other")],
    Discriminator(_result_tag),
]
ResultContent = Annotated[
    Annotated[str, Tag("~string")]
    | Annotated[list[ResultBlock], Field(max_length=MAX_BLOCKS, fail_fast=True), Tag("~blocks")],
    Discriminator(_content_tag),
]
Block = Annotated[
    Annotated[TextBlock, Tag("~text")]
    | Annotated[SourcedBlock, Tag("~sourced")]
    | Annotated[ToolUseBlock, Tag("~tool_use")]
    | Annotated[ToolResultBlock, Tag("~tool_result")]
    | Annotated[ThinkingBlock, Tag("~thinking")]
    | Annotated[OtherBlock, Tag("~other")],
    Discriminator(_block_tag),
]
Content = Annotated[
    Annotated[str, Tag("~string")]
    | Annotated[list[Block], Field(max_length=MAX_BLOCKS, fail_fast=True), Tag("~blocks")],
    Discriminator(_content_tag),
]
System = Annotated[
    Annotated[str, Tag("~string")]
    | Annotated[list[TextBlock], Field(max_length=MAX_BLOCKS, fail_fast=True), Tag("~blocks")],
    Discriminator(_content_tag),
]


@with_config(_LENIENT)
class Message(TypedDict):
    role: Literal["user", "assistant", "system"]
    content: Content


Messages = Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]


@with_config(_LENIENT)
class _Tool(TypedDict, total=False):
    name: Required[Annotated[str, StringConstraints(min_length=1, max_length=128)]]
    type: Kind | None
    description: str | None
    input_schema: dict[str, Any]
    strict: bool | None


def _input_is_described(tool: _Tool) -> _Tool:
    if tool.get("type") in {None, "custom"} and "input_schema" not in tool:
        raise ValueError("needs `input_schema`")
    return tool


@with_config(_LENIENT)
class _NamelessTool(TypedDict):
    """Sets of tools that run at the provider are told apart by their type alone."""

    type: Kind


def _tool_tag(tool: Any) -> str:
    kind = tool.get("type") if isinstance(tool, dict) else None
    return "~own" if kind is None or kind == "custom" or "name" in tool else "~theirs"


Tool = Annotated[
    Annotated[_Tool, AfterValidator(_input_is_described), Tag("~own")]
    | Annotated[_NamelessTool, Tag("~theirs")],
    Discriminator(_tool_tag),
]


@with_config(_LENIENT)
class _ToolChoice(TypedDict, total=False):
    type: Required[Literal["auto", "any", "tool", "none"]]
    name: Name
    disable_parallel_tool_use: bool | None


def _tool_is_named(choice: _ToolChoice) -> _ToolChoice:
    if choice["type"] == "tool" and "name" not in choice:
        raise ValueError("needs `name`")
    return choice


ToolChoice = Annotated[_ToolChoice, AfterValidator(_tool_is_named)]


@with_config(_LENIENT)
class Thinking(TypedDict, total=False):
    type: Required[Kind]
    budget_tokens: Annotated[int, Field(ge=1)]


@with_config(_LENIENT)
class Metadata(TypedDict, total=False):
    user_id: str | None


@with_config(_LENIENT)
class OutputConfig(TypedDict, total=False):
    effort: Name | None
    format: dict[str, Any] | None


@with_config(_LENIENT)
class TokenCountRequest(TypedDict, total=False):
    """What both routes check: a prompt, and what goes with it."""

    model: Required[Model]
    messages: Required[Messages]
    system: System | None
    tools: Annotated[list[Tool], Field(max_length=1_024, fail_fast=True)] | None
    tool_choice: ToolChoice | None
    thinking: Thinking | None
    output_config: OutputConfig | None


@with_config(_LENIENT)
class MessagesRequest(TokenCountRequest, total=False):
    max_tokens: Required[Annotated[int, Field(ge=0)]]
    stream: bool | None
    stop_sequences: Annotated[list[str], Field(max_length=8_192)] | None
    temperature: Share | None
    top_p: Share | None
    top_k: Annotated[int, Field(ge=0)] | None
    metadata: Metadata | None
    service_tier: Name | None


_MESSAGES: Final = TypeAdapter(MessagesRequest)
_TOKEN_COUNT: Final = TypeAdapter(TokenCountRequest)


def check_messages(body: Mapping[str, Any]) -> None:
    """Raises InvalidRequest (422, on this surface 400) with path and problem of what is wrong."""
    _check(_MESSAGES, body)


def check_token_count(body: Mapping[str, Any]) -> None:
    """See `check_messages`."""
    _check(_TOKEN_COUNT, body)


def _check(form: TypeAdapter[Any], body: Mapping[str, Any]) -> None:
    try:
        form.validator.validate_python(body)
    except ValidationError as exc:
        raise from_pydantic(exc) from None
