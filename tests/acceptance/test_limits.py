"""Limits and budgets over real processes: exact together, settled once, told to the caller."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import httpx
import openai
import pytest
from redis.asyncio import Redis

from shared import keyspace
from shared.domain.allowance import Limits, Tier
from shared.domain.roles import Role
from shared.ids import AccountId
from tests.fakes.eventually import eventually
from tests.fakes.stack import Process, Stack
from tests.fixtures.stack import FreshStack

pytestmark = pytest.mark.xdist_group("limits")

ROUTE = "/v1/chat/completions"
ACME = AccountId("acme")
PRICED = "gpt-4o-mini"


def chat(text: str = "Hello", cue: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    script = f"!script {json.dumps(cue)}\n" if cue else ""
    messages = [{"role": "user", "content": f"{script}{text}"}]
    return {"model": PRICED, "messages": messages, "max_tokens": 100, **more}


def client_of(stack: Stack, key: str, api: Process | None = None) -> httpx.AsyncClient:
    client = stack.client(api)
    client.headers["authorization"] = f"Bearer {key}"
    return client


async def spent(stack: Stack, account: AccountId = ACME) -> tuple[int, int]:
    """What Redis counts of the account's month: in all, and of that reserved."""
    async with Redis.from_url(stack.redis.url) as redis:
        prefix = keyspace.holds(account).removesuffix("holds")
        used, reserved = await redis.hmget(f"{prefix}account:{account}", ["s:n", "s:r"])
    return int(used or 0), int(reserved or 0)


async def in_the_ledger(stack: Stack, jobs: int) -> int:
    """What the ledger says they cost, once all of them are in it."""

    async def all_of_them() -> bool:
        return len(await stack.ledger()) >= jobs

    await eventually(all_of_them, f"{jobs} settled jobs", within=30)
    rows = await stack.ledger()
    assert len({row["job_id"] for row in rows}) == len(rows) == jobs
    return sum(row["cost_micro_usd"] for row in rows)


async def test_of_64_callers_at_two_apis_exactly_as_many_pass_as_the_key_allows(
    fresh_stack: FreshStack,
) -> None:
    stack = await fresh_stack(apis=2)
    key = await stack.new_api_key(ACME, limits=Limits(window_requests=100, window_seconds=900))
    async with client_of(stack, key, stack.apis[0]) as one, client_of(stack, key, stack.apis[1]) as two:

        async def caller(number: int) -> list[httpx.Response]:
            client = (one, two)[number % 2]
            return [await client.post(ROUTE, json=chat(f"{number} {turn}")) for turn in range(4)]

        answers = [a for some in await asyncio.gather(*map(caller, range(64))) for a in some]

    assert Counter(answer.status_code for answer in answers) == {200: 100, 429: 156}
    assert len(stack.calls()) == 100
    passed = [answer for answer in answers if answer.status_code == 200]
    remaining = sorted(int(answer.headers["x-ratelimit-remaining-requests"]) for answer in passed)
    assert remaining == list(range(100))
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert refused.headers["ratelimit-policy"] == '"key-requests";q=100;w=900'
    assert refused.headers["x-ratelimit-limit-requests"] == "100"
    assert 60 < int(refused.headers["retry-after"]) <= 920
    assert refused.headers["x-should-retry"] == "false"


async def test_a_budget_is_not_overshot_and_agrees_with_the_ledger_to_the_last_micro_dollar(
    fresh_stack: FreshStack,
) -> None:
    stack = await fresh_stack(apis=2, workers=2)
    budget = 2_000
    key = await stack.new_api_key(ACME, account_limits=Limits(monthly_spend_micro_usd=budget))
    async with client_of(stack, key, stack.apis[0]) as one, client_of(stack, key, stack.apis[1]) as two:

        async def caller(number: int) -> list[httpx.Response]:
            client = (one, two)[number % 2]
            return [await client.post(ROUTE, json=chat(f"{number} {turn}")) for turn in range(8)]

        answers = [a for some in await asyncio.gather(*map(caller, range(64))) for a in some]

    counts = Counter(answer.status_code for answer in answers)
    assert set(counts) == {200, 429}
    ledger = await in_the_ledger(stack, counts[200])
    assert 0 < ledger <= budget

    async def settled() -> bool:
        return (await spent(stack))[1] == 0

    await eventually(settled, "nothing reserved any more")
    assert (await spent(stack))[0] == ledger
    refused = next(answer for answer in answers if answer.status_code == 429).json()["error"]
    assert refused["type"] == "insufficient_quota"
    assert refused["code"] == "quota_exceeded"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/messages", ROUTE])
