"""HOT PATH. The head of an answer: what uvicorn writes, in half its time where the answer is a usual one.

uvicorn looks at each name and value with a regular expression of its own, and most of what it writes are
the same names. Here a name is looked at once; values are looked at together.

An answer that does not wait for the end of a body says that the connection closes, where it may have to be:
a caller that is still sending would else meet a reset with its next request.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Final, Protocol, cast

from uvicorn._types import ASGISendEvent
from uvicorn.protocols.http.httptools_impl import HEADER_RE, STATUS_LINE, RequestResponseCycle

_CONTROLS: Final = bytes(byte for byte in (*range(32), 127) if byte != 9)
"""What no value may have in it: as uvicorn's HEADER_VALUE_RE."""
_OF_THE_CONNECTION: Final = frozenset({b"connection", b"transfer-encoding"})
_WITHOUT_BODY: Final = frozenset({204, 304})
_MOST_NAMES: Final = 512

_known: set[bytes] = {b"content-length"}
"""Names that may stand in a head as they are, and say nothing of how it is sent."""


class Transport(Protocol):
    def hears_out(self) -> bool:
        """Whether a connection outlives an answer that is given now, before the end of the body came."""


class Cycle(RequestResponseCycle):
    """uvicorn's own, which also does all that is not usual."""

    async def send(self, message: ASGISendEvent) -> None:
        if message["type"] == "http.response.start":
            if self.more_body and self.keep_alive:
                self.keep_alive = cast(Transport, self.transport).hears_out()
            if self._is_usual():
                head = self._head(message["status"], chain(self.default_headers, message.get("headers", ())))
                if head is not None:
                    self.response_started = True
                    self.waiting_for_100_continue = False
                    self.transport.write(head)
                    return
        await super().send(message)

    def _is_usual(self) -> bool:
        return (
            self.keep_alive
            and not self.response_started
            and not self.disconnected
            and not self.flow.write_paused
            and self.chunked_encoding is None
        )

    def _head(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
        """None where it is not a usual one. A length that is told is one that is kept to."""
        length = None
        lines = []
        for name, value in headers:
            if name not in _known and not _learned(name):
                return None
            if name == b"content-length":
                if length is not None:
                    return None
                length = value
            lines.append(b"%s: %s" % (name, value))
        if length is None or not length.isdigit() or status in _WITHOUT_BODY:
            return None
        block = b"\r\n".join(lines)
        # None but those between the lines.
        if len(block) - len(block.translate(None, _CONTROLS)) != 2 * (len(lines) - 1):
            return None
        self.expected_content_length = int(length)
        self.chunked_encoding = False
        return b"%s%s\r\n\r\n" % (STATUS_LINE[status], block)


def _learned(name: bytes) -> bool:
    if name in _OF_THE_CONNECTION or name != name.lower() or not name or HEADER_RE.search(name):
        return False
    if len(_known) < _MOST_NAMES:
        _known.add(name)
    return True
