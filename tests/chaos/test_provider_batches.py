"""A batch that its provider runs, whose scheduler or worker is killed at each point of the hand-over.

Whoever dies: one batch at the provider, each line answered once and billed once.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any, Final

import pytest

from shared.domain.allowance import Limits
from shared.ids import AccountId
from tests.acceptance.test_batches import ENDED, a_line, chat, create, encoded, ended, results
from tests.chaos import size
from tests.fakes.eventually import eventually
from tests.fakes.stack import Stack
from tests.fixtures.stack import FreshStack

pytestmark = [pytest.mark.chaos, pytest.mark.xdist_group("chaos"), pytest.mark.timeout(300)]

LINES: Final = 250
"""More than two pages of results."""
SETTINGS: Final = {
    "HEADRACE_BATCHES__PROVIDER_POLL_SECONDS": "0.2",
    "HEADRACE_BATCHES__PROVIDER_CANCEL_SECONDS": "20",
}
ACCOUNT: Final = AccountId("handed-over")
MODELS: Final = {"openai": "gpt-4o-mini", "anthropic": "claude-haiku-4-5"}
SCHEDULER_POINTS: Final = ("S6@1", "S6@2", "S6@3", "S7@1", "S7@2", "S7@3", "S8@1", "S8@2")
WORKER_POINTS: Final = ("W1@1", "W1@2", "W6@1", "W8@1", "W13@1", "W14@1")
"""W6 and W8 of the step that hands it over: done, and not told; told."""


def content_for(model: str) -> bytes:
    cues: list[dict[str, Any] | None] = [{"status": 400}, {"name": "lost"}, None]
    return encoded(
        a_line(f"n{n}", body={**chat(f"Hello {n}", cue=cues[min(n, 2)]), "model": model})
        for n in range(LINES)
    )


async def billed_once(stack: Stack, count: int) -> list[dict[str, Any]]:
    async def look() -> list[dict[str, Any]] | None:
        rows = [row for row in await stack.ledger() if row["account_id"] == ACCOUNT]
        return rows if len(rows) >= count else None

    found = list(await eventually(look, "usage of every line", within=60, every=0.5) or ())
    assert len({row["job_id"] for row in found}) == len(found) == count
    return found


async def survives(stack: Stack, name: str, *, killed: str) -> None:
    """A batch that began is answered whole, by one batch at its provider; `killed`: whose process dies."""
    key = await stack.new_api_key(ACCOUNT, limits=Limits(daily_requests=100_000))
    await stack.provider.script_batches(polls=1)
    async with stack.client() as client:
        client.headers["authorization"] = f"Bearer {key}"
        created = await create(client, content_for(MODELS[name]), execution="auto")
        doomed = (stack.schedulers if killed == "scheduler" else stack.workers)[0]
        assert await doomed.has_ended(within=60) == -9
        stack.forget(doomed)
        await (stack.start_scheduler() if killed == "scheduler" else stack.start_worker())
        batch = await ended(client, created["id"], within=120)
        answers = await results(client, batch["output_file_id"])
        errors = await results(client, batch["error_file_id"])
    rows = await billed_once(stack, LINES)

    (theirs,) = await stack.provider.batches()
    told = Counter(one["custom_id"] for one in (*answers, *errors))
    assert batch["status"] == "completed"
    assert (len(answers), len(errors)) == (LINES - 1, 1)
    assert set(told) == {f"n{n}" for n in range(LINES)}
    assert max(told.values()) == 1
    assert len(theirs["requests"]) == len(set(theirs["requests"])) == LINES
    # What the provider lost ran as a job, and nothing else did.
    (call,) = stack.calls()
    assert call.job in {row["job_id"] for row in rows}
    assert Counter(row["outcome"] for row in rows) == {"succeeded": LINES - 1, "failed": 1}


@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize("point", SCHEDULER_POINTS)
async def test_a_scheduler_that_dies_while_it_hands_over_doubles_and_loses_nothing(
    fresh_stack: FreshStack, name: str, point: str
) -> None:
    stack = await fresh_stack(schedulers=0, settings=SETTINGS)
    await stack.start_scheduler(faultpoints=point)

    await survives(stack, name, killed="scheduler")


@pytest.mark.parametrize(
    ("name", "point"),
    [*((name, point) for name in MODELS for point in WORKER_POINTS), ("openai", "W12@1")],
)
async def test_a_worker_that_dies_in_a_step_doubles_and_loses_nothing(
    fresh_stack: FreshStack, name: str, point: str
) -> None:
    stack = await fresh_stack(workers=0, settings=SETTINGS)
    await stack.start_worker(faultpoints=point)

    await survives(stack, name, killed="worker")


@pytest.mark.parametrize("name", list(MODELS))
async def test_redis_that_forgets_everything_costs_no_second_batch(
    fresh_stack: FreshStack, name: str
) -> None:
    stack = await fresh_stack(schedulers=2, workers=2, settings=SETTINGS)
    await stack.provider.script_batches(polls=20)
    async with stack.client() as client:
        created = await create(client, content_for(MODELS[name]), execution="provider")

        async def is_there() -> bool:
            return len(await stack.provider.batches()) == 1

        await eventually(is_there, "batch at the provider")
        stack.redis.call("FLUSHALL")
        batch = await ended(client, created["id"], within=120)
        answers = await results(client, batch["output_file_id"])

    assert len(await stack.provider.batches()) == 1
    assert len(answers) == len({answer["custom_id"] for answer in answers}) == LINES - 2
    assert batch["request_counts"]["failed"] == 2


@pytest.mark.parametrize("name", list(MODELS))
async def test_a_hand_over_under_kills_doubles_and_loses_nothing(fresh_stack: FreshStack, name: str) -> None:
    rng = size.dice(f"hand-over under kills {name}")
    stack = await fresh_stack(schedulers=2, workers=2, settings=SETTINGS)
    await stack.provider.script_batches(polls=30)
    key = await stack.new_api_key(ACCOUNT, limits=Limits(daily_requests=100_000))
    kills = 0
    async with stack.client() as client:
        client.headers["authorization"] = f"Bearer {key}"
        batch = await create(client, content_for(MODELS[name]), execution="provider")
        next_kill = time.monotonic() + rng.uniform(0.2, 1.0)
        while batch["status"] not in ENDED:
            if time.monotonic() > next_kill and kills < 10:
                next_kill = time.monotonic() + rng.uniform(0.5, 3.0)
                kills += 1
                if rng.random() < 0.5:
                    await stack.kill9(rng.choice(stack.schedulers))
                    await stack.start_scheduler()
                else:
                    await stack.kill9(rng.choice(stack.workers))
                    await stack.start_worker()
            await asyncio.sleep(0.05)
            batch = (await client.get(f"/v1/batches/{batch['id']}")).json()
        answers = await results(client, batch["output_file_id"])
        errors = await results(client, batch["error_file_id"])
    # All but what the provider lost.
    await billed_once(stack, LINES - 1)

    told = Counter(one["custom_id"] for one in (*answers, *errors))
    assert len(await stack.provider.batches()) == 1
    assert (len(answers), len(errors)) == (LINES - 2, 2)
    assert (len(told), max(told.values())) == (LINES, 1)
    assert stack.calls() == []
    assert kills > 3


async def test_a_batch_that_only_looked_like_ours_is_left_alone(fresh_stack: FreshStack) -> None:
    """Somebody else's of the same size, created in the moment after which nobody heard of ours."""
    stack = await fresh_stack(workers=0, settings=SETTINGS)
    await stack.provider.script_batches(polls=3, failures=[{"on": "create", "status": 503, "times": 1}])
    worker = await stack.start_worker()
    async with stack.client() as client:
        first = await create(client, content_for(MODELS["anthropic"]), execution="provider")
        second = await create(client, content_for(MODELS["anthropic"]), execution="provider")
        batches = [await ended(client, one["id"], within=120) for one in (first, second)]
        answers = [await results(client, batch["output_file_id"]) for batch in batches]

    theirs = await stack.provider.batches()
    assert worker.is_running
    assert len({name for one in theirs for name in one["requests"]}) == 2 * LINES
    assert [len(of_one) for of_one in answers] == [LINES - 2, LINES - 2]
    assert {one["status"] for one in theirs} == {"completed"}
