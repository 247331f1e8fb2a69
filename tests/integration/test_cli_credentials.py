"""`headrace master-key` and `headrace credentials`, as somebody types them."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cli.credentials import rewrap_all
from cli.main import app
from shared.crypto import CannotOpen, Opener, Sealer, new_master_key
from shared.db.engine import create_engine
from shared.db.repositories import accounts, provider_credentials
from shared.db.repositories.provider_credentials import CredentialRecord, place_of
from shared.ids import AccountId, CredentialId

OLD_PRIVATE, OLD_PUBLIC = new_master_key()
NEW_PRIVATE, NEW_PUBLIC = new_master_key()
STRANGER = new_master_key()[1]
ACME = AccountId("acme")
ORIGINS = ("https://api.openai.com:443",)
SECRET = "sk-canary-of-acme"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database_url: str) -> None:
    for name in ("HEADRACE_DATABASE_URL", "REDIS_URL", "HEADRACE_REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("HEADRACE_MASTER_KEY", NEW_PRIVATE)
    monkeypatch.setenv("HEADRACE_MASTER_KEY_BEFORE", OLD_PRIVATE)


def run(*words: str) -> Result:
    return CliRunner().invoke(app, words)


def a_record(number: int, public: str) -> CredentialRecord:
    credential, sealer = CredentialId(f"key_{number:024x}"), Sealer(public)
    return CredentialRecord(
        id=credential,
        account_id=ACME,
        provider="openai",
        name=f"number {number}",
        masked="sk-...cme",
        origins=ORIGINS,
        sealed=sealer.seal(f"{SECRET}-{number}", place_of(ACME, credential, "openai", ORIGINS)),
        master_key_id=sealer.key_id,
        created_at=datetime.now(UTC),
    )


def store(url: str, *records: CredentialRecord) -> None:
    async def write() -> None:
        engine = create_engine(url)
        async with engine.begin() as connection:
            await accounts.ensure(connection, ACME, name=ACME, at=datetime.now(UTC))
            for record in records:
                await provider_credentials.create(connection, record)
        await engine.dispose()

    asyncio.run(write())


def stored(url: str) -> dict[CredentialId, CredentialRecord]:
    async def read() -> list[CredentialRecord]:
        engine = create_engine(url)
        async with engine.connect() as connection:
            found = await provider_credentials.list_of(connection, ACME)
        await engine.dispose()
        return found

    return {record.id: record for record in asyncio.run(read())}


def test_a_new_master_key_is_printed_in_both_halves_that_fit() -> None:
    halves = json.loads(run("master-key", "new", "--json").stdout)
    lines = run("master-key", "new").stdout.splitlines()

    place = place_of(ACME, CredentialId("key_1"), "openai", ORIGINS)
    sealed = Sealer(halves["master_public_key"]).seal(SECRET, place)
    assert Opener(halves["master_key"]).open(sealed, place) == SECRET
    assert [line.partition("=")[0] for line in lines] == ["HEADRACE_MASTER_KEY", "HEADRACE_MASTER_PUBLIC_KEY"]


def test_every_row_is_rewrapped_once_and_then_takes_the_new_key_alone(database_url: str) -> None:
    before = {record.id: record for record in (a_record(n, OLD_PUBLIC) for n in range(120))}
    store(database_url, *before.values())

    first, again = run("credentials", "rewrap"), run("credentials", "rewrap")

    assert (first.exit_code, first.stdout) == (0, "120 rewrapped.\n")
    assert (again.exit_code, again.stdout) == (0, "0 rewrapped.\n")
    opener = Opener(NEW_PRIVATE)
    for number, (credential, record) in enumerate(sorted(stored(database_url).items())):
        assert record.master_key_id == Sealer(NEW_PUBLIC).key_id
        assert opener.open(record.sealed, record.place) == f"{SECRET}-{number}"
        assert record.sealed[-40:] == before[credential].sealed[-40:]


def test_stopped_halfway_it_goes_on_where_it_was(database_url: str) -> None:
    store(database_url, *(a_record(n, NEW_PUBLIC if n % 2 else OLD_PUBLIC) for n in range(6)))

    assert run("credentials", "rewrap").stdout == "3 rewrapped.\n"


def test_what_no_key_opens_is_named_and_left_and_keeps_nothing_else_from_it(database_url: str) -> None:
    lost = a_record(1, STRANGER)
    store(database_url, a_record(0, OLD_PUBLIC), lost, a_record(2, OLD_PUBLIC))

    result = run("credentials", "rewrap")

    assert (result.exit_code, result.stdout) == (1, "2 rewrapped.\n")
    assert lost.id in result.stderr
    assert SECRET not in result.output
    assert stored(database_url)[lost.id].sealed == lost.sealed


def test_a_row_somebody_else_rewrapped_meanwhile_is_not_written_over(database_url: str) -> None:
    read = a_record(1, OLD_PUBLIC)
    store(database_url, read)

    async def race() -> tuple[bool, bool]:
        engine = create_engine(database_url)
        sealer = Sealer(NEW_PUBLIC)
        opener = Opener(OLD_PRIVATE)
        async with engine.begin() as connection:
            results = [
                await provider_credentials.store_rewrapped(
                    connection, read, opener.rewrap(read.sealed, read.place, sealer), sealer.key_id
                )
                for _ in range(2)
            ]
        await engine.dispose()
        return results[0], results[1]

    assert asyncio.run(race()) == (True, False)
    record = stored(database_url)[read.id]
    assert Opener(NEW_PRIVATE).open(record.sealed, record.place) == f"{SECRET}-1"


def test_columns_that_somebody_rewrote_open_nothing(database_url: str) -> None:
    record = a_record(1, NEW_PUBLIC)
    opener = Opener(NEW_PRIVATE)

    for place in (
        place_of(ACME, record.id, "elsewhere", ORIGINS),
        place_of(ACME, record.id, "openai", ("https://evil.example:443",)),
        place_of(AccountId("other"), record.id, "openai", ORIGINS),
    ):
        with pytest.raises(CannotOpen):
            opener.open(record.sealed, place)


@pytest.mark.parametrize("variable", ["HEADRACE_MASTER_KEY", "HEADRACE_MASTER_KEY_BEFORE"])
def test_what_is_no_master_key_exits_78_with_one_line_that_does_not_repeat_it(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "hrmaster_of-no-length")

    result = run("credentials", "rewrap")

    assert result.exit_code == 78
    assert result.stderr.count("\n") == 1
    assert variable in result.stderr
    assert "of-no-length" not in result.output


def test_without_a_master_key_there_is_nothing_to_rewrap_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADRACE_MASTER_KEY")

    assert run("credentials", "rewrap").exit_code == 78


async def test_a_batch_at_a_time_is_committed(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was rewrapped before a crash stays rewrapped."""
    await asyncio.to_thread(store, database_url, *(a_record(n, OLD_PUBLIC) for n in range(4)))
    monkeypatch.setattr("cli.credentials._AT_ONCE", 2)
    sealer, opener = Sealer(NEW_PUBLIC), _DiesAfter(3)
    engine = create_engine(database_url)

    with pytest.raises(_Died):
        await rewrap_all(engine, opener, sealer)
    done, left = await rewrap_all(engine, Opener(OLD_PRIVATE), sealer)
    await engine.dispose()

    assert (done, left) == (2, [])


class _Died(Exception):
    pass


class _DiesAfter(Opener):
    def __init__(self, rows: int) -> None:
        super().__init__(OLD_PRIVATE)
        self._rows = rows

    def rewrap(self, *arguments: object) -> bytes:
        if self._rows == 0:
            raise _Died
        self._rows -= 1
        return super().rewrap(*arguments)  # type: ignore[arg-type]  # passed on as they came
