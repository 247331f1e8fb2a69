"""A closed-loop load generator: so many connections, one call in flight on each.

    python -m bench.load --url http://127.0.0.1:9100/v1/chat/completions --key k \
        --concurrency 64 --seconds 5 [--stream --chunks 50] [--json]

It costs little CPU of its own, because it shares a machine with what it measures:
one prepared request, a parser in C that reports bodies only, no task per call.
"""

import argparse
import asyncio
import contextlib
import sys
import time
from array import array
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import httptools
import orjson

_RECONNECT_SECONDS = 0.05
_GRACE_SECONDS = 30.0
"""The run is given up when no call has ended for so long."""
_DONE = b"data: [DONE]"
_FRAME = b"\ndata:"


@dataclass(frozen=True, slots=True)
class LoadResult:
    """`requests` are the calls that ended well; the figures are theirs. `errors` are the others, by kind.

    Kinds: `status_<code>`, `connect`, `closed` (mid-reply), `no_done` (a stream without [DONE]),
    `malformed` (not HTTP), `unfinished` (given up).
    `ttfb` is the time to the first byte of the reply, headers included. `chunks` counts `data:`
    frames, [DONE] excluded. `cpu_us_per_request` is this process's own CPU.
    """

    requests: int
    errors: int
    error_kinds: dict[str, int]
    elapsed_s: float
    rps: float
    p50_ms: float
    p99_ms: float
    ttfb_p50_ms: float
    ttfb_p99_ms: float
    chunks: int
    chunks_per_s: float
    cpu_us_per_request: float
    latencies_s: list[float] = field(repr=False)


async def run_load(
    url: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    concurrency: int,
    stream: bool = False,
    duration_s: float | None = None,
    requests: int | None = None,
    grace_s: float = _GRACE_SECONDS,
) -> LoadResult:
    """POST `body` to `url` again and again, for `duration_s` or until `requests` calls were made."""
    if (duration_s is None) == (requests is None):
        raise ValueError("Give either duration_s or requests.")
    target = urlsplit(url)
    if target.scheme != "http" or target.hostname is None:
        raise ValueError(f"Only http:// is spoken here, not {url}.")
    run = _Run(render_request(url, headers, body), stream=stream, budget=requests)
    slots = [_Slot(run, target.hostname, target.port or 80) for _ in range(concurrency)]

    cpu, began = time.process_time(), time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for at, slot in enumerate(slots):
            group.create_task(slot.connect(), name=f"connect-{at}")
    if duration_s is not None:
        asyncio.get_running_loop().call_later(duration_s, run.stop)
    await run.end(grace_s=grace_s)
    elapsed, cpu = run.last_end - began, time.process_time() - cpu
    run.stop()
    for slot in slots:
        slot.abandon()
    return run.result(elapsed=elapsed, cpu=cpu)


def render_request(url: str, headers: Mapping[str, str], body: bytes) -> bytes:
    target = urlsplit(url)
    path = (target.path or "/") + (f"?{target.query}" if target.query else "")
    lines = [f"POST {path} HTTP/1.1", f"host: {target.netloc}", f"content-length: {len(body)}"]
    if not any(name.lower() == "content-type" for name in headers):
        lines.append("content-type: application/json")
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


class _Run:
    """What the slots share: the request, the budget, the figures."""

    def __init__(self, request: bytes, *, stream: bool, budget: int | None) -> None:
        self.request, self.stream, self._budget = request, stream, budget
        self.is_stopped = False
        self.in_flight = 0
        self.errors: Counter[str] = Counter()
        self.latencies, self.first_bytes = array("d"), array("d")
        self.chunks = 0
        self.last_end = time.perf_counter()
        self.finished = asyncio.Event()

    def take(self) -> bool:
        """Whether a slot may make another call; if so, the call is counted as in flight."""
        if self._budget is not None:
            if self._budget <= 0:
                self.stop()
            self._budget -= 1
        if self.is_stopped:
            return False
        self.in_flight += 1
        return True

    def succeed(self, *, began: float, first_byte: float, chunks: int) -> None:
        now = time.perf_counter()
        self.latencies.append(now - began)
        self.first_bytes.append(first_byte - began)
        self.chunks += chunks
        self._end(now)

    def fail(self, kind: str) -> None:
        self.errors[kind] += 1
        self._end(time.perf_counter())

    def stop(self) -> None:
        self.is_stopped = True
        if not self.in_flight:
            self.finished.set()

    async def end(self, *, grace_s: float) -> None:
        """Return when the last call has ended, or when none did for `grace_s`."""
        while not self.finished.is_set():
            seen = self.last_end
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await self.finished.wait()
            if self.last_end == seen and not self.finished.is_set():
                self.errors["unfinished"] += self.in_flight
                return

    def _end(self, now: float) -> None:
        self.last_end = now
        self.in_flight -= 1
        if self.is_stopped and not self.in_flight:
            self.finished.set()

    def result(self, *, elapsed: float, cpu: float) -> LoadResult:
        done, elapsed = len(self.latencies), max(elapsed, 1e-9)
        latencies, first_bytes = sorted(self.latencies), sorted(self.first_bytes)
        return LoadResult(
            requests=done,
            errors=self.errors.total(),
            error_kinds=dict(self.errors),
            elapsed_s=elapsed,
            rps=done / elapsed,
            p50_ms=_percentile_ms(latencies, 50),
            p99_ms=_percentile_ms(latencies, 99),
            ttfb_p50_ms=_percentile_ms(first_bytes, 50),
            ttfb_p99_ms=_percentile_ms(first_bytes, 99),
            chunks=self.chunks,
            chunks_per_s=self.chunks / elapsed,
            cpu_us_per_request=cpu / max(done + self.errors.total(), 1) * 1e6,
            latencies_s=self.latencies.tolist(),
        )


