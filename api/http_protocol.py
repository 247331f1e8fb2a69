"""HTTP/1.1 on the wire: uvicorn's httptools protocol with bounds and a strict reading.

    idle ──first byte──> head ──blank line──> body ──last byte──> idle
                          │                     │
                          10 s in all           60 s between two reads     else 408
                          16 KB, 100 headers                               else 431
                          one Host, one framing, a path as target          else 400

    answer ── it comes before the end of a body, and more than 64 KB of that may follow ──> connection: close
           ── the caller takes no byte of it for `slow_reader_seconds` ──> aborted

A refused connection hears one JSON error, is read a little further so that the answer
survives the reset, and is closed. Offers to upgrade (h2c, as Java's own client makes
them, or a WebSocket) are passed over, as RFC 9110, 7.8 allows; uvicorn would lose the body.

    uvicorn.Config(app, http=bounded_protocol(settings.api), ws="none", log_config=None, access_log=False)
"""

from __future__ import annotations

import asyncio
import re
from asyncio.events import TimerHandle
from collections.abc import Callable
from enum import IntEnum
from typing import Any, ClassVar, Final, cast

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from api.error_views import RawHeaders, render, surface_of
from api.http_answer import Cycle
from api.middleware.protective import protective_headers
from shared.errors import BadRequest, BrokerError, DeadlineExceeded, HeadersTooLarge
from shared.ids import new_request_id
from shared.observability.logging import log_fast
from shared.settings import ApiSettings

MAX_PIPELINED: Final = 16

_HOST: Final = re.compile(rb"(?:[A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?\Z")
_TELLING: Final = frozenset({b"host", b"content-length", b"transfer-encoding"})
_UPGRADE: Final = frozenset({b"upgrade", b"http2-settings"})


class ReceiveTimeout(DeadlineExceeded):
    code, status = "request_timeout", 408


class _Phase(IntEnum):
    IDLE = 0
    HEAD = 1
    BODY = 2


# Read once a request: an enum member costs three times a global.
_IDLE: Final = _Phase.IDLE
_HEAD: Final = _Phase.HEAD
_BODY: Final = _Phase.BODY


class _Refused(Exception):
    """Stops the parser inside a callback; the reason waits in `_fault`."""


