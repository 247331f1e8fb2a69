"""Turns an answer and a cue into what the connection will do, byte for byte."""

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import chain, repeat

import orjson

from cli.scripted_provider.cues import Cue, Cut, Garbage, Hang
from cli.scripted_provider.dialect import Answer, Chunk, Dialect
from cli.scripted_provider.replies import EVENTS, HTML, JSON, override_headers, render_head

_MEGABYTE = b"a" * 1_000_000
_MARK = "@huge@"
_HTML_PAGE = b"<html><head><title>502 Bad Gateway</title></head><body>502 Bad Gateway</body></html>\n"
_SURPRISE = orjson.dumps(
    {"object": "surprise", "choices": "none", "content": 7, "delta": [], "message": 1, "usage": []}
)
_A_NUMBER = re.compile(rb'"(created|input_tokens|index)":\d+')
_SOME_TEXT = re.compile(rb'"(content|text|arguments|partial_json)":"')


class Ending(StrEnum):
    COMPLETE = "complete"
    FIN = "fin"
    RST = "rst"
    HANG = "hang"


@dataclass(frozen=True, slots=True)
class Scene:
    """`head` is empty when not one byte is to be sent; `status` is None then."""

    status: int | None
    head: bytes
    frames: list[bytes]
    is_chunked: bool
    ending: Ending


@dataclass(frozen=True, slots=True)
class _Body:
    status: int
    content_type: bytes
    frames: list[bytes]
    is_chunked: bool


def stage(
    cue: Cue, answer: Answer, *, dialect: Dialect, stream: bool, request_id: bytes, date: bytes
) -> Scene:
    if cue.hang is Hang.BEFORE_HEADERS:
        return Scene(None, b"", [], False, Ending.HANG)
    if cue.cut and cue.cut_at_byte is None and cue.cut_after_chunks is None:
        return Scene(None, b"", [], False, Ending(cue.cut.value))

    body = _body(cue, answer, dialect=dialect, stream=stream, request_id=request_id)
    headers = dict(cue.headers)
    if cue.redirect is not None:
        headers["location"] = cue.redirect
    if cue.gzip_bomb_mb:
        headers["content-encoding"] = "gzip"
        body = replace(body, frames=list(_gzip(body.frames)))
    if cue.huge_header_kb:
        headers["x-padding"] = "a" * (cue.huge_header_kb * 1000)
    if cue.keepalive_comments:
        comment = b": keep-alive\n\n" if body.is_chunked else b"\n"
        body = replace(body, frames=[comment] * cue.keepalive_comments + body.frames)

    head = render_head(
        body.status,
        date=date,
        content_type=body.content_type,
        length=None if body.is_chunked else sum(map(len, body.frames)),
        provider_headers=dialect.render_headers(request_id),
    )
    return Scene(
        status=body.status,
        head=override_headers(head, headers) if headers else head,
        frames=_until_ending(cue, body.frames),
        is_chunked=body.is_chunked,
        ending=_ending(cue),
    )


def _body(cue: Cue, answer: Answer, *, dialect: Dialect, stream: bool, request_id: bytes) -> _Body:
    status = cue.status or 200
    if cue.redirect is not None:
        return _Body(cue.status or 307, JSON, [b""], False)
    if cue.body is not None:
        streams = stream and status < 400
        return _Body(status, EVENTS if streams else JSON, [cue.body.encode()], streams)
    if cue.garbage is Garbage.HTML:
        return _Body(status, HTML, [_HTML_PAGE], False)
    if _is_error(cue):
        status = cue.status or (500 if cue.error_in_stream is None else 200)
        message = cue.error_message or f"Scripted status {status}."
        error = dialect.render_error(
            status=status, message=message, code=cue.error_code, parameter=None, request_id=request_id
        )
        if not (stream and cue.error_in_stream is not None):
            return _Body(status, JSON, [error], False)

    huge = cue.huge_body_mb or cue.gzip_bomb_mb
    if huge:
        answer = replace(answer, text=_MARK, pieces=[_MARK] if stream else [], tool_uses=())
    frames = dialect.render_frames(answer) if stream else [dialect.render_answer(answer)]
    if huge:
        frames = list(chain.from_iterable(_inflate(frame, huge) for frame in frames))
    if stream:
        return _Body(status, EVENTS, _script_stream(cue, frames, dialect), True)
    if cue.garbage is Garbage.BAD_SSE:
        return _Body(status, EVENTS, [b"data: " + frames[0] + b"\n\n"], False)
    return _Body(status, JSON, [_spoil(frame, cue.garbage) for frame in frames], False)


