"""multipart/form-data, parsed while it arrives: what a part holds is never gathered here.

    async with aclosing(read_parts(request.receive, boundary, limit=...)) as parts:
        async for event in parts:
            match event:
                case PartBegins(name="file"): ...
                case PartData(data): ...

python-multipart does the parsing. Everything about a message that a careful client would not
send is refused as a BadRequest: an end that is missing, a part without a name, more parts or
longer headers than a form has.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Final, TypeAlias

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from api.request_body import too_large
from shared.errors import BadRequest, UnsupportedContent

MAX_PARTS: Final = 16
_MAX_HEADERS: Final = 8
_MAX_HEADER_BYTES: Final = 4_096
_BOUNDARY: Final = re.compile(rb"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]\Z")
_ENCODINGS: Final = frozenset({"7bit", "8bit", "binary"})


@dataclass(frozen=True, slots=True)
class PartBegins:
    """`filename`: None where the part is a plain field."""

    name: str
    filename: str | None


@dataclass(frozen=True, slots=True)
class PartData:
    data: bytes


@dataclass(frozen=True, slots=True)
class PartEnds:
    pass


Event: TypeAlias = PartBegins | PartData | PartEnds


def boundary_of(content_type: str) -> bytes:
    """Raises UnsupportedContent, BadRequest."""
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        raise UnsupportedContent("The Content-Type of the request must be multipart/form-data.")
    boundary = options.get(b"boundary", b"")
    if not _BOUNDARY.match(boundary):
        raise BadRequest("The Content-Type names no boundary that multipart/form-data could have.")
    return boundary


async def read_parts(receive: Receive, boundary: bytes, *, limit: int) -> AsyncGenerator[Event]:
    """Raises BadRequest, PayloadTooLarge above `limit` bytes in all, ClientDisconnect."""
    form = _Form(boundary)
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body: bytes = message.get("body", b"")
        more = message.get("more_body", False)
        size += len(body)
        if size > limit:
            raise too_large(limit)
        for event in form.feed(body):
            yield event
    if not form.has_ended:
        raise BadRequest("The multipart body ends before its closing boundary.")


class _Form:
    """The parser's callbacks, as events."""

    def __init__(self, boundary: bytes) -> None:
        self.has_ended = False
        self._events: list[Event] = []
        self._parts = 0
        self._name = b""
        self._value = b""
        self._headers: dict[str, str] = {}
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._on_part_begin,
                "on_header_field": self._on_header_field,
                "on_header_value": self._on_header_value,
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers_finished,
                "on_part_data": self._on_part_data,
                "on_part_end": self._on_part_end,
                "on_end": self._on_end,
            },
            max_header_count=_MAX_HEADERS,
            max_header_size=_MAX_HEADER_BYTES,
        )

    def feed(self, data: bytes) -> list[Event]:
        self._events = []
        # What follows the end is no part of the form: it is read, and counted by the caller.
        if data and not self.has_ended:
            try:
                self._parser.write(data)
            except FormParserError as exc:
                raise BadRequest("The body is not well-formed multipart/form-data.") from exc
        return self._events

    def _on_part_begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise BadRequest(f"The form has more than {MAX_PARTS} parts.")
        self._name, self._value, self._headers = b"", b"", {}

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        name = self._name.decode("latin-1").lower()
        if name in self._headers:
            raise BadRequest("A part of the form has a header twice.")
        self._headers[name] = self._value.decode("latin-1")
        self._name, self._value = b"", b""

    def _on_headers_finished(self) -> None:
        kind, options = parse_options_header(self._headers.get("content-disposition"))
        name = options.get(b"name")
        if kind != b"form-data" or name is None:
            raise BadRequest("A part of the form has no Content-Disposition with a name.")
        if self._headers.get("content-transfer-encoding", "binary").lower() not in _ENCODINGS:
            raise BadRequest("A part of the form has a Content-Transfer-Encoding.")
        filename = options.get(b"filename")
        self._events.append(PartBegins(_text(name), None if filename is None else _text(filename)))

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._events.append(PartData(data[start:end]))

    def _on_part_end(self) -> None:
        self._events.append(PartEnds())

    def _on_end(self) -> None:
        self.has_ended = True


def _text(name: bytes) -> str:
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise BadRequest("A name in the form is not UTF-8.") from exc
