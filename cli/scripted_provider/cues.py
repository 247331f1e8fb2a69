"""Cues: what the next call should do instead of answering well.

Three ways to give one, the first that is present wins:

    header     x-script: {"status": 503}
    directive  the last user message begins with `!script {"status": 503}`; what
               follows on the next line is the text. A conversation that ends in
               a tool's result has had its directive already.
    preset     POST /_script {"cues": [{...}, {...}], "match": "text", "repeat": false}
               Later calls without a cue of their own take them in order, once each,
               or round and round with `repeat`; with `match`, only calls whose last
               user text contains it.
"""

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from functools import cached_property, lru_cache
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

DIRECTIVE = "!script "

Count = Annotated[int, Field(ge=0)]
Milliseconds = Annotated[float, Field(ge=0)]


class BadCue(Exception):
    """The cue is not JSON, or has a field or value nobody knows."""


class Cut(StrEnum):
    FIN = "fin"
    """The connection is closed in good order, early."""
    RST = "rst"
    """The connection is reset."""


class Hang(StrEnum):
    """Where the reply stops and the connection stays open, until the client gives up."""

    BEFORE_HEADERS = "before_headers"
    AFTER_HEADERS = "after_headers"
    MID_STREAM = "mid_stream"
    """After `cut_after_chunks` or `cut_at_byte`, else after one chunk or half a plain body."""


class Garbage(StrEnum):
    HTML = "html"
    """A proxy's HTML error page."""
    TRUNCATED_JSON = "truncated_json"
    """JSON that stops half way, in a body or in each chunk that HTTP calls complete."""
    WRONG_SCHEMA = "wrong_schema"
    """Valid JSON of another shape."""
    INVALID_UTF8 = "invalid_utf8"
    """The bytes FF FE inside the text."""
    NAN = "nan"
    """NaN where a number belongs, as Python's json would write it."""
    BAD_SSE = "bad_sse"
    """Chunks without `data:` and without blank lines; an SSE body where JSON was asked for."""


@dataclass(frozen=True)
class ScriptedTool:
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: str
    arguments: dict[str, Any] | str
    """An object, or the text to send as it is."""


@dataclass(frozen=True)
class FailTimes:
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    key: str
    n: Count


@dataclass(frozen=True, kw_only=True, eq=False)
class Cue:
    """One call's part. Byte positions count the body, not headers and not chunked framing."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: str | None = None
    """What the call log says; by default the names of the fields that are set."""

    text: str | None = None
    """Answer with this text."""
    size: Count | None = None
    """Answer with this many bytes of text."""
    chunks: Count | None = None
    """Stream this many chunks: of `text` or `size` cut evenly, else `chunk_text` each time."""
    chunk_text: str | None = None
    """Text of each chunk, "tick " by default."""
    tool_calls: tuple[ScriptedTool, ...] = ()
    """Call these tools, in parallel when there are several."""
    finish_reason: str | None = None
    """OpenAI's names are translated for Anthropic and back; others are sent as they are."""
    no_usage: bool = False
    """Report no token usage."""

    status: Annotated[int, Field(ge=200, le=599)] | None = None
    """Status; from 400 on with an error body in the dialect's form."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Header lines to add, in place of ours of the same name."""
    body: str | None = None
    """The whole body, as it is."""
    error_message: str | None = None
    """Message of an error reply or frame; alone it means status 500."""
    error_code: str | None = None
    """Code of an OpenAI error, type of an Anthropic one; alone it means status 500."""
    golden: Annotated[str, Field(pattern=r"^[a-z0-9_.]+$")] | None = None
    """Answer with the file of that name from the golden folder of the provider that the path names,
    `.json` or, where the call streams, `.sse`; needs --golden."""
    pending: Count = 0
    """Answer 202 and an NVCF-REQID, and 202 again to so many questions less one below /status/."""
    redirect: str | None = None
    """Answer 307, or `status`, with this Location."""

    before_headers_ms: Milliseconds = 0
    """Wait before the status line."""
    before_body_ms: Milliseconds = 0
    """Wait between headers and body."""
    between_chunks_ms: Milliseconds = 0
    """Wait between frames."""
    slow_drip_ms: Milliseconds = 0
    """Send the body one byte at a time, this far apart."""
    split_writes: bool = False
    """Cut every write into pieces of 1 to 7 bytes, also inside a UTF-8 sequence."""
    keepalive_comments: Count = 0
    """Comments before the first frame of a stream; blank lines before a plain body."""

    cut: Cut | None = None
    """How to close early; alone, before any byte of the reply."""
    cut_at_byte: Count | None = None
    """Close after this many bytes of the body."""
    cut_after_chunks: Count | None = None
    """Close after this many chunks; a plain body is cut in half."""
    hang: Hang | None = None
    """Stop sending and hold the connection."""
    no_done: bool = False
    """End the stream without its last frame ([DONE], message_stop)."""
    error_in_stream: Count | None = None
    """An error frame after this many chunks, then the end; a plain reply is a 200 with an error body."""
    garbage: Garbage | None = None
    """Send something unreadable."""
    huge_body_mb: Count = 0
    """Text of this many MB, in one frame of a stream."""
    gzip_bomb_mb: Count = 0
    """The same, compressed, with content-encoding: gzip."""
    huge_header_kb: Count = 0
    """An x-padding header of this many kB."""

    fail_times: FailTimes | None = None
    """Do all this for the first `n` calls with this `key` (503 if nothing here fails), then answer well."""

    @cached_property
    def label(self) -> str:
        return self.name or ",".join(self._set_fields)

    @cached_property
    def shapes_answer_only(self) -> bool:
        """Whether the reply is a proper one, so that it can leave in a single write."""
        return _SHAPING.issuperset(self._set_fields)

    @cached_property
    def healed(self) -> "Cue":
        """What remains once `fail_times` is spent."""
        return replace(Cue(), **{name: getattr(self, name) for name in _SHAPING})

    @cached_property
    def failing(self) -> "Cue":
        """What `fail_times` does until it is spent."""
        fails = set(self._set_fields) - _SHAPING - {"fail_times"}
        return self if fails else replace(self, status=503)

    @cached_property
    def _set_fields(self) -> list[str]:
        return [name for name, default in _DEFAULTS.items() if getattr(self, name) != default]


