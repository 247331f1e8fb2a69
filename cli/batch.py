"""`headrace batch`: a file of requests handed to a broker, waited for, and its answers fetched."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated, Any, Final
from urllib.parse import quote
from uuid import uuid4

import typer

from cli import transfers
from cli.broker import (
    FAILED,
    PATIENCE_SECONDS,
    REFUSED,
    Broker,
    Json,
    Refused,
    Url,
    broker_or_exit,
    interrupted,
    notes_or_exit,
    shown,
)
from cli.configuration import fail
from cli.fields import print_fields
from cli.line_errors import grouped, print_groups
from cli.progress import Progress
from cli.table import print_table
from shared.batches.handed_over import Execution

app = typer.Typer(no_args_is_help=True)

_PATH: Final = "/v1/batches"
_ENDED: Final = frozenset({"completed", "failed", "expired", "cancelled"})
_LOOK_SECONDS: Final = 0.5
_LOOK_CAP_SECONDS: Final = 5.0
_REUSED: Final = 422

Id = Annotated[str, typer.Argument(metavar="ID", help="The batch, batch_... as listed.")]
Output = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Where the answers go. Default: ID_output.jsonl, here.")
]
Errors = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Where the errors go. Default: ID_errors.jsonl, here.")
]


@app.command("submit")
def submit_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="One request a line, in OpenAI's form.")],
    endpoint: Annotated[str, typer.Option(help="The route that every line asks.")] = "/v1/chat/completions",
    metadata: Annotated[
        list[str] | None, typer.Option(metavar="NAME=TEXT", help="To know it by; repeat for several.")
    ] = None,
    execution: Annotated[
        Execution | None,
        typer.Option(help="Who runs it: each line a job, the provider's own batch API, or that if it can."),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="As a new batch, though this file was one within a day.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for its end and fetch what came out.")] = False,
    output: Output = None,
    errors: Errors = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Upload a file, make a batch of it and print its id: once, however often this is run within a day."""
    transfers.check_or_exit(output, errors)
    wanted: dict[str, Any] = {"endpoint": endpoint, "completion_window": "24h"}
    notes = notes_or_exit(metadata)
    if notes is not None:
        wanted["metadata"] = notes
    if execution is not None:
        wanted["execution"] = execution.value
    with broker_or_exit(url) as broker, transfers.opened_or_exit(file) as content:
        try:
            batch = _create(broker, content, wanted, again=again)
        except KeyboardInterrupt:
            interrupted("Whether the batch was made is not known. The same command makes it once.")
        if batch["status"] != "validating":
            typer.echo(f"{batch['id']} was made of this file before; --again makes another.", err=True)
        if not (wait and as_json):
            typer.echo(json.dumps(batch) if as_json else batch["id"])
        if wait:
            _wait_and_fetch(broker, batch["id"], output, errors, as_json=as_json)


@app.command("list")
def list_command(
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many at most.")] = 20,
    after: Annotated[str | None, typer.Option(metavar="ID", help="Go on behind this batch.")] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """List batches, newest first."""
    with broker_or_exit(url) as broker:
        params = {"limit": limit} if after is None else {"limit": limit, "after": after}
        page = broker.get(_PATH, **params).json()
    if as_json:
        typer.echo(json.dumps(page))
        return
    rows = [
        (
            batch["id"],
            time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(batch["created_at"])),
            batch["status"],
            str(batch["request_counts"]["total"]),
            str(batch["request_counts"]["completed"]),
            str(batch["request_counts"]["failed"]),
            batch["endpoint"],
        )
        for batch in page["data"]
    ]
    print_table(("ID", "CREATED", "STATUS", "TOTAL", "COMPLETED", "FAILED", "ENDPOINT"), rows)
    if page["has_more"]:
        typer.echo(f"There are more: --after {page['last_id']}", err=True)


@app.command("show")
def show_command(batch_id: Id, url: Url = None, as_json: Json = False) -> None:
    """Show how a batch stands."""
    with broker_or_exit(url) as broker:
        batch = broker.get(_of(batch_id)).json()
    print_fields(batch, as_json=as_json)


@app.command("wait")
def wait_command(
    batch_id: Id, output: Output = None, errors: Errors = None, url: Url = None, as_json: Json = False
) -> None:
    """Wait for a batch's end and fetch what came out: come back to one that was left."""
    transfers.check_or_exit(output, errors)
    with broker_or_exit(url) as broker:
        _wait_and_fetch(broker, batch_id, output, errors, as_json=as_json)


@app.command("results")
def results_command(
    batch_id: Id,
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="Default: stdout.")] = None,
    url: Url = None,
) -> None:
    """Print the answers of a batch that has ended, one a line."""
    transfers.check_or_exit(output)
    with broker_or_exit(url) as broker:
        file_id = _ended(broker, batch_id)["output_file_id"]
        if file_id is None:
            typer.echo("No request was answered.", err=True)
        elif output is None:
            transfers.copy(broker, file_id, sys.stdout.buffer)
        else:
            transfers.download(broker, file_id, output)


