"""The ledger's writer: batches of settled jobs, from their streams into the usage table.

What was reserved for a job is settled first, in Redis alone, so that budgets are right also
while the database is away. Then the order is commit, then acknowledge. Dying in between
delivers the batch again, and the job id, which is the table's key, absorbs it; the other
order would lose charges. An entry that nobody can read goes to a stream of its own, with the
reason, and holds up nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from loguru import logger
from redis.exceptions import OutOfMemoryError, ResponseError
from sqlalchemy.ext.asyncio import AsyncEngine

from shared import keyspace
from shared.clock import Clock, SystemClock
from shared.db.engine import refuses_the_data, writing
from shared.db.repositories import usage
from shared.db.repositories.usage import SettledJob
from shared.domain.job import Job, JobKind, UnknownEnvelope
from shared.domain.usage import LARGEST_COUNT, Attempt, Settlement
from shared.ids import AccountId
from shared.limits.reservations import Count, Ended, Reservations
from shared.observability import metrics
from shared.queue.redis_link import RedisArg, RedisLink

BATCH: Final = 500
CLAIM_IDLE_SECONDS: Final = 30.0
"""How long an entry may lie with a writer before another takes it: the writer is dead."""
_CURRENT_SECONDS: Final = 15
"""How long its word counts that it has read all there was: longer than it waits for usage."""
_ACKNOWLEDGE: Final = """
for i = 2, #ARGV do
  redis.call('XACK', KEYS[1], ARGV[1], ARGV[i])
  redis.call('XDEL', KEYS[1], ARGV[i])
