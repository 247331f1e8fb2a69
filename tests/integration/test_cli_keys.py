"""`headrace keys` and `headrace db`, as somebody types them."""

from __future__ import annotations

import asyncio
import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis as blocking_redis
import typer
from typer.testing import CliRunner, Result

from cli import db, keys
from shared import keyspace
from shared.auth.api_keys import digest, parse
from shared.db.engine import create_engine
from shared.db.repositories import api_keys
from shared.db.repositories.api_keys import ApiKeyRecord

PEPPER = "pepper of the tests, 32 characters"

headrace = typer.Typer()
headrace.add_typer(keys.app, name="keys")
headrace.add_typer(db.app, name="db")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("DATABASE_URL", "HEADRACE_DATABASE_URL", "REDIS_URL", "HEADRACE_REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADRACE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("HEADRACE_KEY_PEPPER", PEPPER)


def run(*words: str) -> Result:
    return CliRunner().invoke(headrace, words)


def created(*words: str) -> dict[str, str]:
    result = run("keys", "create", "--name", "laptop", "--json", *words)
    assert result.exit_code == 0, result.output
    key: dict[str, str] = json.loads(result.stdout)
    return key


def stored(url: str, token: str) -> ApiKeyRecord | None:
    async def find() -> ApiKeyRecord | None:
        engine = create_engine(url)
        try:
            async with engine.connect() as connection:
                return await api_keys.find_by_digest(connection, digest(PEPPER.encode(), token))
        finally:
            await engine.dispose()

    return asyncio.run(find())


def test_a_created_key_is_printed_alone_on_stdout_and_works(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)

    result = run("keys", "create", "--name", "laptop", "--account", "acme", "--expires-days", "30")

    assert result.exit_code == 0
    token = result.stdout.strip()
    assert parse(token) is not None
    record = stored(database_url, token)
    assert record is not None
    assert (record.name, record.account_id) == ("laptop", "acme")
    assert record.expires_at is not None
    assert timedelta(days=29) < record.expires_at - datetime.now(UTC) <= timedelta(days=30)


def test_the_embedded_database_needs_no_step_before(tmp_path: Path) -> None:
    key = created()

    assert key["account"] == "default"
    assert stored(f"sqlite:///{tmp_path / 'data' / 'headrace.db'}", key["key"]) is not None


def test_listing_shows_what_recognises_a_key_and_nothing_that_opens_a_door() -> None:
    mine, theirs = created(), created("--account", "acme")

    shown = run("keys", "list", "--json")
    text = run("keys", "list")
    one = json.loads(run("keys", "list", "--account", "acme", "--json").stdout)

    assert {key["id"] for key in json.loads(shown.stdout)} == {mine["id"], theirs["id"]}
    assert [key["id"] for key in one] == [theirs["id"]]
    for output in (shown.stdout, text.stdout):
        assert mine["id"] in output
        assert mine["key"] not in output
        assert digest(PEPPER.encode(), mine["key"]) not in output


def test_revoking_reaches_the_database_redis_and_those_who_listen(
    database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("REDIS_URL", redis_url)
    key = created()
    with blocking_redis.Redis.from_url(redis_url) as redis, redis.pubsub() as listener:
        listener.subscribe(keyspace.REVOKED_CHANNEL)
        assert listener.get_message(timeout=5) is not None

        result = run("keys", "revoke", key["id"], "--json")

        assert json.loads(result.stdout) == {"id": key["id"], "revoked": True, "announced": True}
        message = listener.get_message(timeout=5)
        assert message is not None
        assert message["data"] == key["id"].encode()
        assert redis.get(keyspace.KEY_VERSION) == b"1"
    record = stored(database_url, key["key"])
    assert record is not None
    assert record.revoked_at is not None
    assert "revoked" in run("keys", "list").stdout


def test_revoking_without_redis_says_how_long_it_takes() -> None:
    result = run("keys", "revoke", created()["id"])

    assert result.exit_code == 0
    assert "up to 60 s" in result.stderr


def test_revoking_with_redis_away_says_so_and_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    key = created()
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")

    result = run("keys", "revoke", key["id"])

    assert result.exit_code == os.EX_TEMPFAIL
    assert "Revoke it again" in result.stderr


def test_revoking_an_unknown_id_fails_in_one_line() -> None:
    result = run("keys", "revoke", "key_unknown")

    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("pepper", [None, "", "short"])
def test_without_a_pepper_the_error_is_one_line_that_names_it(
    pepper: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if pepper is None:
        monkeypatch.delenv("HEADRACE_KEY_PEPPER")
    else:
        monkeypatch.setenv("HEADRACE_KEY_PEPPER", pepper)

    result = run("keys", "create", "--name", "laptop")

    assert result.exit_code == os.EX_CONFIG
    assert result.stderr.startswith("HEADRACE_KEY_PEPPER")
    assert result.stderr.count("\n") == 1
    assert "short" not in result.stderr.replace("too short", "")


def test_the_pepper_that_the_embedded_broker_made_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HEADRACE_KEY_PEPPER")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "key-pepper").write_text(PEPPER)

    key = created()

    assert stored(f"sqlite:///{tmp_path / 'data' / 'headrace.db'}", key["key"]) is not None


@pytest.mark.parametrize(
    ("variable", "value"),
    [("DATABASE_URL", "mysql://u:hidden@h/d"), ("HEADRACE_QUEUE__SHARDS", "0"), ("PORT", "hidden")],
)
def test_a_wrong_setting_is_one_line_that_names_it_and_hides_its_value(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)

    result = run("keys", "list")

    assert result.exit_code == os.EX_CONFIG
    assert variable in result.stderr.split(": ")[0]
    assert "hidden" not in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "words", [("--name", " "), ("--name", "a\0b"), ("--name", "a", "--account", "a b"), ()]
)
def test_nonsense_is_refused_as_usage(words: tuple[str, ...]) -> None:
    assert run("keys", "create", *words).exit_code in {2, os.EX_USAGE}


def test_a_database_that_is_not_migrated_is_not_touched(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", empty_database_url)

    refused = run("keys", "create", "--name", "laptop")
    before = run("db", "current", "--json")
    upgraded = run("db", "upgrade")
    after = run("db", "current")
    again = run("db", "upgrade")

    assert refused.exit_code == os.EX_CONFIG
    assert "headrace db upgrade" in refused.stderr
    assert (before.exit_code, json.loads(before.stdout)["current"]) == (1, None)
    assert upgraded.exit_code == after.exit_code == again.exit_code == 0
    assert "already" in again.stdout
    assert run("keys", "create", "--name", "laptop").exit_code == 0


def test_a_database_that_is_away_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:hidden@127.0.0.1:1/d")

    for words in (("keys", "list"), ("db", "upgrade"), ("db", "current")):
        result = run(*words)

        assert result.exit_code == os.EX_UNAVAILABLE
        assert result.stderr.count("\n") == 1
        assert "hidden" not in result.stderr


async def test_the_embedded_key_is_kept_until_it_is_good_no_more(sqlite_url: str, tmp_path: Path) -> None:
    file = tmp_path / "api-key"

    first = await keys.ensure_key(sqlite_url, PEPPER, file)
    assert await keys.ensure_key(sqlite_url, PEPPER, file) == first
    assert file.stat().st_mode & 0o777 == 0o600
    other = await keys.ensure_key(sqlite_url, PEPPER + "!", file)

    assert other != first
    assert await keys.ensure_key(sqlite_url, PEPPER + "!", file) == other
