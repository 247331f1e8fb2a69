"""HOT PATH. The one place that calls a provider: clocks by phase, caps, and error mapping.

    connect ──> request sent ──> first byte ──> body: whole, or event by event
       connect_seconds      first_byte_seconds       idle_seconds between reads
       └────────────────────── total_seconds, or the job's deadline ─────────────┘

Foreign exceptions become ours here and nowhere else.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_exceptions import HttpProcessingError

from shared import faultpoints
from shared.domain.job import Job, JobKind, Target
from shared.domain.usage import Usage
from shared.errors import ProviderAnswerInvalid, ProviderError, ProviderTimeout, ProviderUnavailable
from shared.providers import refusals
from shared.providers.credentials import OwnKey, Sign
from shared.providers.dialect import Answer, Call, Codec, StreamDecoder
from shared.providers.profile import ProviderProfile
from shared.providers.sse_reader import SseEvent, SseReader
from shared.providers.tokens import tokens_of_body, tokens_of_chars
from shared.settings import ProviderSettings
from workers.transport import Transport, headers_for

_MAX_ERROR_BYTES: Final = 65_536
_PENDING_PAUSE_SECONDS: Final = 0.05
_MAX_PENDING_PAUSE_SECONDS: Final = 2.0

FOREIGN: Final = (
    aiohttp.ClientError,
    aiohttp.EofStream,
    # What the parser finds; aiohttp wraps it where it expects it.
    HttpProcessingError,
    OSError,
    ValueError,
    EOFError,
)
"""All that a call may raise besides its cancellation and our own clocks."""
_ANSWERED_WITHOUT_TOKENS: Final = frozenset({JobKind.EMBEDDINGS, JobKind.RERANK})
_NOTHING_CAME: Final = b"\0nothing came"
_NOT_STREAMS: Final = frozenset({"application/json", "text/html"})

NO_HEADERS: Final[Mapping[str, str]] = {}

Emit = Callable[[list[bytes]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Completed:
    """A call that succeeded: the answer, or the events of a stream not emitted yet."""

    body: bytes = b""
    tail: Sequence[bytes] = ()


@dataclass(slots=True)
class CallProgress:
    """What is known of a call so far; still true when it is cancelled or breaks."""

    called_at: float | None = None
    """When it was about to be sent. What its job waited for before, at the gate or for a key, is no part."""
    sent: bool = False
    """Whether any of it was sent: before that, nobody can charge for it."""
    first_byte_at: float | None = None
    emitted: int = 0
    usage: Usage | None = None
    cut: bool = False
    """Of a stream: its end has not come, and what was counted so far is less than what was sent."""
    text_chars: int = 0
    finish_reason: str | None = None
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    """Of the provider's answer; {} until there is one."""

    def begin(self) -> None:
        self.called_at = time.monotonic()

    def elapsed_seconds(self) -> float:
        """0.0 where there was no call."""
        return 0.0 if self.called_at is None else time.monotonic() - self.called_at

    def ttft_seconds(self) -> float | None:
        if self.first_byte_at is None or self.called_at is None:
            return None
        return self.first_byte_at - self.called_at

    def elapsed_ms(self) -> int:
        return int(self.elapsed_seconds() * 1000)

    def ttft_ms(self) -> int | None:
        seconds = self.ttft_seconds()
        return None if seconds is None else int(seconds * 1000)

    def counted(self) -> Usage | None:
        """As the provider counted. Of a stream that is cut, not less than what came of it: Anthropic counts
        one token at its start and the others at its end, and a caller may hang up in between.
        """
        usage = self.usage
        if usage is None or not self.cut:
            return usage
        completion = max(usage.completion_tokens, tokens_of_chars(self.text_chars))
        return replace(usage, completion_tokens=completion, estimated=True)

    def usage_or_estimate(self, job: Job) -> Usage:
        """As the provider counted, else an estimate from the request and what came back."""
        if (usage := self.counted()) is not None:
            return usage
        if not self.sent or job.kind is JobKind.COUNT_TOKENS:
            return Usage()
        return Usage(
            prompt_tokens=tokens_of_body(job.kind, job.body, job.target.model),
            completion_tokens=0 if job.kind in _ANSWERED_WITHOUT_TOKENS else tokens_of_chars(self.text_chars),
            estimated=True,
        )


