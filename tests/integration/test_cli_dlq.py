"""`headrace dlq`, as somebody types it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest
import typer
from typer.testing import CliRunner, Result

from cli import data_folder, dlq
from shared.domain.job import Job
from shared.ids import new_job_id
from shared.settings import QueueSettings
from tests.integration.queue.support import Queue, a_job, open_link
from tests.integration.queue.test_dead_letters import dies, expires

T = TypeVar("T")

headrace = typer.Typer()
headrace.add_typer(dlq.app, name="dlq")


@pytest.fixture(autouse=True)
def environment(redis_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADRACE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("COLUMNS", "200")


def run(*words: str, answer: str = "") -> Result:
    return CliRunner().invoke(headrace, ["dlq", *words], input=answer)


def in_queue(url: str, work: Callable[[Queue], Awaitable[T]]) -> T:
    async def inner() -> T:
        async with open_link(url) as link:
            return await work(Queue(link, QueueSettings()))

    return asyncio.run(inner())


def dead(url: str, count: int = 1) -> list[Job]:
    jobs = [a_job(body=b'{"model":"m","messages":["secret"]}') for _ in range(count)]
    in_queue(url, lambda queue: dies(queue, *jobs))
    return jobs


def test_letters_are_listed_as_a_table_and_as_json(redis_url: str) -> None:
    old, new = dead(redis_url, 2)

    table = run("list")
    first = json.loads(run("list", "--json", "--limit", "1").stdout)
    rest = json.loads(run("list", "--json", "--cursor", first["next_cursor"]).stdout)

    lines = table.stdout.splitlines()
    assert lines[0].split() == ["ID", "DIED", "PROVIDER", "MODEL", "ACCOUNT", "REASON", "STATE"]
    assert [line.split()[0] for line in lines[1:]] == [new.id, old.id]
    assert lines[1].endswith("poison  kept")
    assert [letter["job_id"] for letter in first["data"] + rest["data"]] == [new.id, old.id]
    assert rest["next_cursor"] is None
    assert json.loads(run("list", "--json", "--provider", "anthropic").stdout)["data"] == []


def test_a_letter_is_shown_and_what_was_asked_only_when_that_is_wanted(redis_url: str) -> None:
    (job,) = dead(redis_url)

    text, as_json = run("show", job.id), run("show", job.id, "--json")
    whole = run("show", job.id, "--json", "--include-body")

    assert "secret" not in text.stdout + as_json.stdout
    assert "poison" in text.stdout
    assert json.loads(as_json.stdout)["state"] == "failed"
    assert json.loads(whole.stdout)["body"]["messages"] == ["secret"]
    assert run("show", new_job_id()).exit_code == 1
    assert run("show", "job_x").exit_code == os.EX_USAGE


def test_letters_are_redriven_by_id_and_by_provider_and_each_once(redis_url: str) -> None:
    first, second, third = dead(redis_url, 3)

    by_id = json.loads(run("redrive", first.id, "--json").stdout)
    again = run("redrive", first.id)
    by_provider = json.loads(run("redrive", "--provider", "openai", "--json").stdout)
    none = run("redrive", "--provider", "openai")

    ((new_id, repeated),) = [(one["redriven_as"], one["repeated"]) for one in by_id["redriven"]]
    assert not repeated
    assert again.stdout == f"{first.id} runs as {new_id}, as before.\n"
    assert [one["job_id"] for one in by_provider["redriven"]] == [third.id, second.id]
    assert (none.exit_code, none.stderr) == (0, "There are none.\n")
    assert len(in_queue(redis_url, lambda queue: queue.entries(first))) == 3


def test_what_cannot_be_redriven_is_told_and_the_rest_is(redis_url: str) -> None:
    expired, kept = dead(redis_url, 2)
    in_queue(redis_url, lambda queue: expires(queue, expired))

    result = run("redrive", expired.id, kept.id)

    assert result.exit_code == 1
    assert result.stdout.startswith(f"{kept.id} runs as job_")
    assert result.stderr.startswith(f"{expired.id}: What this dead letter asked for is no longer kept")


def test_letters_are_purged_only_when_that_is_confirmed(redis_url: str) -> None:
    first, second = dead(redis_url, 2)

    refused = run("purge", first.id, answer="n\n")
    kept = json.loads(run("list", "--json").stdout)["data"]
    confirmed = run("purge", first.id, answer="y\n")
    younger = run("purge", "--older-than-days", "1", "--yes")
    everything = run("purge", "--older-than-days", "0", "--yes", "--json")

    assert (refused.exit_code, len(kept)) == (1, 2)
    assert confirmed.stdout.endswith("1 thrown away.\n")
    assert younger.stdout == "0 thrown away.\n"
    assert json.loads(everything.stdout) == {"purged": 1}
    assert json.loads(run("list", "--json").stdout)["data"] == []
    assert run("show", second.id).exit_code == 1


def test_letters_are_named_by_id_or_by_options_and_never_all_by_mistake(redis_url: str) -> None:
    (job,) = dead(redis_url)

    for words in (
        ("redrive",),
        ("redrive", job.id, "--provider", "openai"),
        ("purge", "--yes"),
        ("purge", job.id, "--older-than-days", "1", "--yes"),
        ("purge", "--provider", "openai", "--yes"),
    ):
        assert run(*words).exit_code == os.EX_USAGE, words

    assert len(json.loads(run("list", "--json").stdout)["data"]) == 1


def test_the_redis_of_a_running_headrace_up_is_found(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (job,) = dead(redis_url)
    monkeypatch.delenv("REDIS_URL")
    folder = tmp_path / "data"

    nowhere = run("list")
    data_folder.prepare(folder)
    held = data_folder.lock(folder)
    assert held is not None
    data_folder.announce_redis(folder, redis_url)
    found = run("list")
    os.close(held)

    assert (nowhere.exit_code, nowhere.stderr.count("\n")) == (os.EX_CONFIG, 1)
    assert job.id in found.stdout


def test_a_redis_that_is_away_is_one_line_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://:hidden@127.0.0.1:1/0")

    result = run("list")

    assert (result.exit_code, result.stderr) == (os.EX_UNAVAILABLE, "The queue is not reachable right now.\n")
