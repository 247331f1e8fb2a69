"""What a dialect must do: read a prompt, and say an answer in its own wire form."""

from dataclasses import dataclass
from typing import Any, Protocol


class BadPrompt(Exception):
    """The body is not a request of this dialect. `parameter` names the field at fault."""

    def __init__(self, message: str, *, parameter: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.message, self.parameter, self.status = message, parameter, status


class Chunk(bytes):
    """An SSE frame that carries a piece of the answer; other frames are plain bytes."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class OfferedTool:
    name: str
    schema: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ToolUse:
    """`arguments` is JSON text, broken JSON included when a cue asks for it."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """A request as far as an answer depends on it. `text` is that of the last user message."""

    model: str
    stream: bool
    include_usage: bool
    text: str
    characters: int
    tool_result: str | None
    tool: OfferedTool | None
    material: Any = None
    """What else the endpoint answers from; only it looks inside."""


@dataclass(frozen=True, slots=True)
class Answer:
    """`pieces` is how a stream cuts `text`; `finish_reason` is None unless a cue sets it."""

    token: str
    created: int
    model: str
    text: str
    pieces: list[str]
    tool_uses: tuple[ToolUse, ...]
    finish_reason: str | None
    prompt_tokens: int
    completion_tokens: int
    usage_reported: bool
    usage_streamed: bool
    material: Any = None


class Dialect(Protocol):
    def read_prompt(self, body: dict[str, Any]) -> Prompt:
        """Raises BadPrompt."""

    def render_headers(self, request_id: bytes) -> bytes:
        """Header lines the real provider adds to every response, CRLF after each."""

    def render_answer(self, answer: Answer) -> bytes:
        """The body of a plain reply."""

    def render_frames(self, answer: Answer) -> list[bytes]:
        """The SSE frames in order; those with a piece of the answer are `Chunk`s."""

    def render_error(
        self, *, status: int, message: str, code: str | None, parameter: str | None, request_id: bytes
    ) -> bytes:
        """The body of an error reply, with the type this provider gives that status."""

    def render_error_frame(self, *, message: str, code: str | None) -> bytes:
        """The SSE frame of an error after the stream has begun."""

    def render_models(self, created: int) -> bytes:
        """The model list."""

    def render_model(self, model: str, created: int) -> bytes:
        """One entry of the model list."""


MODELS = ("scripted-large", "scripted-small")


def text_of(content: object) -> str:
    """The text of a message's content: a string, or the text parts of a list joined."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return "".join(part["text"] for part in content if isinstance(part, dict) and _is_text(part))


def _is_text(part: dict[str, Any]) -> bool:
    return part.get("type") == "text" and isinstance(part.get("text"), str)