class _Slot(asyncio.Protocol):
    """One connection with one call in flight, reconnecting when the server closes it."""

    def __init__(self, run: _Run, host: str, port: int) -> None:
        self._run, self._host, self._port = run, host, port
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._is_calling = False
        self._began = 0.0
        self._first_byte = 0.0
        self._chunks = 0
        self._carried = b""
        self._ending = b""

    async def connect(self) -> None:
        while not self._run.is_stopped:
            try:
                await self._loop.create_connection(lambda: self, self._host, self._port)
            except OSError:
                if self._run.take():
                    self._run.fail("connect")
                await asyncio.sleep(_RECONNECT_SECONDS)
            else:
                return

    def abandon(self) -> None:
        self._is_calling = False
        if self._connecting is not None:
            self._connecting.cancel()
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpResponseParser(self)
        self._call()

    def data_received(self, data: bytes) -> None:
        if not self._first_byte:
            self._first_byte = time.perf_counter()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._fail("malformed")
            self._close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._fail("closed")
        if not self._run.is_stopped:
            self._connecting = self._loop.create_task(self.connect(), name="reconnect")

    # httptools

    def on_body(self, body: bytes) -> None:
        if self._run.stream:
            window = self._carried + body
            self._chunks += window.count(_FRAME)
            # One byte less than the pattern, so no frame is missed and none counted twice.
            self._carried = window[1 - len(_FRAME) :]
            self._ending = (self._ending + body)[-32:]

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status not in {200, 202}:
            self._fail(f"status_{status}")
        elif self._run.stream and not self._ending.rstrip().endswith(_DONE):
            self._fail("no_done")
        elif self._is_calling:
            self._is_calling = False
            chunks = self._chunks - 1 if self._run.stream else 0
            self._run.succeed(began=self._began, first_byte=self._first_byte, chunks=chunks)
        if self._parser.should_keep_alive():
            self._call()
        else:
            self._close()

    def _call(self) -> None:
        if self._transport is None or not self._run.take():
            return
        self._is_calling = True
        self._first_byte, self._chunks, self._carried, self._ending = 0.0, 0, b"\n", b""
        self._began = time.perf_counter()
        self._transport.write(self._run.request)

    def _fail(self, kind: str) -> None:
        if self._is_calling:
            self._is_calling = False
            self._run.fail(kind)

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def _percentile_ms(ordered: list[float], percent: int) -> float:
    """Nearest rank."""
    if not ordered:
        return 0.0
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)] * 1000


def render_chat(
    *, model: str, text: str, stream: bool, chunks: int | None = None, pace_ms: int | None = None
) -> bytes:
    """A chat body; with `chunks`, under the directive that makes the scripted provider stream so many.

    `pace_ms`: its pause between two of them; without, it writes them all at once.
    """
    if chunks is not None:
        pace = "" if pace_ms is None else f',"between_chunks_ms":{pace_ms}'
        text = f'!script {{"chunks":{chunks}{pace}}}\n{text}'
    body: dict[str, object] = {"model": model, "messages": [{"role": "user", "content": text}]}
    return orjson.dumps(body | {"stream": True} if stream else body)


def main() -> None:
    options = _parser().parse_args()
    headers = {"authorization": f"Bearer {options.key}"}
    headers |= dict(line.split(":", 1) for line in options.header)
    body = (
        options.body.read_bytes()
        if options.body
        else render_chat(
            model=options.model,
            text=options.text,
            stream=options.stream,
            chunks=options.chunks if options.stream else None,
            pace_ms=options.pace_ms,
        )
    )
    run = run_load(
        options.url,
        headers,
        body,
        concurrency=options.concurrency,
        stream=options.stream,
        duration_s=None if options.requests else options.seconds,
        requests=options.requests,
    )
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        result = runner.run(run)
    figures = asdict(result)
    del figures["latencies_s"]
    if options.json:
        print(orjson.dumps(figures).decode())
    else:
        for name, value in figures.items():
            print(f"{name:20}{value:.2f}" if isinstance(value, float) else f"{name:20}{value}")
    sys.exit(1 if result.errors else 0)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if sys.platform == "win32":
        return None
    import uvloop  # noqa: PLC0415 - not installed on Windows

    return uvloop.new_event_loop


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.load", description=run_load.__doc__)
    parser.add_argument("--url", required=True, help="of the chat completions route, in full")
    parser.add_argument("--key", required=True)
    parser.add_argument("--header", action="append", default=[], metavar="NAME:VALUE")
    parser.add_argument("--model", default="scripted-small")
    parser.add_argument("--text", default="How much water does the wheel need?")
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--requests", type=int, help="so many calls instead of --seconds")
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--chunks", type=int, default=50)
    parser.add_argument("--body", type=Path, help="file with the whole body, instead of a chat")
    parser.add_argument("--pace-ms", type=int, help="pause of the scripted provider between two chunks")
    parser.add_argument("--json", action="store_true")
    return parser


if __name__ == "__main__":
    main()
