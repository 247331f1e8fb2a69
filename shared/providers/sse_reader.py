"""Server-sent events of a provider, from bytes as they arrive. WHATWG HTML, 9.2.6.

Two liberties: ids and retry times are ignored, and an event without its closing
blank line at the end of the stream still counts, because providers forget it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from shared.errors import ProviderAnswerInvalid

MAX_EVENT_BYTES: Final = 1024 * 1024
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


@dataclass(slots=True)
class SseEvent:
    event: str = "message"
    data: bytes = b""


class SseReader:
    """Bytes in, whole events out. Lines end in LF, CRLF or CR; bytes may be split anywhere."""

    __slots__ = ("_after_cr", "_data", "_event", "_max_event_bytes", "_provider", "_size", "_start", "_tail")

    def __init__(self, provider: str, *, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._provider = provider
        self._max_event_bytes = max_event_bytes
        self._tail: list[bytes] = []
        """Pieces of the line whose end has not arrived."""
        self._data: list[bytes] = []
        self._event = ""
        self._size = 0
        """Bytes of the event under way, its unfinished line included."""
        self._after_cr = False
        self._start = True

    def feed(self, data: bytes) -> list[SseEvent]:
        """Events completed by `data`. Raises ProviderAnswerInvalid for one that is too large."""
        if not data:
            return []
        if self._after_cr or b"\r" in data:
            data = self._only_line_feeds(data)
        self._size += len(data)
        if b"\n" not in data:
            self._tail.append(data)
            self._check_size()
            return []
        if self._tail:
            self._tail.append(data)
            data = b"".join(self._tail)
        if self._start:
            data = data.removeprefix(_BYTE_ORDER_MARK)
            self._start = False
        lines = data.split(b"\n")
        rest = lines.pop()
        self._tail = [rest] if rest else []

        events: list[SseEvent] = []
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[6:] if line.startswith(b"data: ") else line[5:])
            elif not line:
                if self._data:
                    events.append(self._take())
                self._event = ""
            else:
                self._other_field(line)
        if events or not self._data:
            self._size = len(rest) + sum(map(len, self._data))
        self._check_size()
        return events

    def close(self) -> list[SseEvent]:
        """The event the stream ended in, if any."""
        return self.feed(b"\n\n")

    def _take(self) -> SseEvent:
        data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
        if len(data) > self._max_event_bytes:
            raise self._too_large()
        self._data = []
        return SseEvent(self._event or "message", data)

    def _other_field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if name == b"event":
            self._event = value.removeprefix(b" ").decode("utf-8", "replace")
        elif name == b"data":
            self._data.append(b"")

    def _only_line_feeds(self, data: bytes) -> bytes:
        # The LF of a CRLF that was split between two reads ends no second line.
        if self._after_cr and data.startswith(b"\n"):
            data = data[1:]
            self._after_cr = False
            if not data:
                return data
        self._after_cr = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _check_size(self) -> None:
        if self._size > self._max_event_bytes:
            raise self._too_large()

    def _too_large(self) -> ProviderAnswerInvalid:
        return ProviderAnswerInvalid(
            f"An event of the stream is larger than {self._max_event_bytes} bytes.", provider=self._provider
        )
