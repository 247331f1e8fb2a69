"""Logs: events with fields, one line each, through loguru.

    from loguru import logger as log
    log.info("job reclaimed", job_id=job.id, idle_seconds=31.4)

The template is constant, what varies is a field: loguru formats the template with the
fields, so braces in somebody's text do nothing. Lines are JSON, or readable text on a
terminal. Values under telling names (password, authorization, prompt, ...) and anything
that looks like a key, a token or a password in a URL are masked; control characters are
escaped; long text is cut. Records of the standard library arrive here from WARNING on.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import orjson
from loguru import logger

from shared.observability import tracing
from shared.settings import LogSettings

if TYPE_CHECKING:
    from loguru import Message

MASK: Final = "[redacted]"
MAX_TEXT_CHARS: Final = 2_000
MAX_TRACEBACK_CHARS: Final = 20_000

_INFO: Final = 20
_SECRET_NAME: Final = re.compile(
    r"(?:^|[_.-])(?:authorization|proxy-authorization|password|passwd|secret|pepper|cookie|jwt|credentials?"
    r"|api[_-]?key|apikey|(?:access|refresh|id|auth|bearer)?[_-]?token)\Z",
    re.IGNORECASE,
)
_CALLERS_TEXT: Final = frozenset({"prompt", "completion", "messages", "content", "body", "input", "output"})
_SECRETS: Final = re.compile(
    rb"(?P<key>\b(?:sk-|gw_live_|gw_test_|hf_|xai-|pplx-|nvapi-|AIza|hrmaster_)[A-Za-z0-9_-]{4,})"
    rb"|(?P<bearer>\b[Bb]earer +)[A-Za-z0-9._~+/=-]+"
    rb"|(?P<jwt>\beyJ[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*)"
    rb"|(?P<url>\b[a-z][a-z0-9+.]{1,20}://[^\s:/@\"\\]*:)[^\s@\"\\]+(?=@)"
    rb"|(?P<query>[?&](?:key|api_key|token|access_token)=)[^\s&\"\\]+"
)
_HINTS: Final = (
    *(b"sk-", b"gw_", b"hf_", b"xai-", b"pplx-", b"nvapi-", b"AIza", b"hrmaster_"),
    *(b"earer ", b"eyJ", b"://", b"key=", b"token="),
)
"""One of these stands in whatever _SECRETS finds; looking for them costs a twentieth."""
_CONTROLS: Final = re.compile(rb"\x7f|\xc2[\x80-\x9f]|\xe2\x80[\xa8\xa9]")
_QUIET: Final = ("uvicorn", "uvicorn.error", "uvicorn.access", "httpx", "httpcore", "arq", "sqlalchemy")
_COLOURS: Final = {"WARNING": "33", "ERROR": "31", "CRITICAL": "31;1", "DEBUG": "2", "TRACE": "2"}


class _Writer:
    """Turns events into lines on a stream. A stream that breaks loses lines, never a request."""

    def __init__(
        self, stream: BinaryIO, *, as_json: bool, colours: bool, level: int, region: str = ""
    ) -> None:
        self._stream = stream
        self._as_json = as_json
        self._region = region if as_json else ""
        self._colours = colours
        self.level = level

    def event(self, level: str, event: str, fields: Mapping[str, Any], *, trace: str = "") -> None:
        line: dict[str, Any] = {"time": datetime.now(UTC), "level": level, "event": _cut(event)}
        for name, value in fields.items():
            line[name] = _harmless(name, value)
        if self._region:
            line["region"] = self._region
        if tracing.active is not None and (ids := tracing.ids()) is not None:
            line["trace_id"], line["span_id"] = ids
        if trace:
            line["traceback"] = trace[-MAX_TRACEBACK_CHARS:]
        text = mask(_encode(line) if self._as_json else self._readable(line))
        if b"\x7f" in text or b"\xc2" in text or b"\xe2\x80" in text:
            text = _CONTROLS.sub(_escape, text)
        try:
            self._stream.write(text + b"\n")
            self._stream.flush()
        except (OSError, ValueError):
            return

    def sink(self, message: Message) -> None:
        """What loguru calls; `message` itself holds nothing but the traceback, if there is one."""
        record = message.record
        self.event(record["level"].name, record["message"], record["extra"], trace=message.strip())

    def _readable(self, line: dict[str, Any]) -> bytes:
        when: datetime = line.pop("time")
        level: str = line.pop("level")
        event: str = line.pop("event")
        trace: str = line.pop("traceback", "")
        text = f"{when.astimezone():%H:%M:%S.%f}"[:12] + f" {level:<7} {_visible(event)}"
        for name, value in line.items():
            text += f"  {name}={_visible(value if isinstance(value, str) else _encode(value).decode())}"
        if self._colours and level in _COLOURS:
            text = f"\x1b[{_COLOURS[level]}m{text}\x1b[0m"
        if trace:
            text += "\n" + "\n".join(_visible(row) for row in trace.splitlines())
        return text.encode("utf-8", "backslashreplace")


_writer: _Writer | None = None


def configure(settings: LogSettings, *, region: str = "", stream: BinaryIO | None = None) -> None:
    """Send every log record of this process to `stream` (stderr). Call once, at start.

    `region`: in each line of JSON, where there is one.

    uvicorn wants `log_config=None, access_log=False` beside it.
    """
    global _writer  # noqa: PLW0603 - a process has one log
    out = stream or sys.stderr.buffer
    terminal = out.isatty()
    _writer = _Writer(
        out,
        as_json=settings.format == "json" or (settings.format == "auto" and not terminal),
        colours=terminal,
        level=logger.level(settings.level).no,
        region=region,
    )
    logger.remove()
    # diagnose prints values of local variables; backtrace frames beyond our own.
    logger.add(
        _writer.sink,
        level=settings.level,
        format="",
        diagnose=False,
        backtrace=False,
        colorize=False,
    )
    logging.root.handlers = [_StandardLibrary()]
    logging.root.setLevel(logging.WARNING)
    for name in _QUIET:
        other = logging.getLogger(name)
        other.handlers.clear()
        other.setLevel(logging.WARNING)
        other.propagate = True


def log_fast(event: str, fields: Mapping[str, Any]) -> None:
    """An INFO event past loguru, which costs several times the line itself: for one line a request."""
    if _writer is None:
        logger.bind(**fields).info(event)
    elif _writer.level <= _INFO:
        _writer.event("INFO", event, fields)


def mask(text: bytes) -> bytes:
    """`text` without what looks like a secret."""
    for hint in _HINTS:
        if hint in text:
            return _SECRETS.sub(_masked, text)
    return text


class _StandardLibrary(logging.Handler):
    """Hands records of `logging` to loguru; their text is no template there."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
        except Exception:
            text = str(record.msg)
        level: str | int = record.levelname if record.levelname in _LEVELS else record.levelno
        logger.bind(logger=record.name).opt(exception=record.exc_info).log(level, text)


