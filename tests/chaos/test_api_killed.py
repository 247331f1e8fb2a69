"""An api process killed while its streams run or its callers wait: another one goes on with them."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from pathlib import Path

import aiohttp
import pytest

from tests.chaos import checker, size
from tests.chaos.callers import PATH, Manner, Notes, Script, ask, scripts, session_of
from tests.chaos.evidence import gather, judge
from tests.chaos.history import Ending, Exchange, History
from tests.fakes.eventually import eventually
from tests.fakes.stack import Stack
from tests.fixtures.stack import FreshStack

pytestmark = [pytest.mark.chaos, pytest.mark.xdist_group("chaos"), pytest.mark.timeout(900)]

AT_ONCE = 50
MANNER = Manner(streams=1.0, delay_ms=(20, 100), chunks=30, pace_ms=40)


@pytest.mark.parametrize("way", ["post", "get"])
async def test_another_api_resumes_the_streams_of_a_killed_one(
    way: str, fresh_stack: FreshStack, tmp_path: Path
) -> None:
    rng = size.dice(f"api killed, {way}")
    prefix = f"resume-{way}"
    asks = scripts(prefix, rng, MANNER)
    history = History()
    broker = await fresh_stack(apis=2, workers=1)
    differing: list[str] = []
    left = size.jobs(ci=40)
    kills = 0

    async with session_of(broker.api_key) as session:
        while left > 0:
            group = [Notes(next(asks)) for _ in range(min(AT_ONCE, left))]
            left -= len(group)
            victim, other = broker.apis
            reading = [asyncio.create_task(_read(session, victim.url, notes)) for notes in group]
            await _are_under_way(group, rng.randint(2, 12))
            await broker.kill9(victim)
            kills += 1
            assert not any(await asyncio.gather(*reading)), "a stream ended before the kill"
            history.exchanges += await asyncio.gather(*(_resume(session, other.url, n, way) for n in group))
            differing += [n.name for n in group if n.raw != await _replay(session, other.url, n)]
            await broker.start_api()
    await gather(broker, history, prefix)

    size.report(
        f"api killed, streams resumed by {way.upper()}",
        streams=len(history.exchanges),
        kills=kills,
        differing=len(differing),
        missing=len(checker.unanswered(history.exchanges)),
        extra_calls=checker.count_calls(history.calls, []).extra,
    )
    assert differing == []
    judge(
        [
            *checker.unanswered(history.exchanges),
            *checker.misread(history.exchanges),
            *checker.changed_answers(history.exchanges, history.stored),
            *checker.surplus_calls(history.calls, []),
            *checker.ledger_faults(history.ledger, history.exchanges),
            *checker.leftovers(history),
        ],
        history,
        tmp_path,
    )


async def test_callers_of_a_killed_api_who_ask_again_get_the_same_job(
    fresh_stack: FreshStack, tmp_path: Path
) -> None:
    """Killed anywhere between the first request read and the last provider called."""
    rng = size.dice("api killed, callers wait")
    asks = scripts("again", rng, Manner(streams=0, delay_ms=(1000, 2000)))
    history = History()
    broker = await fresh_stack(apis=2, workers=1)
    left = size.jobs(ci=40)
    open_at_kills = 0

    async with session_of(broker.api_key) as session:

        async def send(url: str, script: Script) -> Exchange:
            return await ask(session, url, script, headers={"idempotency-key": script.name})

        while left > 0:
            group = list(itertools.islice(asks, min(AT_ONCE, left)))
            left -= len(group)
            victim, other = broker.apis
            before = len(broker.calls())
            waiting = [asyncio.create_task(send(victim.url, script)) for script in group]
            await _are_called(broker, before + rng.randint(1, len(group)))
            await broker.kill9(victim)
            open_at_kills += len(broker.calls()) - before
            assert {e.ending for e in await asyncio.gather(*waiting)} == {Ending.LOST}
            history.exchanges += await asyncio.gather(*(send(other.url, script) for script in group))
            await broker.start_api()
    await gather(broker, history, "again")

    size.report("api killed, callers wait", callers=len(history.exchanges), open_at_kills=open_at_kills)
    assert Counter(call.name for call in history.calls) == {e.name: 1 for e in history.exchanges}
    judge(
        [
            *checker.unanswered(history.exchanges),
            *checker.misread(history.exchanges),
            *checker.changed_answers(history.exchanges, history.stored),
            *checker.ledger_faults(history.ledger, history.exchanges),
            *checker.leftovers(history),
        ],
        history,
        tmp_path,
    )


async def _read(session: aiohttp.ClientSession, url: str, notes: Notes) -> bool:
    """Until the connection breaks; True when the stream came to its end instead."""
    headers = {"x-request-id": notes.name, "x-stream-ids": "true"}
    try:
        async with session.post(url + PATH, json=notes.script.body(), headers=headers) as answer:
            await notes.read_all(answer)
    except aiohttp.ClientError:
        notes.drop_partial_event()
        return False
    return True


async def _resume(session: aiohttp.ClientSession, url: str, notes: Notes, way: str) -> Exchange:
    if way == "post":
        headers = {"last-event-id": f"{notes.job}:{notes.last_ordinal}"}
        going_on = session.post(url + PATH, json=notes.script.body(), headers=headers)
    else:
        going_on = session.get(f"{url}/api/v1/jobs/{notes.job}/events?after={notes.last_ordinal}")
    async with going_on as answer:
        await notes.read_all(answer)
    return notes.end()


async def _replay(session: aiohttp.ClientSession, url: str, notes: Notes) -> bytes:
    """The stream as it is read when nothing disturbs it."""
    async with session.get(f"{url}/api/v1/jobs/{notes.job}/events") as answer:
        return await answer.read()


async def _are_called(broker: Stack, calls: int) -> None:
    await eventually(lambda: len(broker.calls()) >= calls, f"{calls} calls", every=0.001)


async def _are_under_way(streams: list[Notes], events: int) -> None:
    await eventually(lambda: all(notes.last_ordinal >= events for notes in streams), "streams under way")
