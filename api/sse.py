"""HOT PATH of streams: a Reply as server-sent events.

The rules on `id:` lines and comments were found by running the official clients: once an
id was sent, a comment followed by a blank line makes the OpenAI client dispatch an empty
event and fail, so a heartbeat is then the comment line alone, and the next frame follows
it directly. Ids are sent only to callers that asked for them.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from loguru import logger as log
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.error_views import internal_error, stream_frame
from api.replies import Reply
from api.responses import RawHeaders
from shared.domain.job import Surface
from shared.errors import BrokerError
from shared.ids import JobId, RequestId

DONE: Final = b"data: [DONE]\n\n"

RenderEvent = Callable[[bytes], bytes]
"""A job's event as the `data:` of the caller's dialect; b"" to leave it out."""


def verbatim(event: bytes) -> bytes:
    return event


@dataclass(frozen=True, slots=True)
class Opening:
    """What is told of a stream before its log is read: of its first `count` events the `rest`."""

    count: int = 0
    rest: tuple[bytes, ...] = ()


NO_OPENING: Final = Opening()


@dataclass(frozen=True, slots=True)
class StreamForm:
    """How the events of a surface stand on the wire.

    named: each is headed by `event:` and the `type` its document says
    done: what follows the last one of a whole stream
    """

    render: RenderEvent = verbatim
    named: bool = False
    done: bytes = DONE


AS_STORED: Final = StreamForm()
NAMED: Final = StreamForm(named=True, done=b"")
"""Anthropic's messages and OpenAI's responses: the last event says by its name that it is."""

_open: Final[set[EventStream]] = set()
_TYPE: Final = re.compile(rb'"type":\s*"([a-z_.]{1,80})"')


def wants_ids(headers: Mapping[str, str]) -> bool:
    return headers.get("x-stream-ids", "").lower() == "true"


def open_streams() -> int:
    """Callers that are sent events by this process."""
    return len(_open)


class EventStream(Response):
    def __init__(
        self,
        reply: Reply,
        *,
        surface: Surface,
        request_id: RequestId,
        form: StreamForm,
        with_ids: bool,
        headers: RawHeaders,
        heartbeat_seconds: float,
        on_end: Callable[[], None],
        opening: Opening = NO_OPENING,
    ) -> None:
        """`on_end` runs once, however the stream ends. `reply` goes on behind the `opening`."""
        self.status_code = 200
        self.background = None
        self.raw_headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"x-accel-buffering", b"no"),
            *headers,
        ]
        self._reply = reply
        self._surface = surface
        self._request_id = request_id
        self._form = form
        self._with_ids = with_ids
        self._heartbeat_seconds = heartbeat_seconds
        self._on_end = on_end
        self._opening = opening.rest

    @property
    def job_id(self) -> JobId:
        return self._reply.job.id

    @property
    def is_whole(self) -> bool:
        """Every event was handed on, and the job succeeded."""
        return self._reply.at_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        _open.add(self)
        try:
            tail = await self._relay(send)
            await send({"type": "http.response.body", "body": tail})
        except BrokerError as error:
            await self._end_with(error, scope, send)
        except ClientDisconnect:
            raise
        except Exception as exc:
            # Cut off without a word it would look like the network, and be asked for again.
            log.opt(exception=exc).error(
                "stream failed", request_id=self._request_id, job_id=self._reply.job.id
            )
            await self._end_with(internal_error(), scope, send)
        finally:
            _open.discard(self)
            self._on_end()

    async def _end_with(self, error: BrokerError, scope: Scope, send: Send) -> None:
        scope["state"]["error"] = error
        frame = stream_frame(error, self._surface, self._request_id)
        await send({"type": "http.response.body", "body": frame})

    async def _relay(self, send: Send) -> bytes:
        """Everything but the end of the body, which is returned."""
        reply = self._reply
        sent_at = time.monotonic()
        ids_sent = False
        if self._opening:
            ids_sent = self._with_ids
            body = self._frames(self._opening)
            await send({"type": "http.response.body", "body": body, "more_body": True})
        while True:
            events = await reply.next_events()
            if events is None:
                return self._form.done
            if not events:
                if time.monotonic() - sent_at < self._heartbeat_seconds:
                    continue
                body = b": ping\n" if ids_sent else b": ping\n\n"
            else:
                body = self._frames(events)
                ids_sent = self._with_ids
                if reply.at_end:
                    return body + self._form.done
            sent_at = time.monotonic()
            await send({"type": "http.response.body", "body": body, "more_body": True})

    def _frames(self, events: tuple[bytes, ...]) -> bytes:
        if not self._with_ids and self._form is AS_STORED:
            return b"data: " + b"\n\ndata: ".join(events) + b"\n\n"
        job_id = self._reply.job.id.encode()
        ordinal = self._reply.seen - len(events)
        parts: list[bytes] = []
        for event in events:
            ordinal += 1
            data = self._form.render(event)
            if not data:
                continue
            if self._form.named and (found := _TYPE.search(data)) is not None:
                parts.append(b"event: " + found.group(1) + b"\n")
            if self._with_ids:
                parts.append(b"id: %b:%d\n" % (job_id, ordinal))
            parts.append(b"data: " + data + b"\n\n")
        return b"".join(parts)
