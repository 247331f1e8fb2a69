"""Submitters of jobs that nobody holds a connection for, and what they are promised."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp

from tests.chaos.callers import PATH, Script
from tests.chaos.nemesis import redis_of
from tests.fakes.eventually import eventually
from tests.fakes.stack import Process, Stack

JOBS: Final = "/api/v1/jobs"
_END_SECONDS: Final = 90.0


@dataclass(slots=True)
class Submitted:
    """`job`: None where no 202 was seen. `first`: digest of its result when it was first read."""

    script: Script
    job: str | None = None
    status: int | None = None
    state: str | None = None
    text: str | None = None
    first: str | None = None


@dataclass(slots=True)
class Submissions:
    all: list[Submitted] = field(default_factory=list)

    @property
    def accepted(self) -> list[Submitted]:
        return [one for one in self.all if one.job is not None]


async def submit(session: aiohttp.ClientSession, url: str, one: Submitted) -> None:
    """Once: what is not accepted is not sent again."""
    body = {"endpoint": PATH, "body": one.script.body()}
    headers = {"x-request-id": one.script.name}
    try:
        async with session.post(url + JOBS, json=body, headers=headers) as answer:
            one.status = answer.status
            document = await answer.json()
            if answer.status == 202:
                one.job = document["id"]
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
        return


async def submit_all(
    broker: Stack,
    session: aiohttp.ClientSession,
    asks: Iterator[Script],
    done: Submissions,
    *,
    submitters: int,
    jobs: int,
    until: Callable[[], bool] = lambda: True,
) -> None:
    """`submitters` at once, until `jobs` were accepted and `until`. Where all apis are away they wait."""
    turn = 0

    async def submitter() -> None:
        nonlocal turn
        while len(done.accepted) < jobs or not until():
            turn += 1
            running = [api for api in broker.apis if api.is_running]
            one = Submitted(next(asks))
            if running:
                await submit(session, running[turn % len(running)].url, one)
            done.all.append(one)
            if one.job is None or len(done.accepted) >= jobs:
                # Only what else is to happen is waited for.
                await asyncio.sleep(0.1)

    async with asyncio.TaskGroup() as group:
        for _ in range(submitters):
            group.create_task(submitter())


async def read_results(broker: Stack, session: aiohttp.ClientSession, done: Submissions) -> None:
    """Of every accepted job, as it is first told; raises NeverCame where one is never told."""
    gate = asyncio.Semaphore(64)

    async def read(one: Submitted) -> None:
        async with gate:
            await eventually(lambda: _read(broker, session, one), one.script.name, within=_END_SECONDS)

    await asyncio.gather(*(read(one) for one in done.accepted))


async def _read(broker: Stack, session: aiohttp.ClientSession, one: Submitted) -> bool:
    url = f"{broker.apis[0].url}{JOBS}/{one.job}"
    try:
        async with session.get(f"{url}/result", params={"wait": "5"}) as answer:
            told = (answer.status, await answer.read())
        async with session.get(url) as answer:
            if answer.status != 200:
                return False
            shown = await answer.json()
    except (aiohttp.ClientError, OSError, TimeoutError):
        return False
    if told[0] == 202 or shown["status"] in {"queued", "running"}:
        return False
    if told[0] != 200 and shown["status"] == "succeeded":
        return False  # it ended between the two, or something was away
    one.first, one.state = _digest(*told), shown["status"]
    document: dict[str, Any] = json.loads(told[1])
    one.text = document["choices"][0]["message"]["content"] if told[0] == 200 else None
    return True


async def changed(broker: Stack, session: aiohttp.ClientSession, done: Submissions) -> list[str]:
    """Names of those whose result is not what it was when it was first read."""
    found: list[str] = []
    for one in done.accepted:
        async with session.get(f"{broker.apis[0].url}{JOBS}/{one.job}/result") as answer:
            if _digest(answer.status, await answer.read()) != one.first:
                found.append(one.script.name)
    return found


def _digest(status: int, raw: bytes) -> str:
    # The id of the request that asked is in an error's body.
    body = raw if status == 200 else b""
    return hashlib.sha256(b"%d\n%s" % (status, body)).hexdigest()


def broken_promises(
    done: Submissions, calls: Counter[str], *, extra_calls: int, may_fail: bool = False
) -> list[str]:
    """Every accepted job ended well, says what it was told to, and was called once, save for so many.

    `may_fail`: where the provider refuses more than the retries that all jobs together have.
    """
    found = [
        f"{one.script.name}: {one.state}, {one.text!r:.80}"
        for one in done.accepted
        if (one.state, one.text) != ("succeeded", one.script.text)
        and not (may_fail and one.state == "failed")
    ]
    extra = sum(count - 1 for count in calls.values() if count > 1)
    if extra > extra_calls:
        found.append(f"{extra} calls more than jobs, {extra_calls} were in flight at kills")
    return found


async def settled(broker: Stack, *, within: float = 30.0) -> None:
    """Nothing is left to be kept or to be written into the ledger."""

    async def is_settled() -> bool:
        async with redis_of(broker) as redis:
            return not (await redis.xlen("hr:{0}:ended") + await redis.xlen("hr:{0}:usage"))

    await eventually(is_settled, "everything kept", within=within, every=0.1)


async def keep_running(
    start: Callable[[str], Awaitable[Process]], forget: Callable[[Process], None], plan: Iterator[str]
) -> int:
    """Start a process armed with each point of the plan in turn, once the one before killed itself; the
    last one, unarmed, stays. How many died.
    """
    died = 0
    for point in plan:
        process = await start(point)
        await process.has_ended(within=_END_SECONDS)
        forget(process)
        died += 1
    await start("")
    return died
