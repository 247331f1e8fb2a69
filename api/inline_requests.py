"""The requests in the body that creates a batch, taken out of it while it arrives.

    {"requests": [one, one, ...], "metadata": {...}}
                  each by itself  ── what is left, with `[]` for the list, is a small document

No more than one request and a chunk is held. Nothing is judged here but where things begin and end: each
part is parsed as strictly as any body, so that brackets that do not match are told by whatever parses them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from api.request_body import too_large
from shared.errors import InvalidJson, TooComplex

MAX_REST_BYTES: Final = 64 * 1024
"""What the body may say besides its requests."""

_STRUCTURE: Final = re.compile(rb'["{}\[\],]')
_BRACKET: Final = re.compile(rb'["{}\[\]]')
_TO_STRING_END: Final = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_IS_OF_REQUESTS: Final = re.compile(rb'(?<!\\)"requests"[ \t\r\n]*:[ \t\r\n]*\Z')
_KEY_BYTES: Final = 256
"""Where its key is looked for, before the list."""
_QUOTE, _COMMA, _OPEN, _CLOSE = b'",[]'
_OPENING: Final = b"[{"


class Splitter:
    """`max_bytes`, `max_nodes`: of one request. `max_all_nodes`: of all together."""

    def __init__(self, *, max_bytes: int, max_nodes: int, max_all_nodes: int) -> None:
        self._max_bytes = max_bytes
        self._max_nodes = max_nodes
        self._nodes_left = max_all_nodes
        self._data = bytearray()
        self._rest = bytearray()
        self._at = 0
        self._begin = 0
        """In the data: where the request began that is read, or what is not in the rest yet."""
        self._depth = 0
        self._nodes = 0
        self._taken = 0
        self._in_text = False
        self._in_requests = False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Requests that end in it, as they were written. Raises PayloadTooLarge, TooComplex."""
        self._data += chunk
        while self._find():
            byte = self._data[self._at - 1]
            is_between = self._in_requests and self._depth == 2
            if byte == _COMMA:
                yield self._request()
            elif byte in _OPENING:
                self._open(byte)
            elif is_between:
                if byte != _CLOSE:
                    raise InvalidJson("The body is not valid JSON: the list `requests` ends in a brace.")
                if self._taken or self._data[self._begin : self._at - 1].strip():
                    yield self._request()
                self._in_requests = False
                self._depth -= 1
                self._begin = self._at - 1
            else:
                self._depth -= 1
        self._shrink()

    def rest(self) -> bytes:
        """All but the requests, once there are no more chunks. Raises InvalidJson."""
        if self._in_requests or self._in_text:
            raise InvalidJson("The body is not valid JSON: it ends too early.")
        return bytes(self._rest)

    def _find(self) -> bool:
        """Whether there is one more byte that means something where we are; then we are behind it.

        What lies within a request is passed over here, as its brackets may be millions.
        """
        data, at, depth, nodes, in_text = self._data, self._at, self._depth, self._nodes, self._in_text
        in_requests, before = self._in_requests, self._nodes
        is_found = False
        while True:
            if in_text:
                text = _TO_STRING_END.match(data, at)
                at = len(data) if text is None else text.end()
                if at == len(data) or data[at] != _QUOTE:
                    break  # it goes on, perhaps behind a backslash
                in_text = False
                at += 1
            found = (_STRUCTURE if in_requests and depth == 2 else _BRACKET).search(data, at)
            if found is None:
                at = len(data)
                break
            at = found.end()
            byte = data[at - 1]
            if byte == _QUOTE:
                in_text = True
            elif not in_requests or depth == 2:
                is_found = True
                break
            elif byte in _OPENING:
                depth += 1
                nodes += 1
            else:
                depth -= 1
        self._at, self._depth, self._nodes, self._in_text = at, depth, nodes, in_text
        self._count(nodes - before)
        return is_found

    def _open(self, byte: int) -> None:
        self._depth += 1
        self._nodes += 1
        self._count(1)
        if byte != _OPEN or self._depth != 2 or self._in_requests:
            return
        self._rest += self._data[self._begin : self._at]
        before = len(self._rest) - 1
        if _IS_OF_REQUESTS.search(self._rest, max(0, before - _KEY_BYTES), before):
            self._in_requests, self._nodes = True, 0
        self._begin = self._at

    def _request(self) -> bytes:
        """The one that ends before the byte that was just read."""
        found = bytes(self._data[self._begin : self._at - 1])
        self._begin, self._nodes = self._at, 0
        self._taken += 1
        self._check(len(found))
        return found

    def _count(self, more: int) -> None:
        self._nodes_left -= more
        if self._nodes > self._max_nodes or self._nodes_left < 0:
            raise TooComplex("The body holds more values than may be in one.")

    def _shrink(self) -> None:
        if self._in_requests:
            self._check(len(self._data) - self._begin)
        else:
            self._rest += self._data[self._begin : self._at]
            self._begin = self._at
        if len(self._rest) > MAX_REST_BYTES:
            raise too_large(MAX_REST_BYTES)
        del self._data[: self._begin]
        self._at -= self._begin
        self._begin = 0

    def _check(self, size: int) -> None:
        if size > self._max_bytes:
            raise too_large(self._max_bytes)