@dataclass(slots=True)
class _Phase:
    """Which clock is running, and for how long it was set."""

    name: str
    seconds: float


async def call_provider(
    job: Job,
    target: Target,
    profile: ProviderProfile,
    auth_headers: Mapping[str, str],
    *,
    attempt: int,
    remaining_seconds: float,
    transport: Transport,
    settings: ProviderSettings,
    progress: CallProgress,
    emit: Emit,
    sign: Sign | None = None,
    own: OwnKey | None = None,
    more_headers: Mapping[str, str] = NO_HEADERS,
) -> Completed:
    """The answer in the form of the job's kind.

    A stream's events went through `emit`, all but those of its last read.
    `own`: the account's own key, in the place of `auth_headers` and `sign`.

    Raises ProviderError (retryable or not), or InvalidRequest for what the provider cannot be asked.
    """
    codec = profile.codec(job.kind)
    stream = job.stream and profile.streams
    call = Call(job.body, target, profile, stream, job.include_usage, job.id)
    request = codec.encode(call)
    session = transport.session(profile, target.credential, {**profile.headers, **auth_headers})
    headers = {
        **request.headers,
        "x-request-id": job.request_id,
        "x-headrace-job-id": job.id,
        "x-headrace-attempt": str(attempt),
        **more_headers,
        **({} if sign is None else sign(profile.url(request.path, job.kind), request.body)),
        **(
            {}
            if own is None
            else headers_for(own, profile.url(request.path, job.kind), profile, request.body)
        ),
    }
    progress.begin()
    loop = asyncio.get_running_loop()
    total = min(settings.total_seconds, max(0.0, remaining_seconds))
    end_at = loop.time() + total
    # An answer that is not streamed comes only when it is whole: its first byte may take the total.
    first_byte = min(settings.first_byte_seconds, total) if stream else total
    phase = _Phase("first byte", first_byte)
    try:
        async with asyncio.timeout_at(loop.time() + first_byte) as clock:
            faultpoints.call(job.request_id)
            async with session.post(
                profile.url(request.path, job.kind),
                data=_Body(request.body, progress),
                headers=headers,
                allow_redirects=False,
            ) as response:
                faultpoints.hit("W4")
                progress.status, progress.headers = response.status, response.headers
                if response.status == 202 and profile.pending is not None and not stream:
                    body = await _await_pending(response, session, profile, job.kind, settings, own)
                    return _completed(codec.decode(body, call), progress)
                if response.status != 200:
                    body = await read_capped(response, _MAX_ERROR_BYTES, profile, truncate=True)
                    raise _refused(response, body, profile, own)
                if stream and response.content_type in _NOT_STREAMS:
                    # Some say in a plain 200 why there is no stream; any other body is no answer.
                    body = await read_capped(response, settings.max_answer_bytes, profile)
                    codec.decode(body, call)
                    raise ProviderAnswerInvalid(
                        f"{profile.name} answered a streamed request without a stream.", provider=profile.id
                    )
                if stream:
                    decoder = codec.open_stream(call)

                    def tick() -> None:
                        progress.first_byte_at = progress.first_byte_at or time.monotonic()
                        idle = min(settings.idle_seconds, end_at - loop.time())
                        phase.name, phase.seconds = "idle", settings.idle_seconds
                        clock.reschedule(loop.time() + idle)

                    tail = await _relay(response, decoder, profile, settings, progress, emit, tick)
                    return Completed(tail=tail)
                body = await read_capped(response, settings.max_answer_bytes, profile)
                return _whole(body, codec, call, progress, as_stream=job.stream)
    except TimeoutError as exc:
        if isinstance(exc, aiohttp.ClientError):
            raise map_foreign(exc, profile) from exc
        if loop.time() >= end_at - 0.01:
            phase.name, phase.seconds = "total", total
        raise ProviderTimeout(
            f"{profile.name} did not answer in time ({phase.name}, {phase.seconds:g} s).", provider=profile.id
        ) from exc
    except FOREIGN as exc:
        raise map_foreign(exc, profile) from exc


