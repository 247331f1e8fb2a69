"""The content of a file on its way out: never shown by a browser, in whole or a range of it."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final
from urllib.parse import quote

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from shared.errors import BadRequest

_RANGE: Final = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})\Z", re.ASCII)


class RangeNotSatisfiable(BadRequest):
    code, status = "range_not_satisfiable", 416

    def __init__(self, size: int) -> None:
        super().__init__("The file has no such bytes.", details={"bytes": size})
        self.headers = [(b"content-range", b"bytes */%d" % size)]


def range_of(header: str | None, size: int) -> range | None:
    """None for all of it: of several ranges, or of what is no range, no server need take notice
    (RFC 9110, 14.2). Raises RangeNotSatisfiable.
    """
    asked = None if header is None else _RANGE.match(header)
    if asked is None or asked[0] == "bytes=-":
        return None
    if not asked[1]:
        start, end = max(0, size - int(asked[2])), size
    else:
        start = int(asked[1])
        end = min(size, int(asked[2]) + 1) if asked[2] else size
        if asked[2] and int(asked[2]) < start:
            return None
    if start >= end:
        raise RangeNotSatisfiable(size)
    return range(start, end)


class FileContent(StreamingResponse):
    """`part`: of `size` bytes; None for all of them."""

    def __init__(
        self, chunks: AsyncGenerator[bytes], *, filename: str, size: int, part: range | None
    ) -> None:
        self._chunks = chunks
        ascii_name = re.sub(r"[^ !#-\[\]-~]|%", "_", filename)
        headers = {
            "content-length": str(size if part is None else len(part)),
            "content-disposition": (
                f"attachment; filename=\"{ascii_name}\"; filename*=UTF-8''{quote(filename, safe='')}"
            ),
            "accept-ranges": "bytes",
        }
        if part is not None:
            headers["content-range"] = f"bytes {part.start}-{part.stop - 1}/{size}"
        status = 200 if part is None else 206
        super().__init__(chunks, status, headers, media_type="application/octet-stream")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._chunks):
            await super().__call__(scope, receive, send)