_LEVELS: Final = frozenset({"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"})
_secret_names: Final[dict[str, bool]] = {}


def _harmless(name: str, value: Any) -> Any:
    kind = type(value)
    if kind is int or kind is float or kind is bool or value is None:
        return value
    secret = _secret_names.get(name)
    if secret is None:
        secret = _SECRET_NAME.search(name) is not None or name in _CALLERS_TEXT
        if len(_secret_names) < 1_000:
            _secret_names[name] = secret
    if secret:
        return MASK
    if kind is str:
        return value if len(value) <= MAX_TEXT_CHARS else _cut(value)
    if isinstance(value, Mapping):
        return {str(key): _harmless(str(key), below) for key, below in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_harmless("", below) for below in value]
    return _cut(str(value))


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT_CHARS else f"{text[:MAX_TEXT_CHARS]}... ({len(text)} characters)"


def _visible(text: str) -> str:
    return text if text.isprintable() else text.encode("unicode_escape", "backslashreplace").decode("ascii")


def _encode(value: Any) -> bytes:
    try:
        return orjson.dumps(value, default=str, option=orjson.OPT_UTC_Z)
    except TypeError:
        # Half of a surrogate pair, or an integer beyond 64 bits.
        return json.dumps(value, default=str, ensure_ascii=False).encode("utf-8", "replace")


def _masked(match: re.Match[bytes]) -> bytes:
    kept = match["bearer"] or match["url"] or match["query"] or b""
    return kept + MASK.encode()


def _escape(match: re.Match[bytes]) -> bytes:
    return f"\\u{ord(match[0].decode()):04x}".encode()
