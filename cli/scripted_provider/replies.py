"""Replies as bytes: a status line, headers, and a body sent whole or in frames."""

import time
from collections.abc import Mapping
from email.utils import formatdate
from http import HTTPStatus

JSON = b"application/json"
EVENTS = b"text/event-stream; charset=utf-8"
HTML = b"text/html; charset=utf-8"

_STATUS_LINES = {status.value: f"{status.value} {status.phrase}".encode() for status in HTTPStatus}
_STATUS_LINES[529] = b"529 Overloaded"


class WallClock:
    """The current second and its HTTP date, rendered once a second."""

    def __init__(self) -> None:
        self._second, self._date = 0, b""

    def read(self) -> tuple[float, int, bytes]:
        """Unix time, the same in whole seconds, and the value of a Date header."""
        now = time.time()
        second = int(now)
        if second != self._second:
            self._second, self._date = second, formatdate(second, usegmt=True).encode()
        return now, second, self._date


def render_head(
    status: int, *, date: bytes, content_type: bytes, length: int | None, provider_headers: bytes
) -> bytes:
    """Status line and headers. No `length` means chunked framing."""
    return b"HTTP/1.1 %b\r\ndate: %b\r\ncontent-type: %b\r\n%b%b\r\n" % (
        _STATUS_LINES.get(status) or b"%d Scripted" % status,
        date,
        content_type,
        b"transfer-encoding: chunked\r\ncache-control: no-cache\r\n"
        if length is None
        else b"content-length: %d\r\n" % length,
        provider_headers,
    )


def override_headers(head: bytes, headers: Mapping[str, str]) -> bytes:
    """`head` with `headers` in place of those of the same name."""
    taken = {name.lower().encode() for name in headers}
    status_line, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    kept = [line for line in lines if line.partition(b":")[0].lower() not in taken]
    ours = [f"{name}: {value}".encode("latin-1", "replace") for name, value in headers.items()]
    return b"\r\n".join([status_line, *kept, *ours, b"", b""])


def chunked(payload: bytes) -> bytes:
    """`payload` as one chunk of chunked framing. Empty stays empty: an empty chunk is the end."""
    return b"%x\r\n%b\r\n" % (len(payload), payload) if payload else b""


LAST_CHUNK = b"0\r\n\r\n"
