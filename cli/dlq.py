"""`headrace dlq`: dead letters listed, shown, run again, thrown away."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Annotated, Final, TypeVar

import typer

from cli import data_folder
from cli.configuration import check_or_exit, fail, settings_or_exit
from cli.table import print_table
from shared.errors import BrokerError, Overloaded
from shared.ids import JOB_ID, AccountId, JobId
from shared.limits.redriven import RedrivenCounts
from shared.limits.reservations import Reservations
from shared.providers.catalogue import Catalogue
from shared.providers.registry import Registry
from shared.queue.dead_letters import ALL, MAX_PAGE, DeadLetter, DeadLetters, Redriven, Which
from shared.queue.links import open_link
from shared.settings import Settings

app = typer.Typer(no_args_is_help=True)

_REDIS_SECONDS: Final = 5.0
_T = TypeVar("_T")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Provider = Annotated[str | None, typer.Option(help="Only of this provider.")]
Account = Annotated[str | None, typer.Option(help="Only of this account.")]
Reason = Annotated[str | None, typer.Option(help="Only of this reason, such as poison.")]
Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Jobs, job_... as listed.")]


@app.command("list")
def list_command(
    provider: Provider = None,
    account: Account = None,
    reason: Reason = None,
    limit: Annotated[int, typer.Option(min=1, max=MAX_PAGE, help="How many at most.")] = 50,
    cursor: Annotated[str | None, typer.Option(help="Go on where the page before ended.")] = None,
    as_json: Json = False,
) -> None:
    """List dead letters, newest first."""
    which = _which(provider, account, reason)
    page = _run(lambda letters: letters.page(which, limit=limit, cursor=cursor))
    if as_json:
        view = {"data": [letter.to_fields() for letter in page.letters], "next_cursor": page.cursor}
        typer.echo(json.dumps(view))
        return
    print_table(
        ("ID", "DIED", "PROVIDER", "MODEL", "ACCOUNT", "REASON", "STATE"),
        [
            (
                letter.job_id,
                f"{letter.died_at:%Y-%m-%d %H:%M:%S}",
                letter.provider,
                letter.model,
                letter.account or "",
                letter.reason,
                _state(letter),
            )
            for letter in page.letters
        ],
    )
    if page.cursor is not None:
        typer.echo(f"There are more: --cursor {page.cursor}", err=True)


@app.command("show")
def show_command(
    job_id: Annotated[str, typer.Argument(metavar="ID", help="The job, job_... as listed.")],
    include_body: Annotated[bool, typer.Option(help="With what was asked.")] = False,
    as_json: Json = False,
) -> None:
    """Show one: what became of it and when."""
    wanted = _id_or_exit(job_id)
    found = _run(lambda letters: letters.show(wanted, include_body=include_body))
    view = found.to_fields()
    if not include_body:
        del view["body"]
    if as_json:
        typer.echo(json.dumps(view))
        return
    width = max(map(len, view))
    for name, value in view.items():
        text = json.dumps(value) if isinstance(value, dict | list) else str(value)
        typer.echo(f"{name.ljust(width)}  {'' if value is None else text}".rstrip())


@app.command("redrive")
def redrive_command(
    ids: Ids = None,
    provider: Provider = None,
    account: Account = None,
    reason: Reason = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most, where no ids are given.")] = MAX_PAGE,
    as_json: Json = False,
) -> None:
    """Run some again, each as a new job and once, however often this is asked."""
    which = _which(provider, account, reason)
    wanted = [_id_or_exit(job_id) for job_id in ids or ()]
    _one_of_ids_and_filter(wanted, which != ALL)

    async def work(letters: DeadLetters) -> tuple[list[Redriven], list[tuple[JobId, BrokerError]], bool]:
        if not wanted:
            answer = await letters.redrive_all(which, limit=limit)
            return list(answer.redriven), list(answer.failed), answer.more
        redriven: list[Redriven] = []
        failed: list[tuple[JobId, BrokerError]] = []
        for job_id in wanted:
            try:
                redriven.append(await letters.redrive(job_id))
            except BrokerError as error:
                failed.append((job_id, error))
        return redriven, failed, False

    redriven, failed, more = _run(work)
    if as_json:
        view = {
            "redriven": [one.to_fields() for one in redriven],
            "failed": [
                {"job_id": job_id, "code": error.code, "message": error.message} for job_id, error in failed
            ],
            "more": more,
        }
        typer.echo(json.dumps(view))
    else:
        for one in redriven:
            typer.echo(f"{one.job_id} runs as {one.redriven_as}" + (", as before." if one.repeated else "."))
        for job_id, error in failed:
            typer.echo(f"{job_id}: {error.message}", err=True)
        if more:
            typer.echo("There are more: run this again.", err=True)
        if not redriven and not failed:
            typer.echo("There are none.", err=True)
    if failed:
        raise typer.Exit(1)


@app.command("purge")
def purge_command(
    ids: Ids = None,
    older_than_days: Annotated[
        float | None, typer.Option(min=0, max=36_500, help="All that died so long ago.")
    ] = None,
    provider: Provider = None,
    account: Account = None,
    reason: Reason = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Throw some away for good: by id, or all older than so many days."""
    which = _which(provider, account, reason)
    wanted = [_id_or_exit(job_id) for job_id in ids or ()]
    if older_than_days is None and which != ALL:
        fail("--older-than-days: is needed where letters are not named by id.", os.EX_USAGE)
    _one_of_ids_and_filter(wanted, older_than_days is not None)
    letters_meant = f"{len(wanted)} dead letter(s)" if wanted else f"all older than {older_than_days:g} days"
    if not yes and not typer.confirm(f"Throw away {letters_meant}, for good?", err=True):
        fail("Nothing was thrown away.", 1)

    async def work(letters: DeadLetters) -> int:
        if older_than_days is not None:
            return await letters.purge_older_than(timedelta(days=older_than_days), which)
        for job_id in wanted:
            await letters.purge(job_id)
        return len(wanted)

    purged = _run(work)
    typer.echo(json.dumps({"purged": purged}) if as_json else f"{purged} thrown away.")