_SHAPING = frozenset(
    {"name", "text", "size", "chunks", "chunk_text", "tool_calls", "finish_reason", "no_usage"}
)
_CUE = TypeAdapter(Cue)
_DEFAULTS = asdict(Cue())


@lru_cache(maxsize=4096)
def read_cue(raw: bytes | str) -> Cue:
    """Raises BadCue. The same JSON gives the same object, so a repeated cue is parsed once."""
    try:
        return _CUE.validate_json(raw)
    except ValidationError as exc:
        raise BadCue(_first_complaint(exc)) from exc


@dataclass(frozen=True)
class Preset:
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    cues: tuple[Cue, ...]
    match: str | None = None
    repeat: bool = False


_PRESET = TypeAdapter(Preset)


class CueSheet:
    """Finds the cue of each call, and remembers what presets and `fail_times` have spent."""

    def __init__(self) -> None:
        self._presets: list[tuple[Preset, deque[Cue]]] = []
        self._failures: Counter[str] = Counter()

    def preset(self, raw: bytes) -> None:
        """Raises BadCue."""
        try:
            preset = _PRESET.validate_json(raw)
        except ValidationError as exc:
            raise BadCue(_first_complaint(exc)) from exc
        self._presets.append((preset, deque(preset.cues)))

    def clear(self) -> None:
        self._presets.clear()
        self._failures.clear()

    def cue_for(self, *, header: bytes | None, directive: str | None, text: str) -> Cue | None:
        """Raises BadCue."""
        if header is not None:
            cue: Cue | None = read_cue(header)
        elif directive is not None:
            cue = read_cue(directive)
        else:
            cue = self._take(text) if self._presets else None
        if cue is None or cue.fail_times is None:
            return cue
        key = cue.fail_times.key
        if self._failures[key] >= cue.fail_times.n:
            return cue.healed
        self._failures[key] += 1
        return cue.failing

    def _take(self, text: str) -> Cue | None:
        for preset, left in self._presets:
            if left and (preset.match is None or preset.match in text):
                cue = left.popleft()
                if preset.repeat:
                    left.append(cue)
                return cue
        return None


def split_directive(text: str) -> tuple[str | None, str]:
    """The directive's JSON and the text behind it."""
    if not text.startswith(DIRECTIVE):
        return None, text
    directive, _, rest = text[len(DIRECTIVE) :].partition("\n")
    return directive, rest


def _first_complaint(exc: ValidationError) -> str:
    first = exc.errors(include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "cue"
    return f"{where}: {first['msg']}"