end
"""
_REJECT: Final = """
if #ARGV > 2 then redis.call('XADD', KEYS[2], '*', unpack(ARGV, 3)) end
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
redis.call('XDEL', KEYS[1], ARGV[2])
"""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_COUNTS: Final = range(LARGEST_COUNT + 1)


@dataclass(frozen=True, slots=True)
class _Entry:
    id: bytes
    fields: dict[bytes, bytes]


def _entry(entry_id: bytes, flat: list[bytes] | None) -> _Entry:
    """Of an entry that was deleted while it was pending, the fields are missing."""
    pairs = flat or []
    return _Entry(entry_id, dict(zip(pairs[::2], pairs[1::2], strict=True)))


class Unreadable(Exception):
    """A usage entry the ledger cannot take, and why."""


OnCounts = Callable[[AccountId, Sequence[Count]], None]
"""Told how the budgets of an account stand after a settlement."""


class LedgerWriter:
    """One consumer of the usage streams; any number may run.

    `link` is its own, for it waits on it, and for longer than `block_ms`. `consumer` is unique
    among running processes.
    """

    def __init__(
        self,
        link: RedisLink,
        engine: AsyncEngine,
        shards: int,
        consumer: str,
        *,
        claim_idle_seconds: float = CLAIM_IDLE_SECONDS,
        clock: Clock | None = None,
        on_counts: OnCounts | None = None,
        markup_percent: int = 0,
    ) -> None:
        self._link = link
        self._reservations = Reservations(link)
        self._on_counts = on_counts
        self._markup_percent = markup_percent
        self._engine = engine
        self._shards = range(shards)
        self._consumer = consumer
        self._claim_idle_seconds = claim_idle_seconds
        self._clock = clock or SystemClock()
        self._next_claim = self._clock.monotonic()
        self._unfinished = set(self._shards)
        """Shards in which entries may be with us and not acknowledged: at the start, after a failure."""
        self._turn = 0
        self._next_say = self._clock.monotonic()

    async def settle_once(self, block_ms: int) -> int:
        """Write what waits, up to a batch a shard; returns how many entries were taken off the streams.

        Waits up to `block_ms` for the first when there is none; 0 waits not at all. Raises
        what the database or Redis raises: then nothing of the failed batch was acknowledged,
        and the next call begins with it. The caller backs off.
        """
        settled = 0
        # First of all: while the database is away, nothing behind the first write is reached.
        behind_on_rows = self._unfinished.issuperset(self._shards)
        for shard in self._shards:
            if shard in self._unfinished:
                await self._settle_reservations_of_new(shard)
        if behind_on_rows:
            # With the database away too, all that ended was heard of.
            await self._say_it_is_current()
        if self._clock.monotonic() >= self._next_claim:
            behind = set(self._unfinished)
            settled += await self._settle_claimed()
            # That some entries were claimed and written says nothing of the others.
            self._unfinished |= behind
            self._next_claim = self._clock.monotonic() + self._claim_idle_seconds / 2
        for shard in self._shards:
            if shard in self._unfinished:
                settled += await self._settle_unfinished(shard)
            else:
                settled += await self._settle(shard, await self._read(shard, ">"))
        if settled < BATCH:
            await self._say_it_is_current()
        if settled == 0 and block_ms > 0:
            # One shard in turn: streams of several slots cannot be read by one command of a cluster.
            self._turn = (self._turn + 1) % len(self._shards)
            settled = await self._settle(self._turn, await self._read(self._turn, ">", block_ms=block_ms))
        return settled

    async def _say_it_is_current(self) -> None:
        """So that reservations lapse of jobs it would have heard of by now, and of no others."""
        now = self._clock.monotonic()
        if now >= self._next_say:
            # On a full Redis nothing lapses, and the ledger goes on.
            with suppress(OutOfMemoryError):
                await self._link.execute("SET", keyspace.LEDGER_CURRENT, "1", "EX", _CURRENT_SECONDS)
            self._next_say = now + _CURRENT_SECONDS / 5

    async def _settle_reservations_of_new(self, shard: int) -> None:
        """So that budgets do not wait for a database that is away. The entries are then unfinished ones."""
        while True:
            new = await self._read(shard, ">")
            await self._settle_reservations([settled for entry in new if (settled := _readable(entry))])
            # Also where nothing is new: something of before is still to be written.
            self._unfinished.add(shard)
            if len(new) < BATCH:
                return

    async def _settle_reservations(self, batch: Sequence[SettledJob]) -> None:
        """Raises RedisError; again changes nothing."""
        held: dict[AccountId, list[Ended]] = {}
        for settled in batch:
            if settled.job.held:
                tokens = settled.settlement.usage.total_tokens
                ended = Ended(settled.job.id, tokens, settled.cost_micro_usd, settled.settled_at)
                held.setdefault(settled.job.account, []).append(ended)
        counts = await asyncio.gather(*(self._reservations.settle_all(*of_one) for of_one in held.items()))
        if self._on_counts is not None:
            for account, found in zip(held, counts, strict=True):
                self._on_counts(account, found)

    async def _settle_unfinished(self, shard: int) -> int:
        """What was delivered to this consumer and not acknowledged."""
        settled = 0
        while entries := await self._read(shard, "0"):
            settled += await self._settle(shard, entries)
        return settled

    async def _settle_claimed(self) -> int:
        """What was delivered to a consumer that died."""
        settled = 0
        for shard in self._shards:
            cursor: bytes | str = "0-0"
            while True:
                cursor, entries = await self._claim(shard, cursor)
                settled += await self._settle(shard, entries)
                if cursor == b"0-0":
                    break
        return settled

    async def _settle(self, shard: int, entries: Sequence[_Entry]) -> int:
        if not entries:
            return 0
        self._unfinished.add(shard)
        batch: list[SettledJob] = []
        accepted: list[_Entry] = []
        rejected: list[tuple[_Entry, str]] = []
        for entry in entries:
            try:
                batch.append(read_entry(entry.id, entry.fields))
            except Unreadable as error:
                rejected.append((entry, str(error)))
            else:
                accepted.append(entry)
        if batch:
            await self._settle_reservations(batch)
            refused = await self._write(batch)
            rejected += [(entry, refused[at]) for at, entry in enumerate(accepted) if at in refused]
            await self._acknowledge(shard, [entry for at, entry in enumerate(accepted) if at not in refused])
        for entry, reason in rejected:
            await self._reject(shard, entry, reason)
        self._unfinished.discard(shard)
        return len(entries)

    async def _write(self, batch: Sequence[SettledJob]) -> dict[int, str]:
        """Places in `batch` of what the database will never take, and why; all else is committed."""
        try:
            await self._record(batch)
        except Exception as error:
            if not refuses_the_data(error):
                raise
            if len(batch) == 1:
                return {0: f"the database refuses it: {type(error).__name__}"}
        else:
            return {}
        # One of them, and the error does not say which.
        refused = {}
        for at, settled in enumerate(batch):
            for reason in (await self._write([settled])).values():
                refused[at] = reason
        return refused

    async def _record(self, batch: Sequence[SettledJob]) -> None:
        # Asking after a batch at its provider is nobody's request: those within it are.
        billed = [settled for settled in batch if settled.job.kind is not JobKind.PROVIDER_BATCH]
        if not billed:
            return
        async with writing(self._engine) as connection:
            await usage.record_settlements(connection, billed, markup_percent=self._markup_percent)
        for settled in billed:
            spent = settled.settlement
            metrics.count_settled(
                spent.provider,
                spent.outcome,
                prompt=spent.usage.prompt_tokens,
                completion=spent.usage.completion_tokens,
                cached=spent.usage.cached_tokens,
                cost_micro_usd=settled.cost_micro_usd,
            )

    async def _read(self, shard: int, after: str, *, block_ms: int | None = None) -> list[_Entry]:
        """`after`: ">" what nobody has had yet, "0" what is ours already."""
        stream = keyspace.usage(shard)
        # Until the answer is here: a reply that is lost on its way leaves its entries with us.
        self._unfinished.add(shard)
        command: tuple[RedisArg, ...] = (
            "XREADGROUP", "GROUP", keyspace.LEDGER_GROUP, self._consumer, "COUNT", BATCH,
            *(() if block_ms is None else ("BLOCK", block_ms)), "STREAMS", stream, after,
        )  # fmt: skip
        try:
            answer = await self._link.execute(*command)
        except ResponseError as error:
            await self._make_group_if_missing(stream, error)
            answer = await self._link.execute(*command)
        read = [_entry(*entry) for _, entries in answer or () for entry in entries]
        if not read:
            self._unfinished.discard(shard)
        return read

    async def _claim(self, shard: int, cursor: bytes | str) -> tuple[bytes, list[_Entry]]:
        stream = keyspace.usage(shard)
        try:
            following, entries, *_ = await self._link.execute(
                "XAUTOCLAIM", stream, keyspace.LEDGER_GROUP, self._consumer,
                int(self._claim_idle_seconds * 1000), cursor, "COUNT", BATCH,
            )  # fmt: skip
        except ResponseError as error:
            await self._make_group_if_missing(stream, error)
            return b"0-0", []
        # Redis 6.2 answers nothing in place of an entry that was deleted.
        return following, [_entry(*entry) for entry in entries if entry and entry[0] is not None]

    async def _make_group_if_missing(self, stream: str, error: ResponseError) -> None:
        """At the first start, and after a flush or a failover. From 0: what came before counts too."""
        if not str(error).startswith("NOGROUP"):
            raise error
        try:
            await self._link.execute("XGROUP", "CREATE", stream, keyspace.LEDGER_GROUP, "0", "MKSTREAM")
        except ResponseError as failure:
            if not str(failure).startswith("BUSYGROUP"):
                raise

    async def _acknowledge(self, shard: int, entries: Sequence[_Entry]) -> None:
        if not entries:
            return
        stream = keyspace.usage(shard)
        ids = [entry.id for entry in entries]
        await self._link.execute("EVAL", _ACKNOWLEDGE, 1, stream, keyspace.LEDGER_GROUP, *ids)

    async def _reject(self, shard: int, entry: _Entry, reason: str) -> None:
        kept: list[RedisArg] = [part for pair in entry.fields.items() for part in pair]
        if kept:
            kept += ["entry", entry.id, "reason", reason[:200]]
        await self._link.execute(
            "EVAL", _REJECT, 2, keyspace.usage(shard), keyspace.usage_rejected(shard), keyspace.LEDGER_GROUP,
            entry.id, *kept,
        )  # fmt: skip
        logger.error("usage entry rejected", shard=shard, entry=entry.id.decode(), reason=reason)


def _readable(entry: _Entry) -> SettledJob | None:
    try:
        return read_entry(entry.id, entry.fields)
    except Unreadable:
        return None


def read_entry(entry_id: bytes, entry: Mapping[bytes, bytes]) -> SettledJob:
    """A usage entry as the row it becomes on either database; raises Unreadable.

    Strict, because one value that the database refuses would hold up its whole batch.
    """
    try:
        job = Job.from_wire(entry[b"header"], b"")
        settlement = Settlement.from_wire(entry[b"outcome"])
        lines = entry.get(b"calls", b"")
        earlier = tuple(map(Attempt.from_wire, lines.split(b"\n"))) if lines else ()
        milliseconds = int(entry_id.partition(b"-")[0])
        settled_at = _EPOCH + timedelta(milliseconds=milliseconds)
    except KeyError as error:
        raise Unreadable(f"{error.args[0]!r} is missing") from error
    except UnknownEnvelope as error:
        raise Unreadable(str(error)) from error
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise Unreadable(f"not a settled job: {type(error).__name__}") from error
    if entry.get(b"job") != job.id.encode():
        raise Unreadable("the entry and its header name different jobs")
    _check_types(job, ("id", "account", "api_key", "request_id"), str)
    _check_types(job, ("stream",), bool)
    _check_types(job, ("user",), str | None)
    _check_types(settlement, ("provider", "model"), str)
    _check_types(settlement, ("error",), str | None)
    _check_types(settlement, ("cost_micro_usd", "queue_ms", "provider_ms", "attempts", "deliveries"), int)
    _check_types(settlement, ("ttft_ms",), int | None)
    for field in fields(settlement.usage):
        _check_types(settlement.usage, (field.name,), bool if field.name == "estimated" else int)
    for attempt in earlier:
        _check_types(attempt, ("provider", "model", "credential"), str)
        _check_types(attempt, ("error",), str | None)
        _check_types(attempt, ("prompt_tokens", "completion_tokens", "provider_ms"), int)
        _check_types(attempt, ("cost_micro_usd",), int | None)
    return SettledJob(job=job, settlement=settlement, settled_at=settled_at, earlier=earlier)


def _check_types(holder: object, names: Sequence[str], expected: Any) -> None:
    for name in names:
        value = getattr(holder, name)
        if not isinstance(value, expected) or (expected is not bool and isinstance(value, bool)):
            raise Unreadable(f"{name} is a {type(value).__name__}")
        if isinstance(value, str) and "\0" in value:
            raise Unreadable(f"{name} contains NUL, which PostgreSQL cannot store")
        if isinstance(value, int) and value not in _COUNTS:
            raise Unreadable(f"{name} is out of range")