async def test_what_anthropic_keeps_of_a_prompt_is_charged_by_how_long(
    fresh_stack: FreshStack, path: str, stream: bool
) -> None:
    stack = await fresh_stack()
    key = await stack.new_api_key(ACME, account_limits=Limits(monthly_spend_micro_usd=10**9))
    mark = {"type": "ephemeral", "ttl": "1h"}
    asked = chat("Hello", {"golden": "text"}, model="claude-sonnet-4-5", stream=stream)
    text = asked["messages"][0]["content"]
    asked["messages"][0]["content"] = [{"type": "text", "text": text, "cache_control": mark}]
    async with client_of(stack, key) as client:
        answer = await client.post(path, json=asked)

    assert answer.status_code == 200, answer.text
    # 8 tokens at 3.00, 12 kept at 3.75, 10 for an hour at 6.00, 130 of the cache at 0.30, 61 said at 15.00.
    assert await in_the_ledger(stack, 1) == 24 + 45 + 60 + 39 + 915
    (row,) = await stack.ledger()
    assert (row["prompt_tokens"], row["cached_tokens"], row["completion_tokens"]) == (160, 130, 61)

    async def settled() -> bool:
        return await spent(stack) == (1_083, 0)

    await eventually(settled, "what it cost in place of what was reserved")


async def test_every_answer_replayed_is_billed_once_even_when_the_budget_is_used_up(
    fresh_stack: FreshStack,
) -> None:
    stack = await fresh_stack()
    key = await stack.new_api_key(ACME, account_limits=Limits(daily_requests=20))
    async with client_of(stack, key) as client:
        first = [
            await client.post(ROUTE, json=chat(str(n)), headers={"idempotency-key": f"key-{n}"})
            for n in range(20)
        ]
        again = [
            await client.post(ROUTE, json=chat(str(n)), headers={"idempotency-key": f"key-{n}"})
            for n in range(20)
        ]
        beyond = await client.post(ROUTE, json=chat("another"))

    assert {answer.status_code for answer in first + again} == {200}
    assert [answer.content for answer in again] == [answer.content for answer in first]
    assert {answer.headers["idempotent-replayed"] for answer in again} == {"true"}
    assert (beyond.status_code, beyond.json()["error"]["code"]) == (429, "quota_exceeded")
    assert len(stack.calls()) == 20
    await in_the_ledger(stack, 20)