class BoundedHttpToolsProtocol(HttpToolsProtocol):
    max_header_bytes: ClassVar[int] = 16 * 1024
    max_headers: ClassVar[int] = 100
    head_seconds: ClassVar[float] = 10.0
    """From the first byte of a request (or the connection) to the end of its headers."""
    body_idle_seconds: ClassVar[float] = 60.0
    """Between two reads of a body, while somebody here wants to read it."""
    allowed_hosts: ClassVar[frozenset[bytes]] = frozenset()
    slow_reader_seconds: ClassVar[float] = 60.0
    """How long a caller may take no byte of an answer that the sockets no longer hold."""
    linger_bytes: ClassVar[int] = 65_536
    linger_seconds: ClassVar[float] = 1.0
    """How much further a caller that still sends is read, unheard, once it was answered.

    One whose answer keeps the connection has no more than that left to send.
    """
    first_request_seconds: ClassVar[float] = 1.0
    """How long a server that stops waits for a connection's first request."""
    log_refusals: ClassVar[bool] = True
    protective: ClassVar[RawHeaders] = []
    """Headers of refusals besides their own."""

    _phase: _Phase = _IDLE
    _fault: BrokerError | None = None
    _head_bytes: int = 0
    _head_may_be_long: bool = False
    _silent_bytes: int = 0
    _passed_over: bool = False
    _deaf: bool = False
    _body_bytes: int = 0
    _discarded: int = 0
    _heard_at: float = 0.0
    _watch: TimerHandle | None = None
    _watched: _Phase = _IDLE
    _stall: TimerHandle | None = None
    _unread_bytes: int = 0
    _farewell: _Farewell

    @staticmethod
    def on_refused(status: int) -> None:
        """Told of each answer that no application gave."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn narrows it
        super().connection_made(transport)
        # The edge logs each exchange; uvicorn would where any handler could hear of it.
        self.access_log = False
        self._farewell = _Farewell(self, transport)
        self._heard_at = self.loop.time()
        self._arm(_HEAD)

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self._disarm_stall()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._arm_stall()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self._disarm_stall()

    def timeout_keep_alive_handler(self) -> None:
        if not self.transport.is_closing():
            self.close()

    def shutdown(self) -> None:
        """uvicorn's closes whatever it answers nothing on: also where a request is on its way."""
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.keep_alive = False
        elif self._deaf or self._phase is _HEAD:
            pass  # its clock runs
        elif cycle is None:
            self._arm(_IDLE, self.first_request_seconds)
        else:
            self.transport.close()

    def close(self) -> None:
        """Once all is sent, as every transport does; but not for ever."""
        if self._stall is None and self.transport.get_write_buffer_size():
            self._arm_stall()
        self.transport.close()

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            self._discard(len(data))
            return
        self._unset_keepalive_if_required()
        before, cycle = self._phase, self.cycle
        self._head_may_be_long = self._head_bytes + len(data) > self.max_header_bytes
        self._silent_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as exc:
            self._pass_over_upgrade(data[exc.args[0] :])
            return
        except httptools.HttpParserError:
            self._refuse(self._fault or BadRequest("This is not a well-formed HTTP/1.1 request."))
            return
        after = self._phase
        if after is _IDLE and (self.cycle is not cycle or before is _BODY):
            # The common case: a request is complete.
            if self._watch is not None:
                self._disarm()
        else:
            self._unfinished(before, same_request=self.cycle is cycle, size=len(data))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._phase = _HEAD
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        if (fault := self._judge_head()) is not None:
            self._fault = fault
            raise _Refused
        if self.parser.should_upgrade():
            self._passed_over = True
            return
        super().on_headers_complete()
        self._phase = _BODY
        self._silent_bytes = 0
        self._body_bytes = 0
        self._discarded = 0
        # Not begun yet, for its task is.
        self.cycle.__class__ = Cycle
        self.cycle.transport = cast(asyncio.Transport, self._farewell)
        # Trailers would be appended to the headers of a request already judged.
        self.headers = []

    def on_body(self, body: bytes) -> None:
        self._silent_bytes = 0
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._phase = _IDLE
        self._head_bytes = 0
        if not self._passed_over:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        if self._deaf:
            self.pipeline.clear()
        super().on_response_complete()

    def _judge_head(self) -> BrokerError | None:
        headers = self.headers
        if len(headers) > self.max_headers:
            return HeadersTooLarge(f"There are more than {self.max_headers} headers.")
        if self._head_may_be_long:
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in headers)
            if size > self.max_header_bytes:
                return self._head_too_large()
        if self.url[:1] != b"/":
            return BadRequest("The request target must be a path.")
        if self.parser.get_http_version() not in ("1.1", "1.0"):
            return BadRequest("This server speaks HTTP/1.1.")
        if len(self.pipeline) >= MAX_PIPELINED:
            return BadRequest(f"More than {MAX_PIPELINED} requests are waiting on this connection.")
        return self._judge_host_and_framing()

    def _judge_host_and_framing(self) -> BrokerError | None:
        host: bytes | None = None
        framed = False
        for name, value in [header for header in self.headers if header[0] in _TELLING]:
            if name == b"host":
                if host is not None or not _HOST.match(value):
                    return BadRequest("There must be one well-formed Host header.")
                host = value
            # llhttp refuses most of this by itself; which part depends on its version and flags.
            elif framed or (value != b"chunked" if name == b"transfer-encoding" else not value.isdigit()):
                return BadRequest("The length of the body must be given once, in one way.")
            else:
                framed = True
        if host is None:
            return BadRequest("There must be one well-formed Host header.")
        if self.allowed_hosts and host.rsplit(b":", 1)[0].lower() not in self.allowed_hosts:
            return BadRequest("This host is not served here.")
        return None

    def _head_too_large(self) -> HeadersTooLarge:
        return HeadersTooLarge(f"The request headers are larger than {self.max_header_bytes} bytes.")

    def _unfinished(self, before: _Phase, *, same_request: bool, size: int) -> None:
        """After a read that ended inside a request, or was none: bounds and clocks."""
        now = self.loop.time()
        if self._phase is _BODY:
            self._heard_at = now
            if self.cycle.response_complete:
                # An answer that did not wait for its body: the rest of it is read only so far.
                self._discard(size)
            # Trailers and chunk extensions are bytes of a body that never reach its reader.
            if self._silent_bytes > self.max_header_bytes:
                self._refuse(BadRequest("The framing of the body is larger than its content."))
            else:
                self._arm(_BODY)
            return
        if before is _HEAD or (before is _IDLE and same_request):
            self._head_bytes += size
        if self._head_bytes > self.max_header_bytes:
            self._refuse(self._head_too_large())
        elif self._watch is None or self._watched is not _HEAD:
            self._heard_at = now
            self._arm(_HEAD)

    def _pass_over_upgrade(self, rest: bytes) -> None:
        """Read the request again without its offer, on a parser that never heard it."""
        self._passed_over = False
        self._phase = _IDLE
        method = self.parser.get_method()
        if method == b"CONNECT":
            self._refuse(BadRequest("This server is no proxy."))
            return
        head = [b"%b %b HTTP/1.1" % (method, self.url)]
        for name, value in self.headers:
            if name == b"connection":
                kept = [word for word in value.split(b",") if word.strip().lower() not in _UPGRADE]
                head.append(b"connection: " + b",".join(kept).strip())
            elif name not in _UPGRADE:
                head.append(b"%b: %b" % (name, value))
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"\r\n".join(head) + b"\r\n\r\n" + rest)

    def _arm(self, phase: _Phase, seconds: float | None = None) -> None:
        if self._watch is not None:
            if self._watched is phase:
                return
            self._watch.cancel()
        if seconds is None:
            seconds = self.head_seconds if phase is _HEAD else self.body_idle_seconds
        self._watched = phase
        self._watch = self.loop.call_later(seconds, self._on_watch)

    def _disarm(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def _arm_stall(self) -> None:
        self._disarm_stall()
        self._unread_bytes = self.transport.get_write_buffer_size()
        self._stall = self.loop.call_later(self.slow_reader_seconds, self._on_stall)

    def _disarm_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _on_stall(self) -> None:
        self._stall = None
        if self.transport.get_write_buffer_size() < self._unread_bytes:
            self._arm_stall()  # slow, but reading
        else:
            self.transport.abort()

    def _on_watch(self) -> None:
        self._watch = None
        if self.transport.is_closing():
            return
        if self._deaf:
            self.close()
        elif self._watched is _BODY:
            # A pause of ours (nobody reads the body yet) is not the caller's silence.
            silence = 0.0 if self.flow.read_paused else self.loop.time() - self._heard_at
            if silence >= self.body_idle_seconds:
                self._refuse(ReceiveTimeout("The rest of the request body did not come in time."))
            else:
                self._arm(_BODY, self.body_idle_seconds - silence)
        elif self.cycle is not None and not self.cycle.response_complete:
            # Half of a next request must not cost the answer that is under way.
            self._arm(_HEAD)
        elif self._phase is _IDLE:
            self.close()
        else:
            self._refuse(ReceiveTimeout("The request headers did not come in time."))

    def _refuse(self, error: BrokerError) -> None:
        """Answer for the application, or end what it is answering, and close."""
        if self.transport.is_closing():
            return
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if self._phase is not _BODY:
                # A request before the faulty one is being answered: the last one here.
                cycle.keep_alive = False
                self._deaf = True
                return
            cycle.disconnected = True
            cycle.message_event.set()
            if cycle.response_started or self.pipeline:
                self.close()
                return
        self.transport.write(self._answer(error))
        self.linger()

    def _answer(self, error: BrokerError) -> bytes:
        request_id = new_request_id()
        url = getattr(self, "url", b"").decode("ascii", "replace")
        status, headers, body = render(error, surface_of(url), request_id)
        if self.log_refusals:
            log_fast("request refused", {"status": status, "error": error.code, "request_id": request_id})
        self.on_refused(status)
        lines = [STATUS_LINE[status]]
        for name, value in (
            *self.server_state.default_headers,
            *headers,
            *self.protective,
            (b"x-request-id", request_id.encode()),
            (b"connection", b"close"),
        ):
            lines += [name, b": ", value, b"\r\n"]
        return b"".join((*lines, b"\r\n", body))

    def linger(self) -> None:
        """Half-close, read a little further, close.

        Closing at once with unread bytes sends a reset, which can overtake the answer.
        """
        if not self.transport.can_write_eof():
            self.close()
            return
        self._deaf = True
        self.transport.write_eof()
        self._disarm()
        self._watched = _IDLE
        self._watch = self.loop.call_later(self.linger_seconds, self._on_watch)

    def _hears_out(self) -> bool:
        """Whether what is missing of the body is so short that it will be read, answered or not."""
        cycle = self.cycle
        if cycle.waiting_for_100_continue:
            # Nobody knows whether a caller sends what it was not told to.
            return False
        length = next((value for name, value in cycle.scope["headers"] if name == b"content-length"), None)
        return length is not None and int(length) - self._body_bytes <= self.linger_bytes

    def _discard(self, size: int) -> None:
        self._discarded += size
        if self._discarded > self.linger_bytes:
            self.close()


class _Farewell:
    """The transport as a response sees it: closing waits for a caller that still sends."""

    __slots__ = ("_protocol", "hears_out", "is_closing", "write")

    def __init__(self, protocol: BoundedHttpToolsProtocol, transport: asyncio.Transport) -> None:
        self._protocol = protocol
        self.hears_out = protocol._hears_out
        self.write = transport.write
        self.is_closing = transport.is_closing

    def close(self) -> None:
        protocol = self._protocol
        if protocol._phase is _BODY and not self.is_closing():
            protocol.flow.resume_reading()
            protocol.linger()
        else:
            protocol.close()


def bounded_protocol(
    settings: ApiSettings,
    *,
    log_refusals: bool = True,
    on_refused: Callable[[int], None] | None = None,
    **overrides: Any,
) -> type[BoundedHttpToolsProtocol]:
    """The protocol class with the bounds of `settings`, for `uvicorn.Config(http=...)`."""
    return type(
        "ConfiguredHttpProtocol",
        (BoundedHttpToolsProtocol,),
        {
            "max_header_bytes": settings.max_header_bytes,
            "max_headers": settings.max_headers,
            "slow_reader_seconds": settings.slow_reader_seconds,
            "first_request_seconds": min(1.0, settings.drain_seconds / 2),
            "allowed_hosts": frozenset(host.lower().encode() for host in settings.allowed_hosts),
            "log_refusals": log_refusals,
            "protective": protective_headers(settings),
            **({} if on_refused is None else {"on_refused": staticmethod(on_refused)}),
            **overrides,
        },
    )