def _one_of_ids_and_filter(ids: list[JobId], is_filtered: bool) -> None:
    if bool(ids) == is_filtered:
        fail("Name letters either by id or by options, and by one of the two.", os.EX_USAGE)


def _run(work: Callable[[DeadLetters], Awaitable[_T]]) -> _T:
    settings = settings_or_exit()
    check_or_exit(settings)
    url = _redis_url_or_exit(settings)
    providers = Registry.from_settings(settings).profiles
    catalogue = Catalogue.load(settings.catalogue_file, providers=providers)

    async def run() -> _T:
        link = open_link(url, timeout=_REDIS_SECONDS)
        try:
            counts = RedrivenCounts(Reservations(link), catalogue, settings)
            return await work(DeadLetters(link, settings.queue, providers, counts=counts))
        finally:
            await link.close()

    try:
        return asyncio.run(run())
    except BrokerError as error:
        fail(error.message, os.EX_UNAVAILABLE if isinstance(error, Overloaded) else 1)


def _redis_url_or_exit(settings: Settings) -> str:
    """The setting, else that of the `headrace up` that runs on the data folder."""
    if settings.redis_url is not None:
        return settings.redis_url.get_secret_value()
    running = data_folder.running_redis(settings.data_dir)
    if running is None:
        fail("REDIS_URL is not set, and no `headrace up` runs on the data folder.")
    return running


def _which(provider: str | None, account: str | None, reason: str | None) -> Which:
    return Which(provider, None if account is None else AccountId(account), reason)


def _id_or_exit(text: str) -> JobId:
    if not JOB_ID.match(text):
        fail("ID: is that of a job, job_ and 32 hexadecimal digits.", os.EX_USAGE)
    return JobId(text)


def _state(letter: DeadLetter) -> str:
    if letter.redriven_as is not None:
        return f"redriven as {letter.redriven_as}"
    return "kept" if letter.is_kept else "expired"
