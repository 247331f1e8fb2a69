"""The dashboards that ship ask for what there is, of a real Prometheus and a real PostgreSQL."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import asyncpg  # type: ignore[import-untyped]  # ships no type information
import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from deploy.grafana import build
from deploy.grafana.build import DASHBOARDS, Dashboard, Panel
from shared.db.engine import create_engine
from shared.db.migrate import downgrade, upgrade
from tests.fakes.eventually import NeverCame, eventually
from tests.fakes.postgres_server import PostgresServer
from tests.fakes.prometheus_server import PrometheusServer
from tests.fakes.stack import start_apart
from tests.shipping.watched import RULES, Watched, chat, hurried

pytestmark = pytest.mark.xdist_group("operations")

QUIET: Final = frozenset({"Calls held back", "Jobs sent back to the queue", "Rounds that failed"})
"""Panels that are empty where all is well."""
ALERTS: Final = "Alerts that fire"
READER: Final = Path(__file__).parents[2] / "deploy" / "postgres" / "reader.sql"
LIMIT: Final = 10
"""Connections that the role may have, of all Grafanas."""
SELECTOR: Final = re.compile(r"(?:\w+:)?\b(?:gateway|process)_[\w:]+(?:\{[^}]*\})?")
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


@pytest.fixture(scope="module")
def brokers(watched: Watched) -> Iterator[PrometheusServer]:
    """Takes the processes of `watched` for three brokers' each: `one`, `two`, and one without a namespace."""
    ports = {"api": watched.stack.apis[0].port, **watched.ports}
    namespaces = {f"{kind} {name}": name for kind in ports for name in ("", "one", "two")}
    prometheus = PrometheusServer(
        {job: [ports[job.partition(" ")[0]]] for job in namespaces},
        {file.name: hurried(file.read_text(encoding="utf-8")) for file in RULES},
        namespaces=namespaces,
    )
    prometheus.start()
    try:
        yield prometheus
    finally:
        prometheus.stop()


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
        for name in re.findall(r"\$(?!__)(\w+)", asked):
            assert f"${{{name}}}" in variables
    for one, other in combinations((panel["gridPos"] for panel in found), 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert beside or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]


def test_every_series_of_a_panel_is_of_one_broker_that_was_chosen() -> None:
    for dashboard, panel in panels(sql=False):
        for expression, legend in panel.queries:
            place = f"{dashboard.uid}, {panel.title}"
            metrics = SELECTOR.findall(expression)
            assert metrics or panel.title == ALERTS, place
            assert all('{namespace=~"$namespace"' in metric for metric in metrics), place
            assert all(by.startswith("namespace") for by in re.findall(r"by \(([^)]*)\)", expression)), place
            assert "{{namespace}}" in legend or panel.title == ALERTS, place


async def test_every_panel_shows_what_a_broker_with_traffic_does(watched: Watched) -> None:
    # It has no namespace.
    await all_panels_show(watched, watched.prometheus, namespace=".*", of={""})


@pytest.mark.parametrize(
    ("chosen", "shown"), [(".*", {"", "one", "two"}), ("(one|two)", {"one", "two"}), ("two", {"two"})]
)
async def test_every_panel_shows_the_brokers_that_were_chosen_apart(
    watched: Watched, brokers: PrometheusServer, chosen: str, shown: set[str]
) -> None:
    await all_panels_show(watched, brokers, namespace=chosen, of=shown)


async def all_panels_show(
    watched: Watched, prometheus: PrometheusServer, *, namespace: str, of: set[str]
) -> None:
    """`of`: the namespaces that every panel has series of, and no other."""

    async def send() -> None:
        async with watched.stack.client() as client:
            for stream in (False, True):
                answer = await client.post("/v1/chat/completions", json=chat(stream=stream))
                assert answer.status_code == 200
            headers = {"Idempotency-Key": "dashboards"}
            await client.post("/v1/chat/completions", json=chat(), headers=headers)

    async def lacking() -> dict[str, str]:
        # More of everything while Prometheus looks: a rate takes two looks that differ.
        await send()
        silent = {}
        for dashboard, panel in panels(sql=False):
            for expression, _ in panel.queries:
                asked = expression.replace("$__rate_interval", "10s").replace("$provider", ".*")
                asked = asked.replace("$namespace", namespace)
                try:
                    found = await prometheus.query(asked)
                except httpx.HTTPStatusError as error:
                    raise AssertionError(f"{dashboard.uid}, {panel.title}: {error.response.text}") from error
                told = {one["metric"].get("namespace", "") for one in found}
                # Alerts are counted over all.
                wanted = {""} if panel.title == ALERTS else of
                assert told <= wanted, f"{dashboard.uid}, {panel.title}"
                if told != wanted and panel.title not in QUIET:
                    silent[f"{dashboard.uid}, {panel.title}"] = asked
        return silent

    last: dict[str, str] = {}

    async def all_show() -> bool:
        last.clear()
        last.update(await lacking())
        # No webhook is on its way in this test; what is due is told beside.
        return all("gateway_webhook_deliveries_total" in asked for asked in last.values())

    try:
        await eventually(all_show, "data in every panel", within=20, every=0.3)
    except NeverCame as error:
        raise AssertionError(f"nothing to show: {last}") from error


