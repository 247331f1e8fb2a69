"""The connection: reads requests, answers them, and notices the client leave.

    request -> read (auth, prompt, cue) -> whole reply, one write
                                        -> staged reply, delivered by a task
    client's FIN or RST -> the call is closed as client_closed, the task cancelled

A reply without a cue never suspends: it leaves in the callback that completed
the request. The socket is read throughout, so a closing client is seen at once.
"""

import asyncio
import contextlib
import re
import socket
import struct
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import httptools
import orjson

from cli.scripted_provider import anthropic, endpoints, openai, token_count
from cli.scripted_provider.answers import compose
from cli.scripted_provider.batches import Batches, Refusal
from cli.scripted_provider.call_log import Call, CallLog, Outcome
from cli.scripted_provider.control import control
from cli.scripted_provider.cues import BadCue, Cue, CueSheet, split_directive
from cli.scripted_provider.delivery import deliver
from cli.scripted_provider.dialect import BadPrompt, Chunk, Dialect, Prompt
from cli.scripted_provider.manners import MANNERS, Mannered, NotThere, spoken
from cli.scripted_provider.replies import EVENTS, JSON, LAST_CHUNK, WallClock, chunked, render_head
from cli.scripted_provider.staging import Ending, Scene, stage

_DIALECTS: dict[str, Dialect] = {
    "/chat/completions": openai,
    "/messages": anthropic,
    "/messages/count_tokens": token_count,
    "/embeddings": endpoints.Embeddings(),
    "/completions": endpoints.Completions(),
    "/v2/rerank": endpoints.Rerank(cohere=True),
    "/rerank": endpoints.Rerank(cohere=False),
    "/reranking": endpoints.NimRanking(),
    "/ranking": endpoints.NimRanking(),
    "/pipeline/feature-extraction": endpoints.FeatureExtraction(),
    "/pipeline/summarization": endpoints.Summarization(),
}
"""By the end of the path; the first that fits."""
_SPOKEN = spoken(_DIALECTS)
_NO_CREDENTIAL = "No credential: send an Authorization or x-api-key header."
_ANSWERS_TO_KEYS = re.compile(rb"refused-with-(\d{3})")
"""A credential that holds these words is answered with that status, whatever is asked with it."""


@dataclass(slots=True)
class Provider:
    """What connections share."""

    log: CallLog
    delay_seconds: float
    cues: CueSheet
    clock: WallClock
    connections: set["Connection"]
    golden: Path | None = None
    records: bool = False
    pending: dict[str, "Pending"] = field(default_factory=dict)
    batches: Batches = field(default_factory=Batches)

    def stop(self) -> None:
        for connection in list(self.connections):
            connection.stop()
        self.log.shut()


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    query: str
    headers: dict[bytes, bytes]
    body: bytes
    keep_alive: bool


@dataclass(slots=True)
class Pending:
    """An answer that was promised with 202. `questions`: how many more are put off."""

    body: bytes
    questions: int


