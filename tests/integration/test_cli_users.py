"""`headrace users`, as somebody types it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import redis as blocking_redis
import typer
from sqlalchemy import select
from typer.testing import CliRunner, Result

from cli import keys, users
from shared import keyspace
from shared.auth.first_operator import FirstOperator, make_first_operator
from shared.auth.passwords import Passwords
from shared.clock import SystemClock
from shared.db.engine import create_engine
from shared.db.tables import audit_event
from shared.db.tables import user as user_table

PASSWORD = "correct horse battery"

headrace = typer.Typer()
headrace.add_typer(users.app, name="users")
headrace.add_typer(keys.app, name="keys")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database_url: str) -> None:
    for name in ("HEADRACE_DATABASE_URL", "REDIS_URL", "HEADRACE_REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("HEADRACE_KEY_PEPPER", "pepper of the tests, 32 characters")


def run(*words: str, typed: str = "") -> Result:
    return CliRunner().invoke(headrace, words, input=typed)


def created(*words: str) -> dict[str, Any]:
    result = run("users", "create", *words, "--json", typed=PASSWORD + "\n")
    assert result.exit_code == 0, result.output
    made: dict[str, Any] = json.loads(result.stdout)
    return made


def listed() -> dict[str, dict[str, Any]]:
    return {each["email"]: each for each in json.loads(run("users", "list", "--json").stdout)}


def rows(url: str, table: Any) -> list[dict[str, Any]]:
    async def find() -> list[dict[str, Any]]:
        engine = create_engine(url)
        try:
            async with engine.connect() as connection:
                return [dict(row._mapping) for row in await connection.execute(select(table))]
        finally:
            await engine.dispose()

    return asyncio.run(find())


def password_fits(url: str, email: str, password: str) -> bool:
    async def verify(stored: str) -> bool:
        passwords = Passwords(slots=1, queue=1)
        try:
            return await passwords.verify(password, stored)
        finally:
            passwords.close()

    (stored,) = (row["password_hash"] for row in rows(url, user_table) if row["email"] == email)
    return asyncio.run(verify(stored))


def test_a_created_user_is_listed_and_its_password_is_nowhere(database_url: str) -> None:
    own = created("Ada@Example.com", "--name", "Ada", "--operator")
    member = created("grace@example.com", "--account", "acme", "--role", "viewer")

    found, text = listed(), run("users", "list").stdout
    assert (own["email"], own["operator"]) == ("ada@example.com", True)
    assert member["accounts"] == ["acme"]
    assert found == {"ada@example.com": own, "grace@example.com": member}
    assert "operator" in text
    assert password_fits(database_url, "ada@example.com", PASSWORD)
    assert PASSWORD not in json.dumps(rows(database_url, user_table), default=str)
    acts = rows(database_url, audit_event)
    assert {(act["act"], act["actor"]) for act in acts} == {("user.created", "command line")}


@pytest.mark.parametrize(
    ("words", "typed", "code"),
    [
        (("create", "no address"), PASSWORD, 64),
        (("create", "ada@example.com"), "short", 64),
        (("create", "ada@example.com"), "", 64),
        (("create", "ada@example.com", "--account", "../x"), PASSWORD, 64),
        (("create", "ada@example.com", "--role", "root"), PASSWORD, 2),
        (("disable", "nobody@example.com"), "", 1),
        (("enable", "usr_000000000000000000000000"), "", 1),
        (("password", "nobody@example.com"), PASSWORD, 1),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(words: tuple[str, ...], typed: str, code: int) -> None:
    result = run("users", *words, typed=typed + "\n")

    assert result.exit_code == code, result.output
    assert PASSWORD not in result.output
    assert "Traceback" not in result.output
    assert not listed()


def test_an_email_is_taken_once() -> None:
    created("ada@example.com")

    again = run("users", "create", "ADA@example.com", typed=PASSWORD + "\n")

    assert again.exit_code == 1
    assert "already" in again.stderr


def test_disabling_reaches_the_database_redis_and_those_who_listen(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)
    made = created("ada@example.com")
    with blocking_redis.Redis.from_url(redis_url) as redis, redis.pubsub() as listener:
        listener.subscribe(keyspace.REVOKED_CHANNEL)
        assert listener.get_message(timeout=5) is not None

        disabled = json.loads(run("users", "disable", "ada@example.com", "--json").stdout)

        message = listener.get_message(timeout=5)
        assert message is not None
        assert message["data"] == made["id"].encode()
    enabled = json.loads(run("users", "enable", made["id"], "--json").stdout)
    assert disabled["announced"]
    assert disabled["disabled_at"] is not None
    assert enabled["disabled_at"] is None


def test_an_operator_is_made_and_unmade_and_a_password_is_changed(database_url: str) -> None:
    created("ada@example.com")

    raised = json.loads(run("users", "operator", "ada@example.com", "--json").stdout)
    lowered = json.loads(run("users", "operator", "ada@example.com", "--off", "--json").stdout)
    changed = run("users", "password", "ada@example.com", typed="another password\n")

    assert (raised["operator"], lowered["operator"]) == (True, False)
    assert changed.exit_code == 0
    assert "REDIS_URL" in changed.stderr
    assert password_fits(database_url, "ada@example.com", "another password")
    assert not password_fits(database_url, "ada@example.com", PASSWORD)


def test_a_key_of_a_member_has_what_it_was_given_and_is_rotated(database_url: str) -> None:
    made = created("ada@example.com", "--account", "acme")
    words = ("--account", "acme", "--user", "ada@example.com", "--role", "member", "--scope", "inference")
    more = ("--scope", "models:read", "--model", "openai/*", "--provider", "openai")
    limits = (
        *("--limit", "daily_requests=5", "--limit", "requests_per_minute=2"),
        *("--limit", "monthly_spend_usd=0.05"),
    )

    result = run("keys", "create", "--name", "laptop", *words, *more, *limits, "--json")
    key = json.loads(result.stdout)
    rotated = json.loads(run("keys", "rotate", key["id"], "--grace-seconds", "60", "--json").stdout)
    again = run("keys", "rotate", key["id"])
    nobody = run("keys", "create", "--name", "x", "--account", "acme", "--user", "b@example.com")
    wrong = [
        run("keys", "create", "--name", "x", "--limit", limit)
        for limit in (
            "daily_requests",
            "daily_requests=0",
            "daily_requests=x",
            "coffee=3",
            "window_requests=3",
            *(f"monthly_spend_usd={spend}" for spend in ("0", "-1", "x", "nan", "inf", "1e30", "")),
        )
    ]

    assert (key["user"], key["role"]) == (made["id"], "member")
    assert key["scopes"] == ["inference", "models:read"]
    assert (key["models"], key["providers"]) == (["openai/*"], ["openai"])
    assert key["limits"] == {
        "daily_requests": 5,
        "requests_per_minute": 2,
        "monthly_spend_micro_usd": 50_000,
    }
    assert rotated["key"] != key["key"]
    assert rotated["rotated_from"] == key["id"]
    for name in ("user", "role", "scopes", "models", "providers", "limits", "priority"):
        assert rotated[name] == key[name]
    assert (again.exit_code, nobody.exit_code) == (1, 1)
    assert {each.exit_code for each in wrong} == {64}
    states = {each["id"]: each for each in json.loads(run("keys", "list", "--json").stdout)}
    assert states[key["id"]]["expires_at"] is not None
    assert states[rotated["id"]]["expires_at"] is None


async def test_the_first_operator_is_made_once_and_takes_nobody_s_place(database_url: str) -> None:
    engine, passwords, now = create_engine(database_url), Passwords(slots=2, queue=8), SystemClock().now()

    async def make(email: str) -> FirstOperator:
        return await make_first_operator(engine, passwords, email, PASSWORD, now=now)

    try:
        both = await asyncio.gather(make("root@example.com"), make("root@example.com"))
        later = await make("another@example.com")
    finally:
        passwords.close()
        await engine.dispose()

    assert sorted(both, key=str) == [FirstOperator.MADE, FirstOperator.NOT_NEEDED]
    assert later is FirstOperator.NOT_NEEDED


async def test_whoever_registered_with_the_operator_s_email_is_not_made_one(database_url: str) -> None:
    await asyncio.to_thread(created, "root@example.com")
    engine, passwords = create_engine(database_url), Passwords(slots=1, queue=1)
    try:
        done = await make_first_operator(
            engine, passwords, "Root@example.com", "another password", now=SystemClock().now()
        )
    finally:
        passwords.close()
        await engine.dispose()

    found = await asyncio.to_thread(listed)
    assert done is FirstOperator.EMAIL_TAKEN
    assert not found["root@example.com"]["operator"]
    assert await asyncio.to_thread(password_fits, database_url, "root@example.com", PASSWORD)