def _is_error(cue: Cue) -> bool:
    """An error body is asked for. A status below 400 keeps the answer unless an error is described."""
    if cue.status is not None and cue.status >= 400:
        return cue.garbage is None
    return cue.error_in_stream is not None or cue.error_message is not None or cue.error_code is not None


def _script_stream(cue: Cue, frames: list[bytes], dialect: Dialect) -> list[bytes]:
    if cue.garbage:
        frames = [_spoil(frame, cue.garbage) if isinstance(frame, Chunk) else frame for frame in frames]
    if cue.error_in_stream is not None:
        message = cue.error_message or "Scripted error in the stream."
        error = dialect.render_error_frame(message=message, code=cue.error_code)
        return [*_first_chunks(frames, cue.error_in_stream), error]
    return frames[:-1] if cue.no_done else frames


def _spoil(frame: bytes, garbage: Garbage | None) -> bytes:
    """A body, or a chunk with its SSE framing, made unreadable. A chunk stays a chunk."""
    match garbage:
        case None | Garbage.HTML:
            return frame
        case Garbage.NAN:
            return Chunk(_A_NUMBER.sub(rb'"\1":NaN', frame, count=1))
        case Garbage.INVALID_UTF8:
            return Chunk(_SOME_TEXT.sub(b"\\g<0>\xff\xfe", frame, count=1))
        case Garbage.BAD_SSE:
            return Chunk(frame.replace(b"data: ", b"date ").rstrip(b"\n") + b"\n")
    marker = b"data: "
    framing, found, payload = frame.partition(marker)
    start, payload, end = (framing + found, payload, b"\n\n") if found else (b"", frame, b"")
    if garbage is Garbage.WRONG_SCHEMA:
        return Chunk(start + _SURPRISE + end)
    return Chunk(start + payload[: len(payload) // 2] + end)


def _inflate(frame: bytes, megabytes: int) -> Iterator[bytes]:
    """`frame` with the mark in it replaced by so many MB, in parts that share their memory."""
    before, mark, after = frame.partition(_MARK.encode())
    if not mark:
        return iter([frame])
    return chain([before], repeat(_MEGABYTE, megabytes), [Chunk(after)])


def _gzip(frames: list[bytes]) -> Iterator[bytes]:
    packer = zlib.compressobj(wbits=31)
    for frame in frames:
        if packed := packer.compress(frame):
            yield packed
    yield packer.flush()


def _ending(cue: Cue) -> Ending:
    if cue.hang is not None:
        return Ending.HANG
    if cue.cut is None and cue.cut_at_byte is None and cue.cut_after_chunks is None:
        return Ending.COMPLETE
    return Ending((cue.cut or Cut.FIN).value)


def _until_ending(cue: Cue, frames: list[bytes]) -> list[bytes]:
    """The frames, or their parts, that are sent before a cut or a hang."""
    if cue.hang is Hang.AFTER_HEADERS:
        return []
    if cue.cut_at_byte is not None:
        return _first_bytes(frames, cue.cut_at_byte)
    after = cue.cut_after_chunks
    if after is None and cue.hang is Hang.MID_STREAM:
        after = 1
    if after is None:
        return frames
    if any(isinstance(frame, Chunk) for frame in frames):
        return _first_chunks(frames, after)
    return _first_bytes(frames, sum(map(len, frames)) // 2)


def _first_chunks(frames: list[bytes], count: int) -> list[bytes]:
    """The frames up to the chunk of that number; for 0, those before the first chunk."""
    chunks = [at for at, frame in enumerate(frames) if isinstance(frame, Chunk)]
    if not chunks or count > len(chunks):
        return frames
    return frames[: chunks[count - 1] + 1] if count else frames[: chunks[0]]


def _first_bytes(frames: list[bytes], count: int) -> list[bytes]:
    kept: list[bytes] = []
    for frame in frames:
        if count < len(frame):
            return [*kept, frame[:count]]
        kept.append(frame)
        count -= len(frame)
    return kept