def _completed(answer: Answer, progress: CallProgress) -> Completed:
    progress.usage, progress.finish_reason = answer.usage, answer.finish_reason
    progress.text_chars = answer.text_chars
    return Completed(body=answer.body)


def _whole(body: bytes, codec: Codec, call: Call, progress: CallProgress, *, as_stream: bool) -> Completed:
    """A whole answer; as the events of a stream, where its caller wants one and its provider has none."""
    if not as_stream:
        return _completed(codec.decode(body, call), progress)
    progress.first_byte_at = time.monotonic()
    decoder = codec.open_stream(call)
    events = decoder.feed(SseEvent(data=body))
    _note(progress, decoder)
    return Completed(tail=[*events, *decoder.end()])


async def _await_pending(
    response: aiohttp.ClientResponse,
    session: aiohttp.ClientSession,
    profile: ProviderProfile,
    kind: JobKind,
    settings: ProviderSettings,
    own: OwnKey | None = None,
) -> bytes:
    """The answer of a call that the provider took on with 202, asked after until it is there.

    The caller's clock ends it. A path that is none, or an error on the way, is the call's.
    """
    pause = _PENDING_PAUSE_SECONDS
    headers = _lower(response.headers)
    while True:
        path = profile.pending(headers) if profile.pending is not None else None
        if path is None:
            raise ProviderAnswerInvalid(
                f"{profile.name} took the call on without saying where its answer will be.",
                provider=profile.id,
            )
        await asyncio.sleep(pause)
        pause = min(pause * 2, _MAX_PENDING_PAUSE_SECONDS)
        url = profile.url(path, kind)
        with_key = headers_for(own, url, profile)
        async with session.get(url, allow_redirects=False, headers=with_key) as later:
            if later.status == 200:
                return await read_capped(later, settings.max_answer_bytes, profile)
            if later.status != 202:
                body = await read_capped(later, _MAX_ERROR_BYTES, profile, truncate=True)
                raise _refused(later, body, profile, own)
            headers |= _lower(later.headers)


def _refused(
    response: aiohttp.ClientResponse, body: bytes, profile: ProviderProfile, own: OwnKey | None
) -> ProviderError:
    whose = refusals.OURS if own is None else refusals.THE_ACCOUNTS
    return refusals.from_http(response.status, _lower(response.headers), body, profile=profile, whose=whose)


def map_foreign(exc: BaseException, profile: ProviderProfile) -> ProviderError:
    """Our error for what the HTTP client raised. The sentence says nothing of hosts or keys."""
    if isinstance(exc, TimeoutError):
        return ProviderTimeout(f"{profile.name} could not be connected to in time.", provider=profile.id)
    if isinstance(exc, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError | ssl.SSLError):
        return ProviderUnavailable(f"The TLS connection to {profile.name} failed.", provider=profile.id)
    if isinstance(exc, aiohttp.ClientConnectorError):
        return ProviderUnavailable(f"{profile.name} could not be connected to.", provider=profile.id)
    if isinstance(exc, aiohttp.ClientPayloadError):
        return ProviderUnavailable(f"{profile.name} cut its answer short.", provider=profile.id)
    if isinstance(exc, aiohttp.ClientResponseError | HttpProcessingError | aiohttp.InvalidURL | ValueError):
        return ProviderAnswerInvalid(
            f"{profile.name} answered with something that is not HTTP.", provider=profile.id
        )
    return ProviderUnavailable(f"The connection to {profile.name} was lost.", provider=profile.id)


