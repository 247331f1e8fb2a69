"""Dead letters: jobs that were set aside, to be looked at, run again or thrown away.

A letter is an entry of `hr:{s}:dead:<provider>`; its job, with body and result, is a hash that goes by
its TTL while the letter stays. The result of a dead job is visible and never changes, so running it again
makes a new job of its envelope and body, once however often it is asked for (script `redrive`).
"""

from __future__ import annotations

import heapq
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

import orjson
from redis.exceptions import OutOfMemoryError, RedisError

from shared import keyspace
from shared.domain.job import Job, JobState, Lane, UnknownEnvelope
from shared.errors import (
    BrokerError,
    DeadLetterExpired,
    InvalidRequest,
    NotFound,
    QueueFull,
    QueueUnavailable,
)
from shared.ids import AccountId, JobId, RequestId, new_job_id_in
from shared.queue.redis_link import RedisLink
from shared.queue.script_calls import Scripts
from shared.settings import QueueSettings

MAX_PAGE: Final = 500
_FEED: Final = 100
"""Entries read of one stream at a time."""
_SCAN: Final = 10_000
"""Letters looked at for one page: one with few matches may come back short, with a cursor to go on."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_CURSOR: Final = re.compile(r"([1-9]\d{0,14})-(\d{1,15}):(\d{1,5}):([A-Za-z0-9_.-]{1,64})")

_Position = tuple[int, int, int, str]
"""Where a letter stands among all: ms and sequence of its entry, shard, provider. Newest is largest."""


@dataclass(frozen=True, slots=True)
class Which:
    """The letters that are meant: those with all of what is named here."""

    provider: str | None = None
    account: AccountId | None = None
    reason: str | None = None

    def holds(self, letter: DeadLetter) -> bool:
        return self.account in (None, letter.account) and self.reason in (None, letter.reason)


ALL: Final = Which()


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """`is_kept`: whether its job is still there, and so can be run again. `redriven_as`: the new job."""

    job_id: JobId
    provider: str
    reason: str
    died_at: datetime
    attempts: int
    deliveries: int
    account: AccountId | None
    request_id: RequestId | None
    kind: str
    lane: str
    model: str
    stream: bool
    position: _Position
    header: bytes
    is_kept: bool = False
    redriven_as: JobId | None = None

    def to_fields(self) -> dict[str, Any]:
        """What an operator sees. JSON values only."""
        return {
            "job_id": self.job_id,
            "provider": self.provider,
            "model": self.model,
            "reason": self.reason,
            "died_at": self.died_at.isoformat(),
            "attempts": self.attempts,
            "deliveries": self.deliveries,
            "account": self.account,
            "request_id": self.request_id,
            "kind": self.kind,
            "lane": self.lane,
            "stream": self.stream,
            "kept": self.is_kept,
            "redriven_as": self.redriven_as,
        }


@dataclass(frozen=True, slots=True)
class DeadJob:
    """A letter with what is left of its job; all but `letter` is None once that expired.

    `body`: what was asked, only where it was wanted.
    """

    letter: DeadLetter
    state: JobState | None = None
    error: dict[str, Any] | None = None
    created_at: datetime | None = None
    deadline: datetime | None = None
    finished_at: datetime | None = None
    expires_at: datetime | None = None
    body: Any = None

    def to_fields(self) -> dict[str, Any]:
        return {
            **self.letter.to_fields(),
            "state": self.state or "expired",
            "error": self.error,
            "created_at": _iso(self.created_at),
            "deadline": _iso(self.deadline),
            "finished_at": _iso(self.finished_at),
            "expires_at": _iso(self.expires_at),
            "body": self.body,
        }


@dataclass(frozen=True, slots=True)
class Page:
    """Newest first. `cursor` of the next page; None at the end."""

    letters: tuple[DeadLetter, ...]
    cursor: str | None


@dataclass(frozen=True, slots=True)
class Redriven:
    """`repeated`: it had been run again before, as this same new job."""

    job_id: JobId
    redriven_as: JobId
    repeated: bool

    def to_fields(self) -> dict[str, Any]:
        return {"job_id": self.job_id, "redriven_as": self.redriven_as, "repeated": self.repeated}


@dataclass(frozen=True, slots=True)
class RedrivenAll:
    """`more`: there may be letters left to run again, so ask once more."""

    redriven: tuple[Redriven, ...]
    failed: tuple[tuple[JobId, BrokerError], ...]
    more: bool


@dataclass(slots=True)
class _Feed:
    """One stream, read backwards a piece at a time."""

    key: str
    shard: int
    provider: str
    below: str
    """Newest id that is still to be read, as XREVRANGE takes it."""
    entries: list[tuple[bytes, list[bytes]]] = field(default_factory=list)
    """The next one last."""

    def command(self) -> tuple[str, str, str, str, str, int]:
        return ("XREVRANGE", self.key, self.below, "-", "COUNT", _FEED)

    def take_in(self, entries: list[tuple[bytes, list[bytes]]]) -> None:
        self.entries = entries[::-1]
        # Fewer than were asked for: its end.
        self.below = f"({entries[-1][0].decode()}" if len(entries) == _FEED else ""


class Counts(Protocol):
    """How a job that is run again counts among what its account uses. Raises RedisError."""

    async def note(self, job: Job) -> bool:
        """Before it is queued. Whether anything has to hear how it ended."""

    async def take_back(self, job: Job) -> None:
        """It was not queued."""


class DeadLetters:
    """`providers`: whose letters to look for where none is named. `counts`: None where nothing is counted."""

    def __init__(
        self,
        link: RedisLink,
        settings: QueueSettings,
        providers: Iterable[str],
        *,
        counts: Counts | None = None,
    ) -> None:
        self._link = link
        self._counts = counts
        self._scripts = Scripts(link)
        self._settings = settings
        self._providers = tuple(providers)

    async def page(self, which: Which = ALL, *, limit: int = 50, cursor: str | None = None) -> Page:
        """Raises InvalidRequest for a cursor that is none, QueueUnavailable."""
        letters: list[DeadLetter] = []
        looked_at = 0
        last: _Position | None = None
        with _told():
            async for letter in self._newest_first(which, after=_position_of(cursor)):
                if len(letters) == limit or looked_at == _SCAN:
                    break
                looked_at, last = looked_at + 1, letter.position
                if which.holds(letter):
                    letters.append(letter)
            else:
                last = None
            found = await self._with_their_jobs(letters)
        return Page(tuple(found), None if last is None else _cursor_of(last))

    async def show(self, job_id: JobId, *, include_body: bool = False) -> DeadJob:
        """Raises NotFound, QueueUnavailable."""
        with _told():
            letter = await self._find(job_id)
            key = keyspace.job(letter.position[2], job_id)
            (state, head, created, deadline, finished, body), left_ms, (seconds, micros) = _all_of(
                await self._link.execute_many(
                    [
                        ("HMGET", key, "state", "result_head", "created", "deadline", "finished", "body"),
                        ("PTTL", key),
                        ("TIME",),
                    ]
                )
            )
        if state is None:
            return DeadJob(letter)
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        return DeadJob(
            letter,
            state=JobState(state.decode()),
            error=_error_of(head),
            created_at=_moment(created),
            deadline=_moment(deadline),
            finished_at=_moment(finished),
            expires_at=_moment(now_ms + left_ms),
            body=orjson.loads(body) if include_body and body else None,
        )

    async def redrive(self, job_id: JobId) -> Redriven:
        """Run it again; the same new job however often this is called.

        Raises NotFound, DeadLetterExpired, QueueFull, QueueUnavailable.
        """
        with _told():
            return await self._redrive(await self._find(job_id))

    async def redrive_all(self, which: Which, *, limit: int = MAX_PAGE) -> RedrivenAll:
        """Run up to `limit` of them again, newest first; those that already were are passed over.

        Raises QueueUnavailable.
        """
        redriven: list[Redriven] = []
        failed: list[tuple[JobId, BrokerError]] = []
        cursor: str | None = None
        while True:
            page = await self.page(which, limit=MAX_PAGE, cursor=cursor)
            for letter in page.letters:
                if not letter.is_kept or letter.redriven_as is not None:
                    continue
                if len(redriven) == limit:
                    return RedrivenAll(tuple(redriven), tuple(failed), more=True)
                try:
                    with _told():
                        redriven.append(await self._redrive(letter))
                except QueueFull as error:
                    failed.append((letter.job_id, error))
                    return RedrivenAll(tuple(redriven), tuple(failed), more=True)
                except (DeadLetterExpired, InvalidRequest) as error:
                    failed.append((letter.job_id, error))
            if page.cursor is None:
                return RedrivenAll(tuple(redriven), tuple(failed), more=False)
            cursor = page.cursor

    async def purge(self, job_id: JobId) -> None:
        """Throw it away: it cannot be run again. Raises NotFound, QueueUnavailable."""
        with _told():
            await self._purge([await self._find(job_id)])

    async def purge_older_than(self, age: timedelta, which: Which = ALL) -> int:
        """How many were thrown away. Raises QueueUnavailable."""
        with _told():
            seconds, micros = await self._link.execute("TIME")
            limit_ms = int(seconds) * 1000 + int(micros) // 1000 - int(age.total_seconds() * 1000)
            purged = 0
            batch: list[DeadLetter] = []
            async for letter in self._newest_first(which, after=(max(limit_ms, 1), 0, 0, "")):
                if which.holds(letter):
                    batch.append(letter)
                if len(batch) == _FEED:
                    purged += await self._purge(batch)
                    batch = []
            return purged + await self._purge(batch)

    async def count(self) -> dict[str, int]:
        """Letters by provider, those with none included. Raises RedisError."""
        shards = range(self._settings.shards)
        lengths = _all_of(
            await self._link.execute_many(
                [("XLEN", keyspace.dead(shard, name)) for name in self._providers for shard in shards]
            )
        )
        of_each = len(shards)
        return {name: sum(lengths[i * of_each : (i + 1) * of_each]) for i, name in enumerate(self._providers)}

    async def _newest_first(
        self, which: Which, *, after: _Position | None, shards: Sequence[int] | None = None
    ) -> AsyncIterator[DeadLetter]:
        """The letters of all streams as one."""
        feeds = [
            _Feed(keyspace.dead(shard, name), shard, name, _start_of(after, shard, name))
            for name in ([which.provider] if which.provider else self._providers)
            for shard in (range(self._settings.shards) if shards is None else shards)
        ]
        await self._fill(feeds)
        heads: list[tuple[tuple[int, int, int, int], DeadLetter, _Feed]] = []

        def next_of(feed: _Feed) -> None:
            entry, fields = feed.entries.pop()
            letter = _read(entry, fields, feed)
            ms, sequence, shard, _ = letter.position
            # Negated, as a heap has its smallest on top; names cannot be, so their order stands for them.
            heapq.heappush(heads, ((-ms, -sequence, -shard, rank[feed.provider]), letter, feed))

        rank = {name: -turn for turn, name in enumerate(sorted({feed.provider for feed in feeds}))}
        for feed in feeds:
            if feed.entries:
                next_of(feed)
        while heads:
            _, letter, feed = heapq.heappop(heads)
            yield letter
            if not feed.entries and feed.below:
                await self._fill([feed])
            if feed.entries:
                next_of(feed)

    async def _fill(self, feeds: Sequence[_Feed]) -> None:
        answers = _all_of(await self._link.execute_many([feed.command() for feed in feeds]))
        for feed, entries in zip(feeds, answers, strict=True):
            feed.take_in(entries)

    async def _find(self, job_id: JobId) -> DeadLetter:
        shard = keyspace.shard_of(job_id, self._settings.shards)
        async for letter in self._newest_first(ALL, after=None, shards=[shard]):
            if letter.job_id == job_id:
                return (await self._with_their_jobs([letter]))[0]
        raise NotFound("There is no such dead letter.")

    async def _with_their_jobs(self, letters: Sequence[DeadLetter]) -> list[DeadLetter]:
        """What their jobs say of them."""
        jobs = _all_of(
            await self._link.execute_many(
                [
                    ("HMGET", keyspace.job(letter.position[2], letter.job_id), "body", "redriven_as")
                    for letter in letters
                ]
            )
        )
        return [
            replace(letter, is_kept=body is not None, redriven_as=JobId(new_id.decode()) if new_id else None)
            for letter, (body, new_id) in zip(letters, jobs, strict=True)
        ]

    async def _redrive(self, letter: DeadLetter) -> Redriven:
        shard = letter.position[2]
        new_id = new_job_id_in(shard, lambda name: keyspace.shard_of(name, self._settings.shards))
        envelope = orjson.loads(letter.header)
        envelope["id"] = new_id
        # Of the dead one: a row that has ended takes no other end.
        envelope.pop("row", None)
        if isinstance(envelope.get("trace"), dict):
            envelope["trace"]["past"] = True
        provider, lane = envelope["plan"][0][0], Lane(envelope["lane"])
        noted = await self._noted(letter, envelope)
        envelope.pop("held", None)
        if noted is not None:
            envelope["held"] = True
        answer = await self._scripts.call(
            "redrive",
            [
                keyspace.job(shard, letter.job_id),
                keyspace.job(shard, new_id),
                keyspace.lane(shard, provider, lane),
                keyspace.backlog(shard, provider, lane),
            ],
            new_id,
            orjson.dumps(envelope),
            envelope["budget"],
            self._settings.max_lane_entries,
            self._settings.shard_window,
            self._settings.shard_cap,
        )
        if noted is not None and (answer[0] != b"redriven" or answer[1].decode() != new_id):
            await self._take_back(noted)
        if answer[0] == b"gone":
            raise DeadLetterExpired(
                "What this dead letter asked for is no longer kept, so it cannot be run again.",
                details={"job_id": letter.job_id},
            )
        if answer[0] == b"full":
            raise QueueFull(
                f"The queue for {provider} holds {answer[1]} jobs and takes no more right now.",
                retry_after_seconds=5,
            )
        redriven_as = JobId(answer[1].decode())
        return Redriven(letter.job_id, redriven_as, repeated=redriven_as != new_id)

    async def _noted(self, letter: DeadLetter, envelope: Mapping[str, Any]) -> Job | None:
        """The new job, if something is held for it. First of all: what runs is counted."""
        if self._counts is None or not letter.is_kept or letter.redriven_as is not None:
            return None
        body = await self._link.execute("HGET", keyspace.job(letter.position[2], letter.job_id), "body")
        if body is None:
            return None
        try:
            job = Job.from_wire(orjson.dumps(envelope), body)
        except UnknownEnvelope:
            return None
        return job if await self._counts.note(job) else None

    async def _take_back(self, job: Job) -> None:
        """Should this fail, it lapses."""
        if self._counts is not None:
            with suppress(RedisError, OSError):
                await self._counts.take_back(job)

    async def _purge(self, letters: Sequence[DeadLetter]) -> int:
        removed = 0
        for letter in letters:
            ms, sequence, shard, provider = letter.position
            keys = [keyspace.dead(shard, provider), keyspace.job(shard, letter.job_id)]
            removed += await self._scripts.call("purge", keys, f"{ms}-{sequence}")
        return removed


def _read(entry: bytes, fields: Sequence[bytes], feed: _Feed) -> DeadLetter:
    """Whatever release wrote it: what it does not say stays empty."""
    said = dict(zip(fields[::2], fields[1::2], strict=True))
    ms, sequence = (int(part) for part in entry.split(b"-"))
    header = said.get(b"header", b"{}")
    envelope: Mapping[str, Any] = orjson.loads(header)
    plan = envelope.get("plan") or [(feed.provider, "", "")]
    return DeadLetter(
        job_id=JobId(said.get(b"job", b"").decode()),
        provider=feed.provider,
        reason=said.get(b"reason", b"").decode(),
        died_at=_EPOCH + timedelta(milliseconds=ms),
        attempts=int(said.get(b"attempts", 0)),
        deliveries=int(said.get(b"deliveries", 0)),
        account=envelope.get("account"),
        request_id=envelope.get("req"),
        kind=envelope.get("kind", ""),
        lane=envelope.get("lane", ""),
        model=plan[0][1],
        stream=envelope.get("stream", False),
        position=(ms, sequence, feed.shard, feed.provider),
        header=header,
    )


def _start_of(after: _Position | None, shard: int, provider: str) -> str:
    """Where to begin in the stream of this shard and provider, as XREVRANGE takes it."""
    if after is None:
        return "+"
    ms, sequence, *stream = after
    return f"{ms}-{sequence}" if [shard, provider] < stream else f"({ms}-{sequence}"


def _cursor_of(position: _Position) -> str:
    ms, sequence, shard, provider = position
    return f"{ms}-{sequence}:{shard}:{provider}"


def _position_of(cursor: str | None) -> _Position | None:
    if cursor is None:
        return None
    found = _CURSOR.fullmatch(cursor)
    if found is None:
        raise InvalidRequest("cursor: is not one that a page of dead letters gave", param="cursor")
    return int(found[1]), int(found[2]), int(found[3]), found[4]


def _error_of(head: bytes | None) -> dict[str, Any] | None:
    error = orjson.loads(head).get("error") if head else None
    return {"code": error} if isinstance(error, str) else error


def _moment(ms: bytes | int | None) -> datetime | None:
    return None if ms is None else _EPOCH + timedelta(milliseconds=int(ms))


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _all_of(answers: list[Any]) -> list[Any]:
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return answers


@contextmanager
def _told() -> Iterator[None]:
    """What Redis says, as callers hear it."""
    try:
        yield
    except OutOfMemoryError as exc:
        raise QueueFull("The queue's memory is full.", retry_after_seconds=5) from exc
    except (RedisError, OSError) as exc:
        raise QueueUnavailable("The queue is not reachable right now.", retry_after_seconds=1) from exc
