"""The dashboards that ship ask for what there is, of a real Prometheus and a real PostgreSQL."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from deploy.grafana import build
from deploy.grafana.build import DASHBOARDS, Dashboard, Panel
from shared.db.engine import create_engine
from tests.fakes.eventually import eventually
from tests.fakes.postgres_server import PostgresServer
from tests.fakes.stack import start_apart
from tests.shipping.watched import Watched, chat

pytestmark = pytest.mark.xdist_group("operations")

QUIET: Final = frozenset({"Calls held back", "Jobs sent back to the queue", "Rounds that failed"})
"""Panels that are empty where all is well."""
READER: Final = Path(__file__).parents[2] / "deploy" / "postgres" / "reader.sql"
TIME_FILTER: Final = re.compile(r"\$__timeFilter\(([\w.]+)\)")
TIME_GROUP: Final = re.compile(r"\$__timeGroupAlias\(([\w.]+), \$__interval\)")


def panels(*, sql: bool) -> list[tuple[Dashboard, Panel]]:
    found = [(one, panel) for one in DASHBOARDS for _, row in one.rows for panel in row]
    return [(one, panel) for one, panel in found if panel.sql is sql]


@pytest.fixture(scope="module")
def watched(shared_postgres: PostgresServer, postgres_template: str) -> Iterator[Watched]:
    database = shared_postgres.create_database(template=postgres_template)
    broker = Watched(shared_postgres, shared_postgres.url(database), {})
    try:
        start_apart(broker)
        yield broker
    finally:
        broker.end_now()
        shared_postgres.drop_database(database)


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda one: one.uid)
def test_the_files_are_what_the_code_says(dashboard: Dashboard) -> None:
    file = build.FOLDER / f"{dashboard.uid}.json"

    assert file.read_text("utf-8") == build.text_of(dashboard), "run: python -m deploy.grafana.build"


def test_there_is_no_other_file() -> None:
    assert {file.stem for file in build.FOLDER.iterdir()} == {one.uid for one in DASHBOARDS}


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda one: one.uid)
def test_panels_have_numbers_places_and_data_sources_of_their_own(dashboard: Dashboard) -> None:
    document = build.document(dashboard)
    found: list[dict[str, Any]] = document["panels"]
    variables = {f"${{{one['name']}}}" for one in document["templating"]["list"]}

    assert len({panel["id"] for panel in found}) == len(found)
    assert len({panel["title"] for panel in found}) == len(found)
    for panel in found:
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
        assert panel["datasource"]["uid"] in variables
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {panel["datasource"]["uid"]}
        asked = "".join(target.get("expr", "") for target in panel["targets"])
        assert "$provider" not in asked or "${provider}" in variables
    for one, other in combinations((panel["gridPos"] for panel in found), 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert beside or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]


async def test_every_panel_shows_what_a_broker_with_traffic_does(watched: Watched) -> None:
    prometheus = watched.prometheus

    async def send() -> None:
        async with watched.stack.client() as client:
            for stream in (False, True):
                answer = await client.post("/v1/chat/completions", json=chat(stream=stream))
                assert answer.status_code == 200
            headers = {"Idempotency-Key": "dashboards"}
            await client.post("/v1/chat/completions", json=chat(), headers=headers)

    async def empty() -> dict[str, str]:
        # More of everything while Prometheus looks: a rate takes two looks that differ.
        await send()
        silent = {}
        for dashboard, panel in panels(sql=False):
            for expression, _ in panel.queries:
                asked = expression.replace("$__rate_interval", "10s").replace("$provider", ".*")
                try:
                    found = await prometheus.query(asked)
                except httpx.HTTPStatusError as error:
                    raise AssertionError(f"{dashboard.uid}, {panel.title}: {error.response.text}") from error
                if not found and panel.title not in QUIET:
                    silent[f"{dashboard.uid}, {panel.title}"] = asked
        return silent

    last: dict[str, str] = {}

    async def all_show() -> bool:
        last.clear()
        last.update(await empty())
        # No webhook is on its way in this test; what is due is told beside.
        return all("gateway_webhook_deliveries_total" in asked for asked in last.values())

    try:
        await eventually(all_show, "data in every panel", within=20, every=0.3)
    except AssertionError as error:
        raise AssertionError(f"nothing to show: {last}") from error


async def test_every_panel_on_tenants_shows_their_rows(watched: Watched) -> None:
    async with watched.stack.client() as client:
        assert (await client.post("/v1/chat/completions", json=chat())).status_code == 200
    await eventually(watched.stack.ledger, "the ledger rows")
    become_reader(watched)
    # As the role that docker-compose.yml gives to Grafana.
    engine = create_engine(watched.stack.database_url.replace("headrace@", "headrace_reader@"))
    try:
        async with engine.connect() as connection:
            for _, panel in panels(sql=True):
                for query, _ in panel.queries:
                    # As Grafana writes its macros out.
                    asked = TIME_FILTER.sub(
                        r"\1 BETWEEN now() - interval '1 day' AND now() + interval '1 day'", query
                    )
                    asked = TIME_GROUP.sub(r'floor(extract(epoch from \1)/60)*60 AS "time"', asked)
                    rows = (await connection.execute(text(asked))).all()
                    assert rows, panel.title
                    assert all(value is not None for value in rows[0]), panel.title
                    if panel.title == "Accounts by cost":
                        assert rows[0].account == "acc_stack"
                        assert rows[0].prompt_tokens > 0
    finally:
        await engine.dispose()


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT digest FROM api_key",
        "SELECT * FROM account",
        "SELECT id FROM job",
        'SELECT id FROM "user"',
        "DELETE FROM usage",
        "UPDATE account SET name = 'mine'",
    ],
)
async def test_the_role_of_dashboards_may_do_nothing_else(watched: Watched, statement: str) -> None:
    become_reader(watched)
    engine = create_engine(watched.stack.database_url.replace("headrace@", "headrace_reader@"))
    try:
        async with engine.connect() as connection:
            with pytest.raises(DBAPIError, match=r"permission denied|read-only transaction"):
                await connection.execute(text(statement))
    finally:
        await engine.dispose()


def become_reader(watched: Watched) -> None:
    """The script is there to be run again and again."""
    script = READER.read_text(encoding="utf-8")
    database = watched.stack.database_url.rpartition("/")[2]
    for password in ("first", "second"):
        watched.postgres.execute(f"SET headrace.reader_password = '{password}'", script, database=database)
