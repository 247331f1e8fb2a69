"""The callers: what they ask, how they read the answer, and what they write down about it."""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from tests.chaos.history import Ending, Exchange, StreamEvent

PATH: Final = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Script:
    """What one caller asks, and what the provider is told to answer."""

    name: str
    stream: bool
    text: str
    cue: dict[str, Any]

    def body(self) -> dict[str, Any]:
        content = f"!script {json.dumps(self.cue)}\nSay it."
        return {
            "model": "gpt-4o-mini",
            "stream": self.stream,
            "messages": [{"role": "user", "content": content}],
        }


@dataclass(frozen=True, slots=True)
class Manner:
    """How long answers take, how many of them are streams, and how often the provider refuses first."""

    streams: float = 0.3
    refusals: int = 0
    delay_ms: tuple[int, int] = (50, 250)
    chunks: int = 10
    pace_ms: int = 15
    words: int = 30


def scripts(prefix: str, rng: random.Random, manner: Manner) -> Iterator[Script]:
    """Without end. No two answers share a word, so that whatever goes astray is seen."""
    number = 0
    while True:
        number += 1
        name = f"{prefix}-{number:06d}"
        stream = rng.random() < manner.streams
        text = " ".join(f"{name}.{i}é✓" for i in range(manner.words))
        cue: dict[str, Any] = {"name": name, "text": text, "before_headers_ms": rng.randint(*manner.delay_ms)}
        if stream:
            cue |= {"chunks": manner.chunks, "between_chunks_ms": manner.pace_ms}
        if manner.refusals:
            cue |= {"status": 503, "fail_times": {"key": name, "n": manner.refusals}}
        yield Script(name, stream, text, cue)


@asynccontextmanager
async def session_of(api_key: str) -> AsyncIterator[aiohttp.ClientSession]:
    """A pool of connections to all apis."""
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        headers={"authorization": f"Bearer {api_key}"},
        timeout=aiohttp.ClientTimeout(total=120),
        trust_env=False,
    ) as session:
        yield session


async def ask(
    session: aiohttp.ClientSession, url: str, script: Script, *, headers: dict[str, str] | None = None
) -> Exchange:
    """Send it and read the answer to its end, however it ends."""
    notes = Notes(script)
    try:
        async with session.post(
            url + PATH, json=script.body(), headers={"x-request-id": script.name, **(headers or {})}
        ) as answer:
            await notes.read_all(answer)
            return notes.end()
    except (aiohttp.ClientError, OSError, TimeoutError) as exc:
        return notes.lost(exc)