async def test_a_dashboard_offers_the_brokers_that_are_scraped(brokers: PrometheusServer) -> None:
    for dashboard in DASHBOARDS:
        offered = {one["name"]: one for one in build.document(dashboard)["templating"]["list"]}
        assert ("namespace" in offered) is not dashboard.sql
        if not dashboard.sql:
            assert offered["namespace"]["query"] == "label_values(gateway_ready, namespace)"
            # What All stands for is in the queries that the other tests ask.
            assert offered["namespace"]["allValue"] == ".*"

    async def both() -> bool:
        found = await brokers.query("count by (namespace) (gateway_ready)")
        return {one["metric"].get("namespace", "") for one in found} == {"", "one", "two"}

    await eventually(both, "what Prometheus has of both", within=20, every=0.2)


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


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TEMPORARY TABLE mine (n int)",
        "CREATE TABLE mine (n int)",
        "DELETE FROM usage",
        "UPDATE account SET name = 'mine'",
        "ALTER ROLE headrace_reader CONNECTION LIMIT 100",
    ],
)
async def test_what_that_role_cannot_allow_itself(watched: Watched, statement: str) -> None:
    become_reader(watched)
    connection = await connect_as_reader(watched)
    try:
        await connection.execute("SET default_transaction_read_only = off")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
    finally:
        await connection.close()


async def test_that_role_has_few_connections_and_none_for_long(watched: Watched) -> None:
    become_reader(watched)
    opened: list[asyncpg.Connection] = []

    async def all_open() -> bool:
        # One that has just been closed is counted for a moment.
        with suppress(asyncpg.TooManyConnectionsError):
            while len(opened) < LIMIT:
                opened.append(await connect_as_reader(watched))
        return len(opened) == LIMIT

    try:
        await eventually(all_open, "as many connections as the role may have", within=10, every=0.05)
        with pytest.raises(asyncpg.TooManyConnectionsError, match="headrace_reader"):
            await connect_as_reader(watched)
        shown = {
            name: await opened[0].fetchval(f"SHOW {name}")
            for name in ("idle_in_transaction_session_timeout", "idle_session_timeout", "statement_timeout")
        }
    finally:
        for one in opened:
            await one.close()
    assert shown == {
        "idle_in_transaction_session_timeout": "30s",
        "idle_session_timeout": "10min",
        "statement_timeout": "30s",
    }


async def test_an_owner_that_is_no_superuser_makes_that_role_and_still_migrates(watched: Watched) -> None:
    become_reader(watched)
    postgres = watched.postgres
    postgres.execute(
        "CREATE ROLE plain_owner LOGIN CREATEROLE",
        "GRANT headrace_reader TO plain_owner WITH ADMIN OPTION",
        "CREATE DATABASE plainly_owned OWNER plain_owner",
    )
    url = postgres.url("plainly_owned").replace("headrace@", "plain_owner@")
    try:
        await upgrade(url)
        connection = await asyncpg.connect(url)
        try:
            await connection.execute("SET headrace.reader_password = 'third'")
            await connection.execute(READER.read_text(encoding="utf-8"))
            await connection.execute("CREATE TEMPORARY TABLE mine (n int)")
        finally:
            await connection.close()
        await downgrade(url, "base")
        await upgrade(url)
    finally:
        postgres.drop_database("plainly_owned")
        postgres.execute("DROP OWNED BY plain_owner", "DROP ROLE plain_owner")


async def connect_as_reader(watched: Watched) -> asyncpg.Connection:
    return await asyncpg.connect(watched.stack.database_url.replace("headrace@", "headrace_reader@"))


def become_reader(watched: Watched) -> None:
    """The script is there to be run again and again."""
    script = READER.read_text(encoding="utf-8")
    database = watched.stack.database_url.rpartition("/")[2]
    for password in ("first", "second"):
        watched.postgres.execute(f"SET headrace.reader_password = '{password}'", script, database=database)