async def _relay(
    response: aiohttp.ClientResponse,
    decoder: StreamDecoder,
    profile: ProviderProfile,
    settings: ProviderSettings,
    progress: CallProgress,
    emit: Emit,
    tick: Callable[[], None],
) -> list[bytes]:
    """Events go on as they come: all that one read brought in one flush.

    The first of them are held back until they say something, and for `hold_back_seconds`: as long
    as the caller has seen nothing, a provider that fails can be replaced by another one.
    Those of the read that ended the stream are returned, to be written together with its end.
    """
    reader = SseReader(profile.id)
    received = 0
    events: list[bytes] = []
    opening = _Opening(settings.hold_back_seconds)
    while data := await _read(response, until=opening.release_at):
        if data is _NOTHING_CAME:
            events = opening.release()
            progress.emitted += len(events)
            await emit(events)
            continue
        tick()
        received += len(data)
        if received > settings.max_answer_bytes:
            raise ProviderAnswerInvalid(
                f"The stream of {profile.name} is longer than {settings.max_answer_bytes} bytes.",
                provider=profile.id,
            )
        events = []
        try:
            for event in reader.feed(data):
                events += decoder.feed(event)
        finally:
            _note(progress, decoder)
            if not decoder.finished and (
                events := opening.passes(events, says_something=decoder.text_chars > 0)
            ):
                progress.emitted += len(events)
                await emit(events)
        if decoder.finished:
            break
    else:
        events = []
        for event in reader.close():
            events += decoder.feed(event)
        _note(progress, decoder)
    if not decoder.ended:
        # Also after a terminal sign: proxies and servers write one behind whatever came before it.
        if events and not opening.is_held:
            progress.emitted += len(events)
            await emit(events)
        raise ProviderUnavailable(f"{profile.name} cut its stream short.", provider=profile.id)
    return [*opening.release(), *events, *decoder.end()]


def _note(progress: CallProgress, decoder: StreamDecoder) -> None:
    progress.usage, progress.finish_reason = decoder.usage, decoder.finish_reason
    progress.text_chars, progress.cut = decoder.text_chars, not decoder.ended


class _Opening:
    """The first events of a stream, held back. `release_at`: the loop's time for them; 0.0 if unset."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._held: list[bytes] = []
        self.is_held = True
        self.release_at = 0.0

    def passes(self, events: list[bytes], *, says_something: bool) -> list[bytes]:
        """What may go on now, of these and those held before."""
        if not self.is_held:
            return events
        self._held += events
        if not says_something:
            return []
        now = asyncio.get_running_loop().time()
        self.release_at = self.release_at or now + self._seconds
        return self.release() if now >= self.release_at else []

    def release(self) -> list[bytes]:
        events, self._held = self._held, []
        self.is_held, self.release_at = False, 0.0
        return events


async def _read(response: aiohttp.ClientResponse, *, until: float) -> bytes:
    """What comes next, b"" at the end; _NOTHING_CAME until then, where `until` is not 0."""
    if not until:
        return await response.content.readany()
    clock = asyncio.timeout_at(until)
    try:
        async with clock:
            return await response.content.readany()
    except TimeoutError:
        if clock.expired():
            return _NOTHING_CAME
        raise


async def read_capped(
    response: aiohttp.ClientResponse, cap: int, profile: ProviderProfile, *, truncate: bool = False
) -> bytes:
    length = response.content_length
    if length is not None and length <= cap:
        return await response.read()
    parts: list[bytes] = []
    received = 0
    async for data in response.content.iter_any():
        parts.append(data)
        received += len(data)
        if received > cap:
            if truncate:
                break
            raise ProviderAnswerInvalid(
                f"The answer of {profile.name} is longer than {cap} bytes.", provider=profile.id
            )
    return b"".join(parts)[:cap]


class _Body(aiohttp.BytesPayload):
    """Notes when it is sent: until then, while a connection is waited for, the call costs nothing."""

    def __init__(self, body: bytes, progress: CallProgress) -> None:
        super().__init__(body)
        self._progress = progress

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        self._progress.sent = True
        if faultpoints.is_armed("W3"):
            await writer.write(self._value[: len(self._value) // 2])
            faultpoints.hit("W3")
            await writer.write(self._value[len(self._value) // 2 :])
            return
        await super().write_with_length(writer, content_length)


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}