@app.command("errors")
def errors_command(
    batch_id: Id,
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="Keep them there, one a line.")] = None,
    url: Url = None,
) -> None:
    """Count the errors of a batch that has ended, by code."""
    transfers.check_or_exit(output)
    with broker_or_exit(url) as broker:
        batch = _ended(broker, batch_id)
        _print_faults(batch)
        if batch["error_file_id"] is not None:
            _fetch_errors(broker, batch["error_file_id"], output, shows=True)
        elif not batch["errors"]:
            typer.echo("There are none.", err=True)


@app.command("cancel")
def cancel_command(batch_id: Id, url: Url = None, as_json: Json = False) -> None:
    """Cancel a batch. What was answered by then is kept."""
    with broker_or_exit(url) as broker:
        batch = broker.post(f"{_of(batch_id)}/cancel", repeats=True).json()
    typer.echo(json.dumps(batch) if as_json else f"{batch_id}: {batch['status']}")


def _create(broker: Broker, content: Any, wanted: dict[str, Any], *, again: bool) -> dict[str, Any]:
    digest = transfers.digest_of(content)
    wanted = {"input_file_id": transfers.upload(broker, content, digest), **wanted}
    asked = {name: value for name, value in wanted.items() if name != "input_file_id"}
    named = f"{digest}\n{json.dumps(asked, sort_keys=True)}"
    key = f"cli-{uuid4() if again else hashlib.sha256(named.encode()).hexdigest()}"
    try:
        batch: dict[str, Any] = broker.post(_PATH, json=wanted, key=key).json()
    except Refused as refused:
        if refused.status == _REUSED and refused.code == "idempotency_key_reused":
            fail(
                "A batch was made of this file within a day, of an upload that is not there any more; "
                "`headrace batch list` has it, --again makes another.",
                REFUSED,
            )
        raise
    return batch


def _wait_and_fetch(
    broker: Broker, batch_id: str, output: Path | None, errors: Path | None, *, as_json: bool
) -> None:
    try:
        batch = _waited_for(broker, batch_id)
        if batch["output_file_id"] is not None:
            target = output or Path(f"{batch_id}_output.jsonl")
            transfers.download(broker, batch["output_file_id"], target)
            typer.echo(f"Answers are in {target}.", err=True)
        if not as_json:
            _print_faults(batch)
        if batch["error_file_id"] is not None:
            target = errors or Path(f"{batch_id}_errors.jsonl")
            _fetch_errors(broker, batch["error_file_id"], target, shows=not as_json)
            typer.echo(f"Errors are in {target}.", err=True)
    except KeyboardInterrupt:
        interrupted(f"The batch goes on. Come back to it: headrace batch wait {batch_id}")
    if as_json:
        typer.echo(json.dumps(batch))
    counts = batch["request_counts"]
    if batch["status"] != "completed" or counts["completed"] < counts["total"]:
        raise typer.Exit(FAILED)


def _waited_for(broker: Broker, batch_id: str) -> dict[str, Any]:
    progress, pause = Progress(shown(batch_id)), _LOOK_SECONDS
    while True:
        batch: dict[str, Any] = broker.get(_of(batch_id), patience=PATIENCE_SECONDS).json()
        counts, has_ended = batch["request_counts"], batch["status"] in _ENDED
        done = sum(number for name, number in counts.items() if name != "total")
        ends = f"{counts['completed']} completed, {counts['failed']} failed of {counts['total']}"
        text = f"{batch['status']}: {ends}"
        progress.show(done, counts["total"], text, last=has_ended)
        if has_ended:
            return batch
        time.sleep(pause)
        pause = min(_LOOK_CAP_SECONDS, pause * 1.2)


def _ended(broker: Broker, batch_id: str) -> dict[str, Any]:
    batch: dict[str, Any] = broker.get(_of(batch_id)).json()
    if batch["status"] not in _ENDED:
        fail(
            f"{batch_id} has not ended: it is {batch['status']}. Wait for it: headrace batch wait {batch_id}",
            FAILED,
        )
    return batch


def _fetch_errors(broker: Broker, file_id: str, target: Path | None, *, shows: bool) -> None:
    if target is not None:
        transfers.download(broker, file_id, target)
        if shows:
            with target.open("rb") as lines:
                print_groups(grouped(lines))
        return
    with TemporaryFile() as lines:
        transfers.copy(broker, file_id, lines)
        lines.seek(0)
        print_groups(grouped(lines))


def _print_faults(batch: dict[str, Any]) -> None:
    """Why it failed as a whole."""
    for fault in (batch["errors"] or {}).get("data", ()):
        where = f"line {fault['line']}: " if fault["line"] is not None else ""
        typer.echo(f"{where}{shown(fault['message'])} ({shown(fault['code'])})", err=True)


def _of(batch_id: str) -> str:
    return f"{_PATH}/{quote(batch_id, safe='')}"
