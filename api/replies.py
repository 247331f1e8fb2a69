"""What waiting requests hear of their jobs: one subscription for the whole process.

    expect(job) ── hints: results, events ──> Reply ──> result() | next_events()
                         │
                         └── a hint may be lost, so every `recheck_seconds`, and after each
                             new subscription, the job and its event log are looked up

A waiter registers before its job is enqueued: pub/sub keeps nothing, so a fast worker
would otherwise answer before anybody listens.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from loguru import logger
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from shared import keyspace
from shared.domain.job import Job, JobState
from shared.domain.usage import Outcome
from shared.errors import (
    BadRequest,
    BrokerError,
    DeadlineExceeded,
    JobLost,
    ServerDraining,
)
from shared.ids import JobId
from shared.queue.failures import failure_of
from shared.queue.frames import EventBatch, Result, parse_frame
from shared.queue.producer import Producer
from shared.queue.subscription import Subscription
from shared.settings import Settings

_TICK_SECONDS: Final = 0.1
_WATCH_AFTER_SECONDS: Final = 0.2
"""Requests that answer sooner never pay for a disconnect watcher."""
_CANCEL_AGAIN_SECONDS: Final = 1.0
_CLOSE_SECONDS: Final = 2.0
_LOST: Final = "The queue lost this job. It is safe to send it again."
_LOST_BUT_KEPT: Final = "The queue lost this job. It is queued again by itself: come back for it."
_BUFFER_BYTES: Final = 1_048_576
"""Events kept for a slow reader; beyond it the reader catches up from the log."""


class Reply:
    """What one request hears of its job. Events come in order, once, without gaps."""

    def __init__(
        self, job: Job, producer: Producer, *, receive: Receive, deadline: float, reader: str = ""
    ) -> None:
        """`deadline`: time.monotonic() at which the caller is told that it took too long."""
        self.job = job
        self.reader = reader
        """Token of this request among the job's readers."""
        self.receive = receive
        self.deadline = deadline
        self.registered_at = self.heard_at = time.monotonic()
        self.result: Result | None = None
        self.error: BaseException | None = None
        self.seen = self._began_after = 0
        """Ordinal of the last event handed on."""
        self.behind = False
        """The log holds events that the buffer does not."""
        self.watcher: asyncio.Task[None] | None = None
        self._producer = producer
        self._batches: deque[EventBatch] = deque()
        self._buffered = 0
        self._wake: asyncio.Future[None] | None = None

    def start_after(self, ordinal: int) -> None:
        """Read on behind `ordinal`, from the log first."""
        self.seen = self._began_after = ordinal
        self.behind = True

    def offer(self, news: Result | EventBatch) -> None:
        self.heard_at = time.monotonic()
        if isinstance(news, Result):
            self.result = self.result or news
        elif not news.events:
            self.behind = True
        elif not self.behind:
            self._batches.append(news)
            self._buffered += sum(map(len, news.events))
            if self._buffered > _BUFFER_BYTES:
                self._batches.clear()
                self._buffered = 0
                self.behind = True
        self.wake()

    def fail(self, error: BaseException) -> None:
        if self.error is None:
            self.error = error
            self.wake()

    def wake(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def wait(self) -> None:
        """Until something was heard, or a tick passed for those who count time."""
        self._wake = asyncio.get_running_loop().create_future()
        try:
            await self._wake
        finally:
            self._wake = None

    async def outcome(self) -> Result:
        """The result with its body; raises what stopped the wait, or why the job failed."""
        while self.result is None:
            if self.error is not None:
                raise self.error
            await self.wait()
        result = self.result
        if result.head.outcome is not Outcome.SUCCEEDED:
            raise failure_of(result, self.job)
        if result.body is not None:
            return result
        stored = await self._producer.result(self.job.id)
        if isinstance(stored, Result):
            self.result = stored
            return stored
        raise JobLost("The result of this job is gone.")

    @property
    def at_end(self) -> bool:
        """Every event was handed on and the job succeeded."""
        result = self.result
        return result is not None and result.last <= self.seen and result.head.outcome is Outcome.SUCCEEDED

    async def begun(self, *, within_seconds: float) -> None:
        """Until there is a first event, a result or an error, or this time is over.

        Raises JobLost when the log is gone, QueueUnavailable.
        """
        give_up_at = self.registered_at + within_seconds
        while time.monotonic() < give_up_at:
            if self.behind and not self._batches:
                await self._read_log()
            if self._is_told:
                return
            await self.wait()

    @property
    def _is_told(self) -> bool:
        return bool(self._batches) or self.error is not None or self.result is not None

    async def next_events(self) -> tuple[bytes, ...] | None:
        """The next events; () when woken with nothing new; None at the end of a good stream.

        Raises what stopped the wait, or why the job failed.
        """
        while True:
            while self._batches:
                batch = self._batches.popleft()
                self._buffered -= sum(map(len, batch.events))
                if batch.last <= self.seen:
                    continue
                if batch.first > self.seen + 1:
                    self.behind = True
                    break
                return self._take(batch)
            if self.behind:
                await self._read_log()
                continue
            if self.result is not None:
                if self.result.last > self.seen:
                    self.behind = True
                    continue
                if self.result.head.outcome is not Outcome.SUCCEEDED:
                    raise failure_of(self.result, self.job)
                if self.result.last < self.seen == self._began_after:
                    raise BadRequest("This stream ended before the event to go on behind.")
                return None
            if self.error is not None:
                raise self.error
            await self.wait()
            if not (self.behind or self._is_told):
                return ()

    def _take(self, batch: EventBatch) -> tuple[bytes, ...]:
        events = batch.events[self.seen + 1 - batch.first :]
        self.seen = batch.last
        return events

    async def _read_log(self) -> None:
        """The next page of the log goes before what was buffered; behind until a page is empty."""
        ended = self.result
        # Hints that arrive while the log is read are in the log as well, or come after it.
        self.behind = False
        page = [b for b in await self._producer.events_after(self.job.id, self.seen) if b.last > self.seen]
        if page:
            self._batches.extendleft(reversed(page))
            self._buffered += sum(sum(map(len, batch.events)) for batch in page)
            self.behind = True
        elif ended is not None and ended.last > self.seen:
            raise JobLost("The event log of this stream is gone.")


class Replies:
    def __init__(
        self,
        producer: Producer,
        redis_url: str,
        settings: Settings,
        *,
        also: Mapping[str, Callable[[bytes], None]] | None = None,
    ) -> None:
        """`also`: other channels to hear on the same connection, and who hears them."""
        process = f"{socket.gethostname()}-{os.getpid()}-{os.urandom(4).hex()}"
        self.channel = keyspace.reply_channel(process)
        self._producer = producer
        self._settings = settings
        self._waiting: dict[str, list[Reply]] = {}
        self._departures: set[asyncio.Task[None]] = set()
        self._closing = asyncio.Event()
        self._rechecking: asyncio.Task[None] | None = None
        self._ticker: asyncio.Task[None] | None = None
        self._also = {name.encode(): hear for name, hear in (also or {}).items()}
        self.subscription = Subscription(
            redis_url,
            [self.channel, *(also or {})],
            on_message=self._on_message,
            on_subscribed=self.recheck_all,
        )

    async def start(self) -> None:
        await self.subscription.start()
        self._ticker = asyncio.create_task(self._tick_forever(), name="reply-ticker")

    async def close(self) -> None:
        """Departures are told at once, graces or not: what nobody will read is not worth its price."""
        self._closing.set()
        if self._departures:
            await asyncio.wait(self._departures, timeout=_CLOSE_SECONDS)
        tasks = [t for t in (self._ticker, self._rechecking, *self._departures) if t is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.subscription.close()

    def expect(self, job: Job, receive: Receive, *, reader: str, deadline: float | None = None) -> Reply:
        """`deadline`: of time.monotonic(), where it is not that of the job."""
        reply = Reply(
            job,
            self._producer,
            receive=receive,
            deadline=time.monotonic() + job.budget_ms / 1000 if deadline is None else deadline,
            reader=reader,
        )
        self._waiting.setdefault(job.id, []).append(reply)
        return reply

    def follow(self, reply: Reply, job_id: JobId) -> None:
        """The request reads another job than its own: one that says the same, and is there already."""
        self._drop(reply)
        reply.job = replace(reply.job, id=job_id)
        self._waiting.setdefault(job_id, []).append(reply)

    def forget(self, reply: Reply) -> None:
        """The request is over. If it left before its job did, the job stops after a grace."""
        self._drop(reply)
        if reply.watcher is not None:
            reply.watcher.cancel()

    def _drop(self, reply: Reply) -> None:
        readers = self._waiting.get(reply.job.id)
        if readers is not None:
            readers.remove(reply)
            if not readers:
                del self._waiting[reply.job.id]

    def leave(self, reply: Reply, *, grace_seconds: float) -> None:
        """The request is gone before its job's end: stop the job if nobody reads it after the grace."""
        task = asyncio.create_task(self._leave(reply, grace_seconds), name="leave-job")
        self._departures.add(task)
        task.add_done_callback(self._departures.discard)

    def drain(self, *, within_seconds: float) -> None:
        """The process is asked to stop: whoever still waits then is told to come back."""
        asyncio.get_running_loop().call_later(within_seconds, self._end_all)

    @property
    def waiting(self) -> int:
        return sum(map(len, self._waiting.values()))

    def recheck_all(self) -> None:
        """After a new subscription: whatever was published meanwhile is gone."""
        for readers in self._waiting.values():
            for reply in readers:
                reply.heard_at = 0.0

    def _end_all(self) -> None:
        error = ServerDraining("This server is shutting down: reconnect to go on.", retry_after_seconds=1)
        for readers in self._waiting.values():
            for reply in readers:
                reply.fail(error)

    def _on_message(self, channel: bytes, frame: bytes) -> None:
        if (hear := self._also.get(channel)) is not None:
            hear(frame)
            return
        try:
            job_id, news = parse_frame(frame)
        except ValueError as exc:
            logger.warning("reply not understood", error=type(exc).__name__)
            return
        for reply in self._waiting.get(job_id, ()):
            reply.offer(news)

    async def _leave(self, reply: Reply, grace_seconds: float) -> None:
        """Until Redis has answered, or the job's deadline has ended it anyway."""
        job = reply.job
        give_up_at = time.monotonic() + job.budget_ms / 1000
        grace_ends = asyncio.get_running_loop().time() + grace_seconds
        while time.monotonic() < give_up_at:
            try:
                await self._producer.leave(job, reply.reader)
                if await self._closes_before(grace_ends) and job.stream:
                    return  # resumed on another process, perhaps
                status = await self._producer.cancel(job, if_unread=True)
            except BrokerError as exc:
                logger.warning("abandoned job not cancelled", job_id=job.id, error=exc.code)
                if self._closing.is_set():
                    return
                await asyncio.sleep(_CANCEL_AGAIN_SECONDS)
            else:
                logger.info("abandoned job", job_id=job.id, request_id=job.request_id, status=status)
                return

    async def _closes_before(self, moment: float) -> bool:
        """Waits until `moment` (of the loop's clock), or until this process stops."""
        try:
            async with asyncio.timeout_at(moment):
                await self._closing.wait()
        except TimeoutError:
            return False
        return True

    async def _tick_forever(self) -> None:
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            self._tick(time.monotonic())

    def _tick(self, now: float) -> None:
        recheck_before = now - self._settings.queue.recheck_seconds
        due: list[Reply] = []
        for readers in self._waiting.values():
            for reply in readers:
                if now >= reply.deadline:
                    reply.fail(DeadlineExceeded(
                        "No answer came within the time allowed.", details={"job_id": reply.job.id}
                    ))  # fmt: skip
                    continue
                if reply.watcher is None and now - reply.registered_at > _WATCH_AFTER_SECONDS:
                    reply.watcher = asyncio.create_task(_watch_disconnect(reply), name="watch-disconnect")
                if reply.heard_at < recheck_before and reply.result is None:
                    due.append(reply)
                if reply.job.stream:
                    reply.wake()
        if due and self._rechecking is None:
            self._rechecking = asyncio.create_task(self._recheck(due), name="recheck-replies")
            self._rechecking.add_done_callback(self._recheck_done)

    def _recheck_done(self, task: asyncio.Task[None]) -> None:
        self._rechecking = None
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.opt(exception=error).error("recheck failed")

    async def _recheck(self, replies: list[Reply]) -> None:
        """Look the truth up for everybody whose hints may be lost; gathered, so one round trip."""
        answers = await asyncio.gather(
            *(self._producer.result(reply.job.id) for reply in replies), return_exceptions=True
        )
        for reply, answer in zip(replies, answers, strict=True):
            if isinstance(answer, Result):
                reply.behind = reply.job.stream
                reply.offer(answer)
            elif isinstance(answer, JobState):
                reply.heard_at = time.monotonic()
                if reply.job.stream and not reply.behind:
                    reply.behind = True
                    reply.wake()
            elif answer is None:
                reply.fail(JobLost(_LOST if reply.job.row is None else _LOST_BUT_KEPT))
            # Redis away: wait on, until it is back or the deadline comes.


async def _watch_disconnect(reply: Reply) -> None:
    """The request body was read to its end, so the next message says that the caller left."""
    while True:
        message = await reply.receive()
        if message["type"] == "http.disconnect":
            reply.fail(ClientDisconnect())
            return


def new_reader() -> str:
    """A token under which a request reads a job."""
    return os.urandom(6).hex()


def job_id_of(event_id: str) -> tuple[JobId, int] | None:
    """`job_...:17`, as sent in `id:` lines; None when it is not one of ours."""
    job_id, separator, ordinal = event_id.partition(":")
    if not separator or not ordinal.isascii() or not ordinal.isdigit() or len(ordinal) > 9:
        return None
    return JobId(job_id), int(ordinal)
