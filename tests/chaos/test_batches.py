"""A batch whose scheduler and workers are killed all the way: each line once, and every process small.

CHAOS_LINES says how many; without it 1,000, and 50,000 in the full form.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import httpx
import psutil
import pytest

from tests.chaos import size
from tests.fakes.eventually import eventually
from tests.fakes.stack import Process, Stack
from tests.fixtures.stack import FreshStack

pytestmark = [pytest.mark.chaos, pytest.mark.xdist_group("chaos"), pytest.mark.timeout(3_600)]

SLOTS: Final = 16
GROWTH_BYTES: Final = 80 * 1024 * 1024
"""What a process may have taken more than when it began; independent of how many lines there are."""
ENDED: Final = {"completed", "failed", "expired", "cancelled"}
SETTINGS: Final = {"HEADRACE_WORKER__SLOTS": str(SLOTS), "HEADRACE_BATCHES__MAX_LINES": "60000"}


def lines_wanted() -> int:
    return int(os.environ.get("CHAOS_LINES") or (50_000 if size.is_full() else 1_000))


def input_file(count: int, rng: random.Random) -> tuple[bytes, list[str]]:
    """With its good names: among them lines that are no good, empty ones, CRLF, and a byte order mark."""
    names: list[str] = []
    written = [b"\xef\xbb\xbf"]
    for n in range(count):
        end = rng.choice([b"\n", b"\r\n"])
        if rng.random() < 0.02:
            written.append(rng.choice([b"", b"  "]) + end)
        match rng.randrange(50):
            case 0:
                written.append(b'{"custom_id": "broken' + end)
            case 1 if names:
                written.append(_line(rng.choice(names)) + end)
            case 2:
                written.append(_line(None) + end)
            case _:
                names.append(f"line-{n}")
                written.append(_line(names[-1]) + end)
    return b"".join(written), names


def _line(custom_id: str | None) -> bytes:
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}
    line = {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}
    return json.dumps(line).encode()


class Memory:
    """The least and the most that each kind of process held, once it was up."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.first: dict[str, int] = {}
        self.most: dict[str, int] = {}

    def look(self) -> None:
        for process in (*self._stack.apis, *self._stack.workers, *self._stack.schedulers):
            if not process.is_running or time.time() - process.started_at < 3:
                continue
            try:
                held = psutil.Process(process.pid).memory_info().rss
            except psutil.Error:
                continue
            self.first.setdefault(process.name, held)
            self.most[process.name] = max(self.most.get(process.name, 0), held)

    @property
    def growth(self) -> int:
        return max((self.most[name] - held for name, held in self.first.items()), default=0)


async def test_a_batch_under_kills_answers_each_line_once(fresh_stack: FreshStack) -> None:
    rng = size.dice("batch under kills")
    count = lines_wanted()
    content, names = input_file(count, rng)
    stack = await fresh_stack(workers=2, schedulers=0, settings=SETTINGS)
    memory = Memory(stack)
    began = time.monotonic()
    worker_kills = 0
    plan: Iterator[str] = iter([f"S4@{n}" for n in (1, 2, *(rng.randint(2, 14) for _ in range(3)))])
    scheduler_kills = 0

    async def scheduler() -> Process:
        return await stack.start_scheduler(faultpoints=next(plan, ""))

    await scheduler()
    async with stack.client() as client:
        batch = await _create(client, content)
        next_kill = time.monotonic() + rng.uniform(1.0, 2.0)
        while batch["status"] not in ENDED:
            memory.look()
            for dead in [process for process in stack.schedulers if not process.is_running]:
                stack.forget(dead)
                scheduler_kills += 1
                await scheduler()
            if time.monotonic() > next_kill and worker_kills < 5:
                next_kill = time.monotonic() + rng.uniform(1.0, 4.0)
                await stack.kill9(rng.choice(stack.workers))
                worker_kills += 1
                await stack.start_worker()
                if worker_kills % 2 and stack.schedulers[0].is_running:
                    await stack.kill9(stack.schedulers[0])
                    scheduler_kills += 1
                    await scheduler()
            await asyncio.sleep(0.05)
            batch = (await client.get(f"/v1/batches/{batch['id']}")).json()
        answers = await _read(client, batch["output_file_id"])
        errors = await _read(client, batch["error_file_id"])

    seconds = time.monotonic() - began
    counts = dict(batch["request_counts"])
    total = counts.pop("total")
    told = Counter(one["custom_id"] for one in (*answers, *errors) if one["custom_id"] is not None)

    async def all_billed() -> list[dict[str, Any]] | None:
        rows = await stack.ledger()
        return rows if len(rows) >= len(answers) else None

    billed = await eventually(all_billed, "usage of every line", within=60, every=0.5)
    calls = stack.calls()
    size.report(
        "batch under kills",
        lines=count,
        requests=total,
        good=len(names),
        completed=counts["completed"],
        failed=counts["failed"],
        scheduler_kills=scheduler_kills,
        worker_kills=worker_kills,
        calls=len(calls),
        seconds=round(seconds, 1),
        lines_per_second=round(count / seconds, 1),
        megabytes={name: round(held / 1048576, 1) for name, held in memory.most.items()},
        most_growth_megabytes=round(memory.growth / 1048576, 1),
    )
    assert batch["status"] == "completed"
    assert sum(counts.values()) == total == count == len(answers) + len(errors)
    assert set(told) == set(names)
    assert max(told.values()) == 1
    assert len({row["job_id"] for row in billed or ()}) == len(billed or ()) == len(answers)
    assert len(calls) <= len(names) + worker_kills * SLOTS
    assert scheduler_kills >= 3
    assert memory.growth < GROWTH_BYTES


async def _create(client: httpx.AsyncClient, content: bytes) -> dict[str, Any]:
    file = await client.post("/v1/files", files={"file": ("in.jsonl", content)}, data={"purpose": "batch"})
    batch = await client.post(
        "/v1/batches",
        json={
            "input_file_id": file.json()["id"],
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        },
    )
    assert batch.status_code == 200, batch.text
    return dict(batch.json())


async def _read(client: httpx.AsyncClient, file_id: str | None) -> list[dict[str, Any]]:
    if file_id is None:
        return []
    answer = await client.get(f"/v1/files/{file_id}/content")
    return [json.loads(line) for line in answer.text.splitlines()]
