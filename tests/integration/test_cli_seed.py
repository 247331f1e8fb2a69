"""`headrace seed` and `headrace usage`, as somebody types them."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import insert, select
from typer.testing import CliRunner, Result

from cli.main import app
from shared.db.engine import create_engine, writing
from shared.db.tables import account, usage
from tests.integration.test_retention import usage_row


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database_url: str) -> None:
    for name in ("HEADRACE_DATABASE_URL", "REDIS_URL", "HEADRACE_REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("HEADRACE_KEY_PEPPER", "pepper of the tests, 32 characters")


def run(*words: str) -> Result:
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    return result


def test_seeding_makes_an_account_and_a_key_once(database_url: str) -> None:
    first, again = (json.loads(run("seed", "--json").stdout) for _ in range(2))

    async def tier() -> str | None:
        engine = create_engine(database_url)
        async with engine.connect() as connection:
            found = await connection.scalar(select(account.c.tier).where(account.c.id == "demo"))
        await engine.dispose()
        return found

    assert first["account"] == again["account"] == "demo"
    assert first["key"].startswith("gw_live_")
    assert again["key"] is None
    assert asyncio.run(tier()) == "standard"
    assert "shown when it was made" in run("seed").stdout


def test_usage_is_told_by_account_and_by_what_is_asked(database_url: str) -> None:
    async def write() -> None:
        engine = create_engine(database_url)
        rows = [
            {
                **usage_row(n, days_ago=0),
                "account_id": name,
                "cost_micro_usd": 10,
                "created_at": datetime.now(UTC),
            }
            for n, name in enumerate(("acme", "acme", "other"))
        ]
        async with writing(engine) as connection:
            await connection.execute(insert(usage), rows)
        await engine.dispose()

    asyncio.run(write())

    everybody = json.loads(run("usage", "--json").stdout)
    of_acme = json.loads(run("usage", "--account", "acme", "--by", "model", "--days", "1", "--json").stdout)

    assert {one["account"]: one["jobs"] for one in everybody} == {"acme": 2, "other": 1}
    assert [(one["model"], one["cost_micro_usd"]) for one in of_acme] == [("x", 20)]
    assert "ACCOUNT" in run("usage").stdout
