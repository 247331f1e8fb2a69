"""Responses in OpenAI's form: what is checked of a request, what an answer looks like.

As with chat completions the parsed body itself travels on; items, parts and tools of kinds that
are not known here pass the check, and are refused by name where they cannot be carried over.
Source: openai-python 3.52, types/responses.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Required

from pydantic import (
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

from shared.requests.chat import MAX_MESSAGES, Metadata, Model, Name, Share, Temperature, Tokens
from shared.requests.problems import from_pydantic

_LENIENT: Final = ConfigDict(extra="allow", strict=True)
"""Unknown fields pass; known ones are of their JSON type, nothing is coerced."""


@with_config(_LENIENT)
class TextPart(TypedDict):
    type: Literal["input_text", "output_text", "text", "summary_text", "reasoning_text"]
    text: str


@with_config(_LENIENT)
class RefusalPart(TypedDict):
    type: Literal["refusal"]
    refusal: str


@with_config(_LENIENT)
class ImagePart(TypedDict, total=False):
    type: Required[Literal["input_image"]]
    image_url: str | None
    file_id: str | None
    detail: str | None


@with_config(_LENIENT)
class FilePart(TypedDict, total=False):
    type: Required[Literal["input_file"]]
    file_data: str | None
    file_id: str | None
    file_url: str | None
    filename: str | None


@with_config(_LENIENT)
class AudioPart(TypedDict):
    type: Literal["input_audio"]
    input_audio: dict[str, Any]


@with_config(_LENIENT)
class OtherPart(TypedDict):
    type: Name


_PART_TAGS: Final = {
    "input_text": "~text",
    "output_text": "~text",
    "text": "~text",
    "summary_text": "~text",
    "reasoning_text": "~text",
    "refusal": "~refusal",
    "input_image": "~image",
    "input_file": "~file",
    "input_audio": "~audio",
}


def _part_tag(part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    return _PART_TAGS.get(kind, "~other") if isinstance(kind, str) else "~other"


Part = Annotated[
    Annotated[TextPart, Tag("~text")]
    | Annotated[RefusalPart, Tag("~refusal")]
    | Annotated[ImagePart, Tag("~image")]
    | Annotated[FilePart, Tag("~file")]
    | Annotated[AudioPart, Tag("~audio")]
    | Annotated[OtherPart, Tag("~other")],
    Discriminator(_part_tag),
]
Content = (
    Annotated[str, Tag("~text")]
    | Annotated[list[Part], Field(max_length=MAX_MESSAGES, fail_fast=True), Tag("~parts")]
)


@with_config(_LENIENT)
class Message(TypedDict, total=False):
    """`type` may be left out. What the model said comes back in the same form."""

    role: Required[Literal["user", "assistant", "system", "developer"]]
    content: Required[Content]


@with_config(_LENIENT)
class FunctionCall(TypedDict):
    call_id: Name
    name: Name
    arguments: str


@with_config(_LENIENT)
class FunctionCallOutput(TypedDict):
    call_id: Name
    output: Content


@with_config(_LENIENT)
class Reasoning(TypedDict, total=False):
    summary: list[Part] | None
    content: list[Part] | None


@with_config(_LENIENT)
class OtherItem(TypedDict, total=False):
    type: Name | None
    id: str | None


_ITEM_TAGS: Final = {
    "message": "~message",
    "function_call": "~call",
    "function_call_output": "~output",
    "reasoning": "~reasoning",
}


def _item_tag(item: Any) -> str:
    if not isinstance(item, dict):
        return "~message"
    kind = item.get("type")
    if kind is None and not ("id" in item and "role" not in item):
        return "~message"
    return _ITEM_TAGS.get(kind, "~other") if isinstance(kind, str) else "~other"


Item = Annotated[
    Annotated[Message, Tag("~message")]
    | Annotated[FunctionCall, Tag("~call")]
    | Annotated[FunctionCallOutput, Tag("~output")]
    | Annotated[Reasoning, Tag("~reasoning")]
    | Annotated[OtherItem, Tag("~other")],
    Discriminator(_item_tag),
]
Input = (
    Annotated[str, Tag("~text")]
    | Annotated[list[Item], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True), Tag("~items")]
)


@with_config(_LENIENT)
class FunctionTool(TypedDict, total=False):
    type: Required[Literal["function"]]
    name: Required[Annotated[str, StringConstraints(min_length=1, max_length=128)]]
    description: str | None
    parameters: dict[str, Any] | None
    strict: bool | None


@with_config(_LENIENT)
class OtherTool(TypedDict):
    type: Name


def _tool_tag(tool: Any) -> str:
    return "~function" if isinstance(tool, dict) and tool.get("type") == "function" else "~other"


Tool = Annotated[
    Annotated[FunctionTool, Tag("~function")] | Annotated[OtherTool, Tag("~other")],
    Discriminator(_tool_tag),
]


@with_config(_LENIENT)
class ChosenTool(TypedDict, total=False):
    type: Required[Name]
    name: str | None
    mode: Literal["auto", "required"]
    tools: list[dict[str, Any]]


ToolChoice = (
    Annotated[Literal["none", "auto", "required"], Tag("~word")] | Annotated[ChosenTool, Tag("~named")]
)


@with_config(_LENIENT)
class SchemaFormat(TypedDict, total=False):
    type: Required[Literal["json_schema"]]
    name: Required[Annotated[str, StringConstraints(min_length=1, max_length=128)]]
    schema: Required[dict[str, Any]]
    description: str | None
    strict: bool | None


@with_config(_LENIENT)
class OtherFormat(TypedDict):
    type: Name


def _format_tag(form: Any) -> str:
    return "~schema" if isinstance(form, dict) and form.get("type") == "json_schema" else "~other"


TextFormat = Annotated[
    Annotated[SchemaFormat, Tag("~schema")] | Annotated[OtherFormat, Tag("~other")],
    Discriminator(_format_tag),
]


@with_config(_LENIENT)
class Text(TypedDict, total=False):
    format: TextFormat | None
    verbosity: Name | None


@with_config(_LENIENT)
class ReasoningOptions(TypedDict, total=False):
    effort: Name | None
    summary: Name | None
    mode: Name | None


@with_config(_LENIENT)
class StreamOptions(TypedDict, total=False):
    include_obfuscation: bool | None


@with_config(_LENIENT)
class ResponseRequest(TypedDict, total=False):
    model: Required[Model]
    input: Required[Input]
    instructions: str | None
    background: bool | None
    include: Annotated[list[Name], Field(max_length=64)] | None
    max_output_tokens: Tokens | None
    max_tool_calls: Tokens | None
    metadata: Metadata | None
    parallel_tool_calls: bool | None
    previous_response_id: Name | None
    prompt_cache_key: str | None
    reasoning: ReasoningOptions | None
    safety_identifier: str | None
    service_tier: Name | None
    store: bool | None
    stream: bool | None
    stream_options: StreamOptions | None
    temperature: Temperature | None
    text: Text | None
    tool_choice: ToolChoice | None
    tools: Annotated[list[Tool], Field(max_length=1_024, fail_fast=True)] | None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None
    top_p: Share | None
    truncation: Literal["auto", "disabled"] | None
    user: str | None


RESPONSE_REQUEST: Final = TypeAdapter(ResponseRequest)

_validate = RESPONSE_REQUEST.validator.validate_python


def check_response_request(body: Mapping[str, Any]) -> None:
    """Raises InvalidRequest (422) with path and problem of what is wrong."""
    try:
        _validate(body)
    except ValidationError as exc:
        raise from_pydantic(exc) from None
