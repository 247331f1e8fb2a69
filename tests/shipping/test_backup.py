"""docs/operations/backup.md, done: everything is destroyed, and what was accepted before the copy is done."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.eventually import eventually
from tests.fakes.postgres_server import PostgresServer
from tests.fakes.stack import Stack
from tests.fixtures.stack import FreshStack
from tests.shipping.documented import headings_with_shell, run_shell, shell_of

PAGE = "backup.md"
EMBEDDED = ("Copy the embedded database", "Restore the embedded database")
POSTGRES = ("Copy PostgreSQL", "Restore PostgreSQL")
FILES = ("Copy the files", "Restore the files")


async def submit(broker: Stack, text: str) -> str:
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": text}]}
    async with broker.client() as client:
        answer = await client.post("/api/v1/jobs", json={"endpoint": "/v1/chat/completions", "body": body})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


async def status_of(broker: Stack, job: str) -> str:
    async with broker.client() as client:
        answer = await client.get(f"/api/v1/jobs/{job}")
    return str(answer.json()["status"]) if answer.is_success else str(answer.status_code)


async def upload(broker: Stack) -> str:
    async with broker.client() as client:
        answer = await client.post(
            "/v1/files", files={"file": ("notes.txt", b"kept")}, data={"purpose": "user_data"}
        )
    assert answer.is_success, answer.text
    return str(answer.json()["id"])


async def content_of(broker: Stack, file: str) -> bytes:
    async with broker.client() as client:
        return (await client.get(f"/v1/files/{file}/content")).content


async def ledger_of(broker: Stack) -> dict[str, dict[str, Any]]:
    rows = await broker.ledger()
    found = {row["job_id"]: row for row in rows}
    assert len(found) == len(rows)
    return found


async def all_done(broker: Stack, jobs: list[str]) -> None:
    async def look() -> bool:
        ended = [await status_of(broker, job) for job in jobs] == ["succeeded"] * len(jobs)
        return ended and (await ledger_of(broker)).keys() >= set(jobs)

    await eventually(look, "every job done and in the ledger", within=30)


async def lose_everything(broker: Stack) -> None:
    """Processes, and all that Redis held."""
    for process in [*broker.apis, *broker.workers, *broker.schedulers]:
        await broker.kill9(process)
    broker.redis.kill9()
    broker.redis.stop(forget=True)


@pytest.mark.parametrize("kind", ["embedded", "postgresql"])
async def test_what_was_accepted_before_the_copy_is_done_after_the_restore(
    fresh_stack: FreshStack, tmp_path: Path, request: pytest.FixtureRequest, kind: str
) -> None:
    copy, restore = EMBEDDED if kind == "embedded" else POSTGRES
    broker: Stack
    if kind == "embedded":
        broker = await fresh_stack(workers=0)
    else:
        url = request.getfixturevalue("postgres_url")
        broker = Stack(workers=0, database_url=url)
        await broker.start()
    try:
        database = broker.folder / "headrace.db"
        environment = {
            **broker.environment(),
            "BACKUP": str(tmp_path),
            "DATABASE_FILE": str(database),
        }
        file = await upload(broker)
        waiting = [await submit(broker, f"before the first worker {n}") for n in range(3)]
        worker = await broker.start_worker()
        await all_done(broker, waiting)
        await broker.sigterm(worker)
        settled = await ledger_of(broker)
        accepted = [await submit(broker, f"before the copy {n}") for n in range(5)]

        for heading in (copy, FILES[0]):
            await run_shell(shell_of(PAGE, heading), environment, broker.folder)
        late = await submit(broker, "after the copy")
        # What ends from here on is not in the copy: it will run a second time.
        await broker.start_worker()
        await all_done(broker, [*accepted, late])
        await lose_everything(broker)
        if kind == "embedded":
            database.unlink()
        else:
            server = request.getfixturevalue("postgres_server")
            assert isinstance(server, PostgresServer)
            name = broker.database_url.rpartition("/")[2]
            server.drop_database(name)
            server.execute(f'CREATE DATABASE "{name}"')
        await run_shell('rm -r "$HEADRACE_DATA_DIR/files"', environment, broker.folder)

        for heading in (restore, FILES[1]):
            await run_shell(shell_of(PAGE, heading), environment, broker.folder)
        broker.redis.start()
        broker.spawn_scheduler()
        broker.spawn_worker()
        broker.spawn_api()
        await broker.wait_ready()

        await all_done(broker, [*waiting, *accepted])
        after = await ledger_of(broker)
        assert after.keys() == {*waiting, *accepted}
        assert {job: after[job] for job in settled} == settled
        calls = Counter(call.job for call in broker.calls())
        assert [calls[job] for job in (*waiting, *accepted)] == [1, 1, 1, 2, 2, 2, 2, 2]
        assert await status_of(broker, late) == "404"
        assert await content_of(broker, file) == b"kept"
    finally:
        if kind != "embedded":
            await broker.stop()


def test_every_command_of_the_page_is_run_here() -> None:
    assert sorted(headings_with_shell(PAGE)) == sorted([*EMBEDDED, *POSTGRES, *FILES])


async def test_a_copy_overwrites_nothing_and_only_its_owner_may_read_it(
    sqlite_url: str, tmp_path: Path
) -> None:
    environment = {"DATABASE_URL": sqlite_url, "PYTHONPATH": str(Path(__file__).parents[2])}
    script = "headrace db backup copy.db; if headrace db backup copy.db; then exit 1; fi; stat -c %a copy.db"

    said = await run_shell(script, environment, tmp_path)

    assert "copy.db: File exists." in said
    assert said.splitlines()[-1] == "600"