async def test_requests_that_race_for_one_key_are_billed_as_what_ran(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack(apis=2)
    key = await stack.new_api_key(ACME, account_limits=Limits(monthly_spend_micro_usd=10**9))
    async with client_of(stack, key, stack.apis[0]) as one, client_of(stack, key, stack.apis[1]) as two:
        for client in (one, two):
            assert (await client.post(ROUTE, json=chat("warm"))).status_code == 200

        async def pair(number: int) -> list[httpx.Response]:
            named = {"idempotency-key": f"key-{number}"}
            # What is larger arrives later: which of the two is first changes from pair to pair.
            large = one.post(ROUTE, json=chat("x" * 10_000 * (number % 8)), headers=named)
            return [*await asyncio.gather(large, two.post(ROUTE, json=chat("small"), headers=named))]

        pairs = [await pair(number) for number in range(40)]

    statuses = [sorted(answer.status_code for answer in answers) for answers in pairs]
    assert statuses == [[200, 422]] * 40
    ledger = await in_the_ledger(stack, 42)

    async def settled() -> bool:
        return await spent(stack) == (ledger, 0)

    await eventually(settled, "counter and ledger agree")


async def test_what_is_refused_leaves_no_pointer_of_its_key_for_long(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack()
    key = await stack.new_api_key(ACME, account_limits=Limits(daily_requests=1))
    async with client_of(stack, key) as client:
        answers = [
            await client.post(ROUTE, json=chat(str(n)), headers={"idempotency-key": f"key-{n}"})
            for n in range(5)
        ]

    assert [answer.status_code for answer in answers] == [200, 429, 429, 429, 429]
    async with Redis.from_url(stack.redis.url) as redis:
        pointers = await redis.keys("hr:*:idempotent:*")
        lives = sorted([await redis.ttl(pointer) for pointer in pointers])
    assert len(lives) == 5
    assert lives[3] <= 60
    assert lives[4] > 86_000


async def test_a_response_that_is_deleted_and_asked_for_again_is_a_job_of_its_own(
    fresh_stack: FreshStack,
) -> None:
    stack = await fresh_stack()
    key = await stack.new_api_key(
        ACME, account_limits=Limits(daily_requests=10, monthly_spend_micro_usd=10**9)
    )
    body = {"model": PRICED, "input": "Hello there", "max_output_tokens": 50}
    answers = []
    async with client_of(stack, key) as client:
        for _ in range(14):
            answer = await client.post("/v1/responses", json=body, headers={"idempotency-key": "k1"})
            answers.append(answer)
            if answer.status_code == 200:
                await client.delete(f"/v1/responses/{answer.json()['id']}")

    assert Counter(answer.status_code for answer in answers) == {200: 10, 429: 4}
    assert len({answer.headers["x-headrace-job-id"] for answer in answers[:10]}) == 10
    assert len(stack.calls()) == 10
    ledger = await in_the_ledger(stack, 10)

    async def settled() -> bool:
        return await spent(stack) == (ledger, 0)

    await eventually(settled, "counter and ledger agree")


async def test_a_rotated_key_goes_on_where_the_old_one_was(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack()
    admin = await stack.new_api_key(ACME, role=Role.ADMIN)
    limits = {"daily_requests": 3}

    async def statuses(key: str) -> list[int]:
        async with client_of(stack, key) as client:
            return [(await client.post(ROUTE, json=chat(f"{key} {n}"))).status_code for n in range(2)]

    async with client_of(stack, admin) as client:
        key = (await client.post("/api/v1/api-keys", json={"name": "svc", "limits": limits})).json()
        seen = [await statuses(key["key"])]
        for _ in range(2):
            key = (await client.post(f"/api/v1/api-keys/{key['id']}/rotate", json={})).json()
            seen.append(await statuses(key["key"]))
    await in_the_ledger(stack, 3)
    async with Redis.from_url(stack.redis.url) as redis:
        await redis.delete(*await redis.keys("hr:limit:*"))
    seen.append(await statuses(key["key"]))

    assert seen == [[200, 200], [200, 429], [429, 429], [429, 429]]


async def test_a_key_that_makes_its_first_request_by_a_key_is_checked(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack()
    key = await stack.new_api_key(ACME, account_limits=Limits(daily_requests=2))
    async with client_of(stack, key) as client:
        body = {"model": PRICED, "input": "Hello"}
        answers = [
            await client.post("/v1/responses", json=body, headers={"idempotency-key": f"key-{n}"})
            for n in range(4)
        ]

    assert [answer.status_code for answer in answers] == [200, 200, 429, 429]


async def test_twins_are_one_job_and_reserve_as_one(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack()
    key = await stack.new_api_key(ACME, account_limits=Limits(monthly_spend_micro_usd=10**9))
    slow = {"before_headers_ms": 1_000}
    async with client_of(stack, key) as client:
        answers = await asyncio.gather(
            *(client.post(ROUTE, json=chat(cue=slow, temperature=0)) for _ in range(10))
        )

    assert {answer.status_code for answer in answers} == {200}
    assert len(stack.calls()) == 1
    ledger = await in_the_ledger(stack, 1)

    async def settled() -> bool:
        return await spent(stack) == (ledger, 0)

    await eventually(settled, "counter and ledger agree")


async def test_twins_are_a_request_each(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack()
    limits = Limits(window_requests=3, window_seconds=900, daily_requests=100)
    key = await stack.new_api_key(ACME, limits=limits)
    slow = {"before_headers_ms": 3_000}
    async with client_of(stack, key) as client:
        first = asyncio.create_task(client.post(ROUTE, json=chat(cue=slow, temperature=0)))
        await eventually(lambda: len(stack.calls()) == 1, "one call")
        more = await asyncio.gather(
            *(client.post(ROUTE, json=chat(cue=slow, temperature=0)) for _ in range(9))
        )

    answers = Counter(answer.status_code for answer in [await first, *more])
    assert answers == {200: 3, 429: 7}
    assert len(stack.calls()) == 1


async def test_calls_at_once_are_limited_and_free_again_as_soon_as_one_ends(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack()
    key = await stack.new_api_key(ACME, limits=Limits(concurrent_requests=2))
    slow = {"before_headers_ms": 1_500}
    async with client_of(stack, key) as client:
        running = [asyncio.create_task(client.post(ROUTE, json=chat(str(n), slow))) for n in range(2)]
        await eventually(lambda: len(stack.calls()) == 2, "two calls")

        third = await client.post(ROUTE, json=chat("third"))
        await asyncio.gather(*running)
        fourth = await client.post(ROUTE, json=chat("fourth"))

    assert third.status_code == 429
    assert third.headers["x-should-retry"] == "true"
    assert fourth.status_code == 200


async def test_a_stream_counts_until_it_ends(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack()
    key = await stack.new_api_key(ACME, limits=Limits(concurrent_requests=1))
    paced = {"chunks": 30, "between_chunks_ms": 50}
    async with client_of(stack, key) as client:
        async with client.stream("POST", ROUTE, json=chat("a", paced, stream=True)) as streamed:
            assert streamed.status_code == 200
            during = await client.post(ROUTE, json=chat("b"))
            async for _ in streamed.aiter_lines():
                pass
        after = await client.post(ROUTE, json=chat("c"))

    assert (during.status_code, after.status_code) == (429, 200)


async def test_what_the_queue_refuses_is_not_counted(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack(settings={"HEADRACE_QUEUE__MAX_LANE_ENTRIES": "1"})
    key = await stack.new_api_key(ACME, account_limits=Limits(daily_requests=3))
    async with client_of(stack, key) as client:
        running = asyncio.create_task(client.post(ROUTE, json=chat("a", {"before_headers_ms": 2_000})))
        await eventually(lambda: len(stack.calls()) == 1, "one call")
        refused = [await client.post(ROUTE, json=chat(f"full {n}")) for n in range(5)]
        await running
        after = [await client.post(ROUTE, json=chat(f"after {n}")) for n in range(3)]

    assert {answer.status_code for answer in refused} == {503}
    assert [answer.status_code for answer in after] == [200, 200, 429]


async def test_tiers_have_their_rates_and_older_routes_one_of_their_own(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack(settings={"RATE_LIMIT_MAX": "5", "HEADRACE_LIMITS__INFERENCE": "3/1m"})
    key = await stack.new_api_key(ACME, tier=Tier.STANDARD)
    other = await stack.new_api_key(ACME, tier=Tier.STANDARD)
    older = {"prompt": "Hello", "model": PRICED}
    async with client_of(stack, key) as client, client_of(stack, other) as another:
        older_route = [await client.post("/v1/inference/complete", json=older) for _ in range(4)]
        rest = [await client.post(ROUTE, json=chat(str(n))) for n in range(3)]
        of_another_key = await another.post(ROUTE, json=chat("z"))

    assert [answer.status_code for answer in older_route] == [200, 200, 200, 429]
    assert [answer.status_code for answer in rest] == [200, 200, 429]
    assert of_another_key.status_code == 200
    assert of_another_key.headers["x-ratelimit-remaining-requests"] == "4"


async def test_the_official_client_raises_what_its_users_expect(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack()
    key = await stack.new_api_key(ACME, account_limits=Limits(daily_requests=1))
    client = openai.AsyncOpenAI(api_key=key, base_url=f"{stack.apis[0].url}/v1", max_retries=2)
    async with client:
        await client.chat.completions.create(model=PRICED, messages=[{"role": "user", "content": "Hello"}])

        with pytest.raises(openai.RateLimitError) as raised:
            await client.chat.completions.create(model=PRICED, messages=[{"role": "user", "content": "Bye"}])

    assert raised.value.type == "insufficient_quota"
    assert len(stack.calls()) == 1


async def test_a_flushed_redis_begins_with_what_the_ledger_says(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack()
    key = await stack.new_api_key(ACME, account_limits=Limits(daily_requests=3))
    async with client_of(stack, key) as client:
        before = [await client.post(ROUTE, json=chat(str(n))) for n in range(2)]
        await in_the_ledger(stack, 2)
        async with Redis.from_url(stack.redis.url) as redis:
            keys = await redis.keys("hr:limit:*")
            await redis.delete(*keys)
        after = [await client.post(ROUTE, json=chat(f"after {n}")) for n in range(2)]

    assert [answer.status_code for answer in before + after] == [200, 200, 200, 429]


async def test_a_budget_holds_also_while_no_scheduler_hears_how_jobs_end(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack(schedulers=0, settings={"HEADRACE_LIMITS__HOLD_SECONDS": "0.1"})
    key = await stack.new_api_key(ACME, account_limits=Limits(monthly_spend_micro_usd=200))
    due = keyspace.holds(ACME).removesuffix("holds") + "due"

    async def all_are_due() -> bool:
        async with Redis.from_url(stack.redis.url) as redis:
            seconds, _ = await redis.time()
            return int(await redis.zcount(due, 1000 * seconds, "inf")) == 0

    async with client_of(stack, key) as client:
        in_a_second = {"x-request-timeout": "1"}
        before = [await client.post(ROUTE, json=chat(str(n)), headers=in_a_second) for n in range(6)]
        await eventually(all_are_due, "every hold past its time")
        after = await client.post(ROUTE, json=chat("after"), headers=in_a_second)

    passed = sum(answer.status_code == 200 for answer in before)
    assert Counter(answer.status_code for answer in before) == {200: passed, 429: 6 - passed}
    assert (0 < passed < 6, after.status_code) == (True, 429)
    await stack.start_scheduler()
    ledger = await in_the_ledger(stack, passed)

    async def settled() -> bool:
        return await spent(stack) == (ledger, 0)

    await eventually(settled, "counter and ledger agree")


async def test_a_caller_reads_what_is_left_of_each_limit(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack()
    key = await stack.new_api_key(
        ACME,
        limits=Limits(requests_per_minute=10),
        account_limits=Limits(daily_requests=2, monthly_spend_micro_usd=5_000_000),
    )
    async with client_of(stack, key) as client:
        before = (await client.get("/api/v1/quota")).json()
        answer = await client.post(ROUTE, json=chat("one"))
        cost = await in_the_ledger(stack, 1)

        async def is_settled() -> bool:
            return await spent(stack) == (cost, 0)

        await eventually(is_settled, "reservation settled")
        between = (await client.get("/api/v1/quota", params={"estimate_usd": 4.99})).json()
        too_much = (await client.get("/api/v1/quota", params={"estimate_usd": 5})).json()
        await client.post(ROUTE, json=chat("two"))
        after = (await client.get("/api/v1/quota")).json()
        junk = await client.get("/api/v1/quota", params={"estimate_usd": "nan"})

    assert answer.status_code == 200
    assert before["allowed"]
    assert [one["used"] for one in before["limits"]] == [0, 0, 0, 0]
    left = {one["measure"]: one for one in between["limits"]}
    assert left["requests"]["remaining"] == 9
    assert left["requests"]["window_seconds"] == 60
    assert left["daily_requests"]["remaining"] == 1
    assert left["monthly_requests"]["limit"] is None
    assert left["monthly_spend_usd"]["used"] == cost / 1_000_000
    assert left["monthly_spend_usd"]["id"] == ACME
    assert between["allowed"]
    assert too_much["reached"]["measure"] == "monthly_spend_usd"
    assert (after["allowed"], after["reached"]["measure"]) == (False, "daily_requests")
    assert junk.status_code == 422


async def test_a_caller_without_a_token_left_reads_that_no_request_passes(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack(schedulers=0)
    key = await stack.new_api_key(ACME, limits=Limits(tokens_per_minute=10))
    async with client_of(stack, key) as client:
        before = (await client.get("/api/v1/quota")).json()
        assert (await client.post(ROUTE, json=chat())).status_code == 200
        after = (await client.get("/api/v1/quota")).json()
        refused = await client.post(ROUTE, json=chat("again"))

    assert before["allowed"]
    assert (after["allowed"], after["reached"]["measure"], refused.status_code) == (False, "tokens", 429)


async def test_a_caller_without_limits_reads_that_there_are_none(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack(workers=0, schedulers=0)
    async with stack.client() as client:
        answer = await client.get("/api/v1/quota")

    assert answer.json() == {"allowed": True, "reached": None, "limits": []}