class Notes:
    """What one caller has seen so far of its answer, over one connection or several."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.name = script.name
        self._began_at = time.time()
        self._status: int | None = None
        self._job: str | None = None
        self._raw = bytearray()

    @property
    def job(self) -> str | None:
        return self._job

    async def read_all(self, answer: aiohttp.ClientResponse) -> None:
        self._status = answer.status
        self._job = answer.headers.get("x-headrace-job-id") or self._job
        async for data in answer.content.iter_any():
            self._raw += data

    def drop_partial_event(self) -> None:
        """The connection broke: what is not a whole event yet comes again."""
        whole = self._raw.rfind(b"\n\n")
        del self._raw[whole + 2 if whole >= 0 else 0 :]

    def drop_error_event(self) -> None:
        """The server said why it stopped: what follows comes from another one."""
        self.drop_partial_event()
        error = self._raw.rfind(b'data: {"error"')
        del self._raw[error if error >= 0 else len(self._raw) :]

    @property
    def raw(self) -> bytes:
        return bytes(self._raw)

    @property
    def events(self) -> tuple[StreamEvent, ...]:
        return tuple(parse_events(self._raw.decode()))

    @property
    def last_ordinal(self) -> int:
        """Of the last whole event; 0 when there was none. Reads ids, so the caller must ask for them."""
        ids = re.findall(rb"^id: \S+:(\d+)\ndata: .*\n\n", self._raw, re.MULTILINE)
        return int(ids[-1]) if ids else 0

    def end(self) -> Exchange:
        if self._status != 200:
            return self._exchange(Ending.REFUSED, code=_code_in(self._raw.decode()))
        if not self.script.stream:
            return self._exchange(Ending.WHOLE)
        events = self.events
        last = events[-1].data if events else ""
        if last == "[DONE]":
            return self._exchange(Ending.WHOLE)
        if last.startswith('{"error"'):
            return self._exchange(Ending.ERROR, code=_code_in(last))
        return self._exchange(Ending.CUT)

    def lost(self, exc: BaseException) -> Exchange:
        self.drop_partial_event()
        return self._exchange(Ending.LOST, code=type(exc).__name__)

    def _exchange(self, ending: Ending, *, code: str | None = None) -> Exchange:
        script, answered = self.script, self._status == 200
        events = self.events if script.stream and answered else ()
        body = "" if script.stream and answered else self._raw.decode()
        text, finishes = "", 0
        if events:
            chunks = [json.loads(e.data) for e in events if e.data.startswith('{"id"')]
            choices = [chunk["choices"][0] for chunk in chunks if chunk["choices"]]
            text = "".join(choice["delta"].get("content") or "" for choice in choices)
            finishes = sum(choice["finish_reason"] is not None for choice in choices)
        elif answered and ending is Ending.WHOLE:
            text = json.loads(body)["choices"][0]["message"]["content"]
        return Exchange(
            name=script.name,
            stream=script.stream,
            expected=script.text,
            began_at=self._began_at,
            ended_at=time.time(),
            ending=ending,
            status=self._status,
            code=code,
            job=self._job,
            body=body,
            events=events,
            text=text,
            finishes=finishes,
        )


def parse_events(raw: str) -> Iterator[StreamEvent]:
    """The events of a stream that ends at an event's end. Comments are left out."""
    for frame in raw.split("\n\n"):
        ordinal: int | None = None
        data: list[str] = []
        for line in frame.split("\n"):
            field, _, value = line.partition(": ")
            if field == "id":
                ordinal = int(value.rpartition(":")[2])
            elif field == "data":
                data.append(value)
        if data:
            yield StreamEvent(ordinal, "\n".join(data))


def _code_in(body: str) -> str | None:
    try:
        error = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return None
    code: str | None = error.get("code") or error.get("type")
    return code


async def closed_loop(
    send: Callable[[Script], Awaitable[Exchange]],
    asks: Iterator[Script],
    exchanges: list[Exchange],
    *,
    callers: int,
    jobs: int,
    until: Callable[[], bool] = lambda: True,
) -> None:
    """`callers` at once, each asking again once it was answered: `jobs` times in all, and until `until`."""
    sent = 0

    async def caller() -> None:
        nonlocal sent
        while sent < jobs or not until():
            sent += 1
            exchanges.append(await send(next(asks)))

    async with asyncio.TaskGroup() as group:
        for number in range(min(callers, jobs)):
            group.create_task(caller(), name=f"caller-{number}")


async def open_loop(
    send: Callable[[Script], Awaitable[Exchange]],
    asks: Iterator[Script],
    exchanges: list[Exchange],
    *,
    rate: float,
    until: Callable[[], bool],
) -> None:
    """`rate` of them a second, evenly, whether or not anybody answers; returns when all are over."""
    began, sent = time.monotonic(), 0

    async def one(script: Script) -> None:
        exchanges.append(await send(script))

    async with asyncio.TaskGroup() as group:
        while not until():
            due = int((time.monotonic() - began) * rate)
            for _ in range(due - sent):
                script = next(asks)
                group.create_task(one(script), name=script.name)
            sent = max(sent, due)
            await asyncio.sleep(max(0.001, began + (sent + 1) / rate - time.monotonic()))
