"""The rules that ship fire on what really happens to a broker, and say whom to ask what to do."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import yaml

from tests.fakes.eventually import NeverCame, eventually
from tests.fakes.postgres_server import PostgresServer
from tests.fakes.stack import start_apart
from tests.fakes.tool_binaries import PROMTOOL
from tests.shipping.watched import PROMETHEUS, RULES, Watched, chat

pytestmark = pytest.mark.xdist_group("operations")

ROOT: Final = Path(__file__).parents[2]
RUNBOOKS: Final = ROOT / "docs" / "operations" / "alerts"
NAME: Final = re.compile(r"(?<![:\w])(?:gateway|process)_[a-z_]+(?![:\w])")
"""A metric of a process: names of recorded ones have colons."""
PARTS: Final = ("What it means", "What users see", "How to look", "What to do", "How it ends")
SETTINGS: Final = {
    "HEADRACE_QUEUE__HEARTBEAT_SECONDS": "0.3",
    "HEADRACE_QUEUE__LEASE_IDLE_SECONDS": "1",
    # A job that ends one worker is a dead letter.
    "HEADRACE_QUEUE__MAX_DELIVERIES": "1",
    "HEADRACE_QUEUE__MAX_ATTEMPTS": "1",
    "HEADRACE_BREAKER__FAIL_MAX": "3",
    "HEADRACE_BREAKER__RESET_SECONDS": "2",
    "HEADRACE_QUEUE__MAX_WAIT_SECONDS": "0.5",
}
WITHIN: Final = 20.0


def alerts() -> list[dict[str, Any]]:
    groups = [group for file in RULES for group in yaml.safe_load(file.read_text("utf-8"))["groups"]]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


def promtool(*arguments: str | Path) -> str:
    done = subprocess.run(
        [PROMTOOL.path(), *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def watched(shared_postgres: PostgresServer, postgres_template: str) -> Iterator[Watched]:
    database = shared_postgres.create_database(template=postgres_template)
    broker = Watched(shared_postgres, shared_postgres.url(database), SETTINGS)
    try:
        start_apart(broker)
        yield broker
    finally:
        broker.end_now()
        if not shared_postgres.is_running:
            shared_postgres.start()
        shared_postgres.drop_database(database)


async def fire(watched: Watched, *names: str) -> None:
    async def look() -> bool:
        return set(names) <= await watched.prometheus.firing()

    await eventually(look, f"alerts: {', '.join(names)}", within=WITHIN, every=0.1)


async def end(watched: Watched, *names: str) -> None:
    async def look() -> bool:
        return not set(names) & await watched.prometheus.firing()

    try:
        await eventually(look, f"end of {', '.join(names)}", within=WITHIN, every=0.1)
    except NeverCame as error:
        raise AssertionError(f"still fire: {await watched.prometheus.firing()}") from error


def test_the_rules_and_the_scrape_configuration_are_valid() -> None:
    promtool("check", "rules", *RULES)
    promtool("check", "config", PROMETHEUS / "prometheus.yml")


def test_each_alert_fires_on_the_series_it_is_for_and_on_no_other() -> None:
    files = sorted((PROMETHEUS / "tests").glob("*.yml"))
    promtool("test", "rules", *files)

    tested = "".join(file.read_text("utf-8") for file in files)
    for rule in alerts():
        name, severity = rule["alert"], rule["labels"]["severity"]
        assert f'alertname="{name}", severity="{severity}"' in tested, name


def test_each_alert_says_how_bad_it_is_and_has_a_runbook_whose_links_lead_somewhere() -> None:
    named = {rule["alert"] for rule in alerts()}
    for rule in alerts():
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
        assert rule["annotations"]["runbook_url"] == f"docs/operations/alerts/{rule['alert']}.md"
    assert {page.stem for page in RUNBOOKS.glob("*.md")} - {"index"} == named
    for page in RUNBOOKS.glob("*.md"):
        text = page.read_text("utf-8")
        if page.stem != "index":
            assert text.startswith(f"# {page.stem}\n")
            assert re.findall(r"^## (.+)$", text, re.MULTILINE) == list(PARTS), page.stem
        for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
            assert (page.parent / link).exists(), (page.stem, link)


async def test_all_metrics_that_the_rules_read_are_told_and_a_broker_that_is_well_fires_nothing(
    watched: Watched,
) -> None:
    async with watched.stack.client() as client:
        for stream in (False, True):
            assert (await client.post("/v1/chat/completions", json=chat(stream=stream))).status_code == 200
    await eventually(watched.stack.ledger, "the ledger rows")

    async def names() -> set[str]:
        found = await watched.prometheus.query('count by (__name__) ({__name__=~"gateway_.+|process_.+"})')
        return {one["metric"]["__name__"] for one in found}

    # Told where there is something to tell: without a limit there is no maximum.
    read = {name for file in RULES for name in NAME.findall(file.read_text("utf-8"))}

    async def all_told() -> bool:
        return read <= await names()

    await eventually(all_told, f"all of {sorted(read)}", within=WITHIN, every=0.2)
    # Whatever else runs on this machine holds up event loops, and is no fault of the broker.
    await end(watched, *{rule["alert"] for rule in alerts()} - {"EventLoopLag"})


async def test_jobs_that_nobody_takes_fire_until_a_worker_does(watched: Watched) -> None:
    await watched.stack.sigterm(watched.stack.workers[0])
    async with watched.stack.client() as client:
        waiting = [
            asyncio.create_task(client.post("/v1/chat/completions", json=chat(f"{n}"))) for n in range(3)
        ]
        await fire(watched, "QueueStuck", "OldestJobTooOld", "NoWorkers", "ProviderWithoutWorkers")

        await watched.start_worker()

        assert [answer.status_code for answer in await asyncio.gather(*waiting)] == [200] * 3
    await end(watched, "QueueStuck", "OldestJobTooOld", "NoWorkers", "ProviderWithoutWorkers")


async def test_a_job_that_ended_its_worker_fires_until_somebody_purges_it(watched: Watched) -> None:
    await watched.stack.sigterm(watched.stack.workers[0])
    killed = watched.spawn_worker(faultpoints="W2")
    async with watched.stack.client() as client:
        asked = asyncio.create_task(client.post("/v1/chat/completions", json=chat("poison")))
        await killed.has_ended()
        watched.stack.forget(killed)
        await watched.start_worker()
        assert (await asked).json()["error"]["code"] == "poison"
    await fire(watched, "DeadLetters")

    watched.stack.redis.call("DEL", "hr:{0}:dead:openai")

    await end(watched, "DeadLetters")


async def test_usage_that_the_database_does_not_take_fires_until_it_does(watched: Watched) -> None:
    watched.postgres.stop()
    async with watched.stack.client() as client:
        assert (await client.post("/v1/chat/completions", json=chat())).status_code == 200
    await fire(watched, "LedgerLag", "DatabaseDown")

    watched.postgres.start()

    await end(watched, "LedgerLag", "DatabaseDown")


async def test_a_redis_that_fills_up_fires_while_there_is_room_to_act(watched: Watched) -> None:
    watched.stack.redis.fill_to(65)
    try:
        await fire(watched, "RedisMemory")
        async with watched.stack.client() as client:
            assert (await client.post("/v1/chat/completions", json=chat())).status_code == 200
    finally:
        watched.stack.redis.call("CONFIG", "SET", "maxmemory", 0)

    await end(watched, "RedisMemory")


async def test_a_provider_that_is_down_fires_until_it_answers(watched: Watched) -> None:
    watched.stack.provider.kill()
    async with watched.stack.client() as client:

        async def ask_until(done: asyncio.Task[None]) -> None:
            while not done.done():
                await client.post("/v1/chat/completions", json=chat())

        await ask_until(asyncio.create_task(fire(watched, "ProviderDown", "BreakerOpen", "ErrorBudgetBurn")))
        watched.stack.provider.start()
        await ask_until(asyncio.create_task(end(watched, "ProviderDown", "BreakerOpen", "ErrorBudgetBurn")))
        assert (await client.post("/v1/chat/completions", json=chat())).status_code == 200


async def test_a_scheduler_that_is_gone_fires(watched: Watched) -> None:
    await watched.stack.kill9(watched.stack.schedulers[0])
    await fire(watched, "SchedulerDown")

    await watched.start_scheduler()

    await end(watched, "SchedulerDown")


async def test_an_api_that_is_not_ready_fires(watched: Watched) -> None:
    watched.stack.redis.stop()
    try:
        await fire(watched, "ApiNotReady", "NoApiReady")
    finally:
        watched.stack.redis.restart()
    await end(watched, "ApiNotReady", "NoApiReady")
    async with httpx.AsyncClient(trust_env=False) as client:
        assert (await client.get(f"{watched.stack.url}/health/ready")).status_code == 200
