"""`headrace usage`: what accounts used, from the ledger."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from cli import stores
from cli.configuration import database_url_or_exit, settings_or_exit
from cli.table import print_table
from shared.clock import SystemClock
from shared.db.repositories.usage_reports import Grouping, Range, Totals, totals
from shared.money import MICRO_PER_USD

_MOST = 1_000


def usage_command(
    account: Annotated[str | None, typer.Option(help="Only this account's. Default: all.")] = None,
    by: Annotated[list[Grouping] | None, typer.Option(help="Repeat for several. Default: account.")] = None,
    days: Annotated[int | None, typer.Option(min=1, max=366, help="Default: this month.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tell what was used, by account, day, model, provider, key or user."""
    settings = settings_or_exit()
    url = database_url_or_exit(settings)
    owner = None if account is None else stores.account_or_exit(account)
    groups = list(dict.fromkeys(by or [Grouping.ACCOUNT]))
    now = SystemClock().now()
    within = Range(_start(now, days), now + timedelta(seconds=1))

    async def work() -> list[Totals]:
        async with stores.database(settings, url) as database, database.connect() as connection:
            return await totals(connection, owner, within, by=groups, only={}, limit=_MOST)

    found = stores.run(work())
    if as_json:
        typer.echo(json.dumps([_fields(one, groups) for one in found]))
        return
    print_table(
        (*(group.value.upper() for group in groups), "JOBS", "PROMPT", "COMPLETION", "COST", "BILLED"),
        [
            (
                *(name or "-" for name in one.group),
                str(one.jobs),
                str(one.prompt_tokens),
                str(one.completion_tokens),
                f"${one.cost_micro_usd / MICRO_PER_USD:.4f}",
                f"${one.billed_micro_usd / MICRO_PER_USD:.4f}",
            )
            for one in found
        ],
    )


def _start(now: datetime, days: int | None) -> datetime:
    if days is not None:
        return now - timedelta(days=days)
    return datetime(now.year, now.month, 1, tzinfo=UTC)


def _fields(one: Totals, groups: list[Grouping]) -> dict[str, object]:
    return {
        **{group.value: name for group, name in zip(groups, one.group, strict=True)},
        "jobs": one.jobs,
        "succeeded": one.succeeded,
        "prompt_tokens": one.prompt_tokens,
        "completion_tokens": one.completion_tokens,
        "cost_micro_usd": one.cost_micro_usd,
        "billed_micro_usd": one.billed_micro_usd,
    }
