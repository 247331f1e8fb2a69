"""Chat completions in OpenAI's form: what is checked of a request, what an answer looks like.

`check_chat_completion` judges the parsed body and returns nothing: the dict itself
travels on, so parameters we do not know reach the provider that does. The classes
behind it are typed dicts rather than models because validating them costs half.
The models at the end only document answers in OpenAPI.
Source: openai-openapi 2.3.0.
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

MAX_MESSAGES: Final = 10_000

_LENIENT: Final = ConfigDict(extra="allow", strict=True)
"""Unknown fields pass; known ones are of their JSON type, nothing is coerced."""

Name = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Model = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[\x21-\x7e]+$")]
Temperature = Annotated[float, Field(ge=0, le=2)]
Share = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Tokens = Annotated[int, Field(ge=1)]


@with_config(_LENIENT)
class TextPart(TypedDict):
    type: Literal["text"]
    text: str


@with_config(_LENIENT)
class ImageUrl(TypedDict, total=False):
    url: Required[Annotated[str, StringConstraints(min_length=1)]]
    detail: str | None


@with_config(_LENIENT)
class ImagePart(TypedDict):
    type: Literal["image_url"]
    image_url: ImageUrl


@with_config(_LENIENT)
class InputAudio(TypedDict):
    data: str
    format: str


@with_config(_LENIENT)
class AudioPart(TypedDict):
    type: Literal["input_audio"]
    input_audio: InputAudio


@with_config(_LENIENT)
class FilePart(TypedDict):
    type: Literal["file"]
    file: dict[str, Any]


@with_config(_LENIENT)
class RefusalPart(TypedDict):
    type: Literal["refusal"]
    refusal: str


@with_config(_LENIENT)
class OtherPart(TypedDict):
    """A part type that only the provider knows."""

    type: Annotated[str, StringConstraints(min_length=1, max_length=64)]


_PART_TAGS: Final = {
    "text": "~text",
    "image_url": "~image",
    "input_audio": "~audio",
    "file": "~file",
    "refusal": "~refusal",
}


def _part_tag(part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    return _PART_TAGS.get(kind, "~other") if isinstance(kind, str) else "~other"


Part = Annotated[
    Annotated[TextPart, Tag("~text")]
    | Annotated[ImagePart, Tag("~image")]
    | Annotated[AudioPart, Tag("~audio")]
    | Annotated[FilePart, Tag("~file")]
    | Annotated[RefusalPart, Tag("~refusal")]
    | Annotated[OtherPart, Tag("~other")],
    Discriminator(_part_tag),
]
Content = (
    Annotated[str, Tag("~text")]
    | Annotated[list[Part], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True), Tag("~parts")]
)


@with_config(_LENIENT)
class FunctionCall(TypedDict):
    name: str
    arguments: str


@with_config(_LENIENT)
class ToolCall(TypedDict, total=False):
    id: Required[str]
    type: str
    function: FunctionCall


@with_config(_LENIENT)
class SystemMessage(TypedDict, total=False):
    role: Required[Literal["system", "developer"]]
    content: Required[Content]
    name: str | None


@with_config(_LENIENT)
class UserMessage(TypedDict, total=False):
    role: Required[Literal["user"]]
    content: Required[Content]
    name: str | None


@with_config(_LENIENT)
class _AssistantMessage(TypedDict, total=False):
    role: Required[Literal["assistant"]]
    content: Content | None
    refusal: str | None
    name: str | None
    tool_calls: list[ToolCall] | None
    function_call: FunctionCall | None


def _says_something(message: _AssistantMessage) -> _AssistantMessage:
    if message.get("content") is None and not any(
        message.get(field) for field in ("tool_calls", "function_call", "refusal", "audio")
    ):
        raise ValueError("needs content, tool_calls or a refusal")
    return message


AssistantMessage = Annotated[_AssistantMessage, AfterValidator(_says_something)]


@with_config(_LENIENT)
class ToolMessage(TypedDict, total=False):
    role: Required[Literal["tool"]]
    content: Required[Content]
    tool_call_id: Required[Name]


@with_config(_LENIENT)
class FunctionMessage(TypedDict, total=False):
    """Deprecated by OpenAI in favour of `tool`, still sent by older applications."""

    role: Required[Literal["function"]]
    name: Required[Name]
    content: Required[str | None]


Message = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage | FunctionMessage,
    Field(discriminator="role"),
]
Messages = Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]


@with_config(_LENIENT)
class FunctionDefinition(TypedDict, total=False):
    name: Required[Annotated[str, StringConstraints(min_length=1, max_length=128)]]
    description: str | None
    parameters: dict[str, Any] | None
    strict: bool | None


@with_config(_LENIENT)
class _Tool(TypedDict, total=False):
    type: Required[Name]
    function: FunctionDefinition


def _function_is_described(tool: _Tool) -> _Tool:
    if tool["type"] == "function" and "function" not in tool:
        raise ValueError("needs `function`")
    return tool


Tool = Annotated[_Tool, AfterValidator(_function_is_described)]


@with_config(_LENIENT)
class NamedTool(TypedDict):
    type: Name


ToolChoice = (
    Annotated[Literal["none", "auto", "required"], Tag("~word")] | Annotated[NamedTool, Tag("~named")]
)


@with_config(_LENIENT)
class JsonSchema(TypedDict, total=False):
    name: Required[Annotated[str, StringConstraints(min_length=1, max_length=128)]]
    schema: dict[str, Any] | None
    strict: bool | None


@with_config(_LENIENT)
class _ResponseFormat(TypedDict, total=False):
    type: Required[Name]
    json_schema: JsonSchema


def _schema_is_given(form: _ResponseFormat) -> _ResponseFormat:
    if form["type"] == "json_schema" and "json_schema" not in form:
        raise ValueError("needs `json_schema`")
    return form


ResponseFormat = Annotated[_ResponseFormat, AfterValidator(_schema_is_given)]


@with_config(_LENIENT)
class StreamOptions(TypedDict, total=False):
    include_usage: bool | None
    include_obfuscation: bool | None


Stop = Annotated[str, Tag("~one")] | Annotated[list[str], Field(max_length=4), Tag("~several")]
Metadata = Annotated[
    dict[
        Annotated[str, StringConstraints(max_length=64)],
        Annotated[str, StringConstraints(max_length=512)],
    ],
    Field(max_length=16),
]
LogitBias = Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=1_024)]


@with_config(_LENIENT)
class ChatOptions(TypedDict, total=False):
    """What every chat route checks, whatever it calls its other fields."""

    temperature: Temperature | None
    top_p: Share | None
    n: Annotated[int, Field(ge=1, le=128)] | None
    stop: Stop | None
    max_tokens: Tokens | None
    max_completion_tokens: Tokens | None
    frequency_penalty: Penalty | None
    presence_penalty: Penalty | None
    seed: int | None
    logit_bias: LogitBias | None
    logprobs: bool | None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None
    tools: Annotated[list[Tool], Field(max_length=1_024, fail_fast=True)] | None
    tool_choice: ToolChoice | None
    parallel_tool_calls: bool | None
    response_format: ResponseFormat | None
    stream: bool | None
    stream_options: StreamOptions | None
    reasoning_effort: Name | None
    verbosity: Name | None
    service_tier: Name | None
    store: bool | None
    metadata: Metadata | None
    user: str | None


@with_config(_LENIENT)
class ChatCompletionRequest(ChatOptions, total=False):
    model: Required[Model]
    messages: Required[Messages]


CHAT_COMPLETION_REQUEST: Final = TypeAdapter(ChatCompletionRequest)
_TAGGED: Final = frozenset({"messages"})

_validate = CHAT_COMPLETION_REQUEST.validator.validate_python


def check_chat_completion(body: Mapping[str, Any]) -> None:
    """Raises InvalidRequest (422) with path and problem of what is wrong."""
    try:
        _validate(body)
    except ValidationError as exc:
        raise from_pydantic(exc, tagged=_TAGGED) from None
