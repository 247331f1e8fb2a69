"""`headrace db wait`: what a process that starts beside its migration waits for."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from typer.testing import CliRunner, Result

from cli.main import app
from shared.db import migrate

ROOT = Path(__file__).parents[2]


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["db", *words])


@contextmanager
def waiting(url: str) -> Iterator[subprocess.Popen[str]]:
    """The command as a process of its own."""
    command = [sys.executable, "-m", "cli", "db", "wait", "--seconds", "60"]
    environment = {**os.environ, "DATABASE_URL": url, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def sqlite_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "headrace.db"
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{file}")
    return file


def test_it_ends_once_the_database_was_upgraded(empty_database_url: str) -> None:
    with waiting(empty_database_url) as process:
        assert process.stdout is not None
        assert "at nothing" in process.stdout.readline()
        upgraded = CliRunner().invoke(app, ["db", "upgrade"], env={"DATABASE_URL": empty_database_url})
        said, _ = process.communicate(timeout=30)

    assert upgraded.exit_code == process.returncode == 0
    assert f"at {migrate.head()}" in said


def test_a_database_that_stays_behind_is_a_failure(sqlite_file: Path) -> None:
    refused = run("wait", "--seconds", "0")

    assert refused.exit_code == 1
    assert refused.stderr == f"The database is at nothing; this version needs {migrate.head()}.\n"


def test_a_version_that_was_rolled_back_takes_the_database_of_the_later_one(sqlite_file: Path) -> None:
    assert run("upgrade").exit_code == 0
    engine = create_engine(f"sqlite:///{sqlite_file}")
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()

    assert run("wait", "--seconds", "0").exit_code == 0
    assert migrate.is_behind("0001")


def test_a_database_that_is_away_keeps_no_process_from_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:hidden@127.0.0.1:1/d")

    away = run("wait", "--seconds", "0")

    assert away.exit_code == 0
    assert away.stderr.count("\n") == 1
    assert "hidden" not in away.stderr