class Refused(Exception):
    """Answered with an error before there is anything to answer."""

    def __init__(self, status: int, message: str, *, parameter: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.parameter = status, message, parameter


class Connection(asyncio.Protocol):
    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._pipelined: deque[Request] = deque()
        self._is_busy = False
        self._keep_alive = True
        self._call: Call | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_paused = False
        self._ends_when_drained = False
        self._drained: asyncio.Future[None] | None = None
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        # Paused means the kernel has not taken everything yet: a reply is complete only when it has.
        self._transport.set_write_buffer_limits(high=0)
        self._provider.connections.add(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._transport.close()

    def eof_received(self) -> None:
        self._leave(Outcome.CLIENT_CLOSED)
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave(Outcome.CLIENT_CLOSED)
        self._provider.connections.discard(self)

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        if self._ends_when_drained:
            self._ends_when_drained = False
            self._end(Outcome.COMPLETE)

    # httptools

    def on_message_begin(self) -> None:
        self._url, self._headers, self._body = b"", {}, []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        if b"expect" in self._headers:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        path, _, query = self._url.decode("latin-1").partition("?")
        request = Request(
            method=self._parser.get_method().decode(),
            path=path,
            query=query,
            headers=self._headers,
            body=b"".join(self._body),
            keep_alive=self._parser.should_keep_alive(),
        )
        if self._is_busy:
            self._pipelined.append(request)
        else:
            self._serve(request)

    # delivery.Wire

    def write(self, data: bytes) -> None:
        self._transport.write(data)

    async def drained(self) -> None:
        while self._is_paused:
            self._drained = self._loop.create_future()
            await self._drained

    # requests

    def stop(self) -> None:
        self._leave(Outcome.STOPPED)
        self._transport.abort()

    def _serve(self, request: Request) -> None:
        self._is_busy, self._keep_alive = True, request.keep_alive
        path = request.path
        if self._provider.batches.serves(path):
            self._batch(request)
            return
        if request.method == "POST":
            for suffix, dialect in _DIALECTS.items():
                if path.endswith(suffix):
                    self._answer(request, _SPOKEN.get((_first_segment(path), suffix), dialect))
                    return
        promised = self._provider.pending.get(path.rpartition("/status/")[2])
        if request.method == "GET" and promised is not None:
            self._ask_again(path.rpartition("/status/")[2], promised)
            return
        before, is_models, model = path.rpartition("/models")
        if request.method == "GET" and is_models and not before.startswith("/_"):
            self._list_models(request, model.removeprefix("/"))
        else:
            self._start(self._control(request), name="control")

    def _answer(self, request: Request, dialect: Dialect) -> None:
        provider, headers = self._provider, request.headers
        now, second, date = provider.clock.read()
        number = provider.log.next_number()
        request_id = b"req_%08d" % number
        job = headers.get(b"x-headrace-job-id")
        call = Call(
            call=number,
            job=job.decode("latin-1") if job else None,
            attempt=_attempt(headers.get(b"x-headrace-attempt")),
            path=request.path,
            model=None,
            stream=False,
            cue=None,
            open_at=now,
        )
        if provider.records:
            provider.log.keep(call, headers, request.body)
        try:
            prompt, cue = self._read(request, dialect)
        except Refused as refusal:
            self._open(call)
            body = dialect.render_error(
                status=refusal.status,
                message=refusal.message,
                code=None,
                parameter=refusal.parameter,
                request_id=request_id,
            )
            call.status = refusal.status
            self._send_whole(_plain_reply(refusal.status, body, date, dialect.render_headers(request_id)))
            return

        call.model, call.stream, call.cue = prompt.model, prompt.stream, (cue.label or None) if cue else None
        self._open(call)
        answer = compose(prompt, cue, token=call.job or f"{number:08d}", created=second)
        if cue is not None and cue.pending:
            promise = f"00000000-{number:08d}"
            provider.pending[promise] = Pending(dialect.render_answer(answer), cue.pending)
            self._send_whole(self._promise(promise, call))
            return
        if cue is not None and cue.golden is not None:
            cue = self._golden(cue, cue.golden, request.path, stream=prompt.stream)
        if cue is not None and not cue.shapes_answer_only:
            scene = stage(
                cue, answer, dialect=dialect, stream=prompt.stream, request_id=request_id, date=date
            )
            self._start(self._perform(scene, cue, call), name=f"call-{number}")
            return
        provider_headers = dialect.render_headers(request_id)
        if prompt.stream:
            frames = dialect.render_frames(answer)
            reply = _streamed_reply(frames, date, provider_headers)
            chunks = sum(type(frame) is Chunk for frame in frames)
        else:
            reply, chunks = _plain_reply(200, dialect.render_answer(answer), date, provider_headers), 0
        if provider.delay_seconds:
            self._timer = self._loop.call_later(provider.delay_seconds, self._send_call, call, reply, chunks)
        else:
            self._send_call(call, reply, chunks)

    def _read(self, request: Request, dialect: Dialect) -> tuple[Prompt, Cue | None]:
        """Raises Refused."""
        headers = request.headers
        _check_credential(headers)
        try:
            body = orjson.loads(request.body)
        except orjson.JSONDecodeError as exc:
            raise Refused(400, "We could not parse the JSON body of your request.") from exc
        if not isinstance(body, dict):
            raise Refused(400, "The body must be a JSON object.")
        try:
            prompt = dialect.read_prompt(body)
        except BadPrompt as exc:
            raise Refused(exc.status, exc.message, parameter=exc.parameter) from exc
        directive, text = split_directive(prompt.text)
        if directive is not None:
            prompt = replace(prompt, text=text)
        if prompt.tool_result is not None:
            directive = None
        try:
            cue = self._provider.cues.cue_for(header=headers.get(b"x-script"), directive=directive, text=text)
        except BadCue as exc:
            raise Refused(400, f"Bad cue: {exc}") from exc
        return prompt, cue

    def _golden(self, cue: Cue, name: str, path: str, *, stream: bool) -> Cue:
        """The cue with the file's bytes as its body, or with a 400 that says why there are none."""
        folder, provider = self._provider.golden, _first_segment(path)
        if folder is None:
            return replace(cue, golden=None, status=400, error_message="Golden bodies need --golden.")
        suffix = ".sse" if stream and not name.endswith(".error") else ".json"
        try:
            body = (folder / provider / (name + suffix)).read_bytes().decode()
        except FileNotFoundError:
            complaint = f"There is no golden {name}{suffix} of {provider!r}."
            return replace(cue, golden=None, status=400, error_message=complaint)
        return replace(cue, golden=None, body=body)

    def _promise(self, request_id: str, call: Call | None) -> bytes:
        if call is not None:
            call.status = 202
        head = b"NVCF-REQID: %b\r\nNVCF-STATUS: pending-evaluation\r\n" % request_id.encode()
        return _plain_reply(202, b"", self._provider.clock.read()[2], head)

    def _ask_again(self, request_id: str, promised: Pending) -> None:
        promised.questions -= 1
        if promised.questions > 0:
            self._send_whole(self._promise(request_id, None))
            return
        del self._provider.pending[request_id]
        self._send_whole(_plain_reply(200, promised.body, self._provider.clock.read()[2], b""))

    def _list_models(self, request: Request, model: str) -> None:
        _, second, date = self._provider.clock.read()
        dialect: Dialect = anthropic if b"anthropic-version" in request.headers else openai
        manner = MANNERS.get(_first_segment(request.path))
        if manner is not None:
            dialect = (Mannered if manner.lists_models else NotThere)(manner.dialect, manner)
        request_id = b"req_models"
        try:
            _check_credential(request.headers)
            _check_is_there(dialect)
        except Refused as refused:
            status = refused.status
            body = dialect.render_error(
                status=status, message=refused.message, code=None, parameter=None, request_id=request_id
            )
        else:
            status = 200
            body = dialect.render_model(model, second) if model else dialect.render_models(second)
        self._send_whole(_plain_reply(status, body, date, dialect.render_headers(request_id)))

    def _batch(self, request: Request) -> None:
        dialect: Dialect = anthropic if "/messages/" in request.path else openai
        status, request_id = 200, b"req_batch"
        try:
            _check_credential(request.headers)
            body = self._provider.batches.answer(
                request.method, request.path, request.query, request.headers, request.body, self._ask
            )
        except (Refused, Refusal) as refused:
            status = refused.status
            body = dialect.render_error(
                status=status, message=refused.message, code=None, parameter=None, request_id=request_id
            )
        date = self._provider.clock.read()[2]
        self._send_whole(_plain_reply(status, body, date, dialect.render_headers(request_id)))

    def _ask(self, path: str, body: dict[str, Any]) -> tuple[int, str | None, bytes]:
        """A request that came in a batch: its status, the name of its cue, its answer."""
        suffix, dialect = next((s, d) for s, d in _DIALECTS.items() if path.endswith(s))
        dialect = _SPOKEN.get((_first_segment(path), suffix), dialect)
        number = self._provider.log.next_number()
        request_id = b"req_%08d" % number
        cue: Cue | None = None
        try:
            prompt = dialect.read_prompt(body)
            directive, text = split_directive(prompt.text)
            prompt = replace(prompt, text=text)
            cue = self._provider.cues.cue_for(header=None, directive=directive, text=text)
        except (BadPrompt, BadCue) as exc:
            return 400, None, _error_of(dialect, 400, str(exc), request_id)
        if cue is not None and cue.status is not None and cue.status >= 400:
            return cue.status, cue.name, _error_of(dialect, cue.status, "Scripted.", request_id)
        answer = compose(prompt, cue, token=f"{number:08d}", created=self._provider.clock.read()[1])
        return 200, cue.name if cue else None, dialect.render_answer(answer)

    async def _control(self, request: Request) -> None:
        provider = self._provider
        if request.path == "/_batches":
            status, body = provider.batches.control(request.method, request.body)
            self._send_whole(_plain_reply(status, body, provider.clock.read()[2], b""))
            return
        status, body = await control(
            request.method,
            request.path,
            query=request.query,
            body=request.body,
            cues=provider.cues,
            log=provider.log,
        )
        self._send_whole(_plain_reply(status, body, provider.clock.read()[2], b""))

    async def _perform(self, scene: Scene, cue: Cue, call: Call) -> None:
        await deliver(scene, cue, call=call, to=self, delay_seconds=self._provider.delay_seconds)
        match scene.ending:
            case Ending.COMPLETE:
                self._end(Outcome.COMPLETE)
            case Ending.FIN:
                self._leave(Outcome.CUT)
                self._transport.close()
            case Ending.RST:
                self._leave(Outcome.CUT)
                self._reset()
            case Ending.HANG:
                """The call stays open until the client leaves."""

    # the life of one call

    def _open(self, call: Call) -> None:
        self._call = call
        self._provider.log.open(call)

    def _start(self, work: Coroutine[Any, Any, None], *, name: str) -> None:
        self._task = self._loop.create_task(work, name=name)
        self._task.add_done_callback(self._notice_failure)

    def _notice_failure(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (exc := task.exception()) is not None:
            self._loop.call_exception_handler({"message": f"{task.get_name()} failed", "exception": exc})
            self._transport.abort()

    def _send_call(self, call: Call, reply: bytes, chunks: int) -> None:
        self._timer = None
        call.status, call.chunks_sent = 200, chunks
        self._send_whole(reply)

    def _send_whole(self, reply: bytes) -> None:
        self._transport.write(reply)
        if self._is_paused:
            self._ends_when_drained = True
        else:
            self._end(Outcome.COMPLETE)

    def _end(self, outcome: Outcome) -> None:
        """Close the call and turn to the next request."""
        self._task = None
        if self._call is not None:
            self._provider.log.close(self._call, outcome)
            self._call = None
        self._is_busy = False
        if not self._keep_alive:
            self._transport.close()
        elif self._pipelined:
            self._is_busy = True
            self._loop.call_soon(self._serve_next)

    def _serve_next(self) -> None:
        if not self._transport.is_closing():
            self._serve(self._pipelined.popleft())

    def _leave(self, outcome: Outcome) -> None:
        """Close the call with the connection: nothing more is sent or served."""
        task, self._task = self._task, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._pipelined.clear()
        self._ends_when_drained = False
        if self._call is not None:
            self._provider.log.close(self._call, outcome)
            self._call = None

    def _reset(self) -> None:
        """Close with RST: a linger of zero seconds throws the connection away."""
        sock: socket.socket = self._transport.get_extra_info("socket")
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()


def _check_credential(headers: dict[bytes, bytes]) -> None:
    """Raises Refused."""
    credential = headers.get(b"authorization") or headers.get(b"x-api-key")
    if not credential:
        raise Refused(401, _NO_CREDENTIAL)
    if wanted := _ANSWERS_TO_KEYS.search(credential):
        raise Refused(int(wanted[1]), "This credential is not answered well.")


def _error_of(dialect: Dialect, status: int, message: str, request_id: bytes) -> bytes:
    return dialect.render_error(
        status=status, message=message, code=None, parameter=None, request_id=request_id
    )


def _check_is_there(dialect: Dialect) -> None:
    """Raises Refused."""
    if isinstance(dialect, NotThere):
        raise Refused(404, "There is no such path.")


def _first_segment(path: str) -> str:
    return path[1 : path.find("/", 1)]


def _plain_reply(status: int, body: bytes, date: bytes, provider_headers: bytes) -> bytes:
    head = render_head(
        status, date=date, content_type=JSON, length=len(body), provider_headers=provider_headers
    )
    return head + body


def _streamed_reply(frames: list[bytes], date: bytes, provider_headers: bytes) -> bytes:
    head = render_head(200, date=date, content_type=EVENTS, length=None, provider_headers=provider_headers)
    return head + chunked(b"".join(frames)) + LAST_CHUNK


def _attempt(value: bytes | None) -> int | str | None:
    if not value:
        return None
    return int(value) if value.isdigit() else value.decode("latin-1")
