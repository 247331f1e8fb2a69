"""`headrace jobs`: submit jobs to a broker, see how they stand, read what became of them, cancel them."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import quote
from uuid import uuid4

import httpx
import typer

from cli.broker import (
    FAILED,
    PATIENCE_SECONDS,
    UNFINISHED,
    USAGE,
    Broker,
    Json,
    Pauses,
    Refused,
    Unreachable,
    Url,
    broker_or_exit,
    interrupted,
    notes_or_exit,
    shown,
)
from cli.configuration import fail
from cli.fields import print_fields
from cli.table import print_table
from shared.domain.job import JobKind, JobState

app = typer.Typer(no_args_is_help=True)

_PATH: Final = "/api/v1/jobs"
_OPEN: Final = frozenset({JobState.QUEUED, JobState.RUNNING})
_POLL_SECONDS: Final = 25.0
"""Of one long poll: shorter than what stands between clients and servers lets a connection be silent."""
_QUIET_SECONDS: Final = 90.0
_MOST: Final = 100
_DONE: Final = "data: [DONE]"

Id = Annotated[str, typer.Argument(metavar="ID", help="The job, job_... as listed.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait until it has ended.")]
Within = Annotated[
    float | None,
    typer.Option("--within", min=0, metavar="SECONDS", help="Wait no longer than this; says --wait."),
]


@app.command("submit")
def submit_command(
    body: Annotated[str, typer.Argument(metavar="FILE", help="What the route is asked, JSON; - for stdin.")],
    endpoint: Annotated[str, typer.Option(help="The route that is asked.")] = "/v1/chat/completions",
    metadata: Annotated[
        list[str] | None, typer.Option(metavar="NAME=TEXT", help="To find it by; repeat for several.")
    ] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="Submit it once, however often this is run within a day.")
    ] = None,
    wait: Wait = False,
    within: Within = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Submit a job and print its id; with --wait, its result."""
    wanted: dict[str, Any] = {"endpoint": endpoint, "body": _document_or_exit(body)}
    notes = notes_or_exit(metadata)
    if notes is not None:
        wanted["metadata"] = notes
    with broker_or_exit(url) as broker:
        # Always under a key: what was sent over a connection that broke is sent again, and is one job.
        job = broker.post(_PATH, json=wanted, key=idempotency_key or f"cli-{uuid4()}").json()
        if not (wait or within is not None):
            typer.echo(json.dumps(job) if as_json else job["id"])
            return
        typer.echo(f"{job['id']} is submitted.", err=True)
        try:
            if wanted["body"].get("stream") is True:
                _print_events(broker, job["id"])
            else:
                _print_result(broker, job["id"], within=within)
        except KeyboardInterrupt:
            interrupted(f"The job goes on. Come back to it: headrace jobs result {job['id']} --wait")


@app.command("list")
def list_command(
    status: Annotated[list[JobState] | None, typer.Option(help="Only those; repeat for several.")] = None,
    kind: Annotated[JobKind | None, typer.Option(help="Only of this kind.")] = None,
    metadata: Annotated[str | None, typer.Option(metavar="NAME=TEXT", help="Only those with this.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=_MOST, help="How many at most.")] = 20,
    cursor: Annotated[str | None, typer.Option(help="Go on where the page before ended.")] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """List jobs, newest first."""
    params: dict[str, Any] = {"limit": limit, "status": [one.value for one in status or ()]}
    if kind is not None:
        params["kind"] = kind.value
    for name, text in (notes_or_exit([metadata] if metadata else None) or {}).items():
        params["metadata"] = f"{name}:{text}"
    if cursor is not None:
        params["cursor"] = cursor
    with broker_or_exit(url) as broker:
        page = broker.get(_PATH, **params).json()
    if as_json:
        typer.echo(json.dumps(page))
        return
    rows = [
        (job["id"], job["created_at"][:19], job["kind"], job["status"], job["provider"], shown(job["model"]))
        for job in page["data"]
    ]
    print_table(("ID", "CREATED", "KIND", "STATUS", "PROVIDER", "MODEL"), rows)
    if page["next_cursor"] is not None:
        typer.echo(f"There are more: --cursor {page['next_cursor']}", err=True)


@app.command("show")
def show_command(job_id: Id, url: Url = None, as_json: Json = False) -> None:
    """Show how a job stands."""
    with broker_or_exit(url) as broker:
        job = broker.get(_of(job_id)).json()
    print_fields(job, as_json=as_json)


@app.command("result")
def result_command(job_id: Id, wait: Wait = False, within: Within = None, url: Url = None) -> None:
    """Print what the route of a job would have answered."""
    with broker_or_exit(url) as broker:
        try:
            _print_result(broker, job_id, within=within if wait or within is not None else 0.0)
        except KeyboardInterrupt:
            interrupted(f"The job goes on. Come back to it: headrace jobs result {job_id} --wait")


@app.command("events")
def events_command(job_id: Id, url: Url = None) -> None:
    """Print a job's events as they come: its stream, or how it stands whenever that changed."""
    with broker_or_exit(url) as broker:
        try:
            _print_events(broker, job_id)
        except KeyboardInterrupt:
            interrupted(f"The job goes on. Come back to it: headrace jobs events {job_id}")


@app.command("cancel")
def cancel_command(
    job_ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Jobs, job_... as listed.")],
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Cancel jobs. One that has ended stays as it is."""
    answers: list[dict[str, Any]] = []
    refusals: list[Refused] = []
    with broker_or_exit(url) as broker:
        for job_id in job_ids:
            try:
                # Asked twice, it is cancelled all the same.
                answers.append(broker.post(f"{_of(job_id)}/cancel", repeats=True).json())
            except Refused as refused:
                refusals.append(refused)
                typer.echo(f"{job_id}: {refused}", err=True)
            else:
                if not as_json:
                    typer.echo(f"{job_id}: {answers[-1]['status']}")
        if as_json:
            typer.echo(json.dumps(answers))
        if refusals:
            raise refusals[0]


def _print_result(broker: Broker, job_id: str, *, within: float | None) -> None:
    """`within`: seconds; None to wait however long it takes."""
    until = None if within is None else time.monotonic() + within
    pauses = Pauses(PATIENCE_SECONDS if within is None else within)
    while True:
        left = _POLL_SECONDS if until is None else max(0.0, min(_POLL_SECONDS, until - time.monotonic()))
        try:
            answer = broker.get(f"{_of(job_id)}/result", wait=round(left, 3))
        except Unreachable:
            if not pauses.has_patience:
                raise
            pauses.pause()
            continue
        except Refused as refused:
            if not _is_over(broker, job_id, refused):
                if not (refused.may_pass and pauses.has_patience):
                    raise
                pauses.pause()
                continue
            raise
        if answer.status_code != httpx.codes.ACCEPTED:
            sys.stdout.buffer.write(answer.content.rstrip(b"\n") + b"\n")
            sys.stdout.flush()
            return
        if until is not None and time.monotonic() >= until:
            fail(f"{job_id} has not ended: it is {answer.json()['status']}.", UNFINISHED)
        pauses = Pauses(PATIENCE_SECONDS if until is None else until - time.monotonic())


def _is_over(broker: Broker, job_id: str, refused: Refused) -> bool:
    """Whether what was refused is the job's own end: its error is answered with the status of that.

    Ends the command where it failed.
    """
    if refused.status in {401, 403}:
        return False
    try:
        job = broker.get(_of(job_id)).json()
    except (Unreachable, Refused):
        return False
    if job["status"] in _OPEN:
        return False
    if job["status"] != JobState.SUCCEEDED:
        fail(f"{job_id} is {job['status']}: {refused}", FAILED)
    return True


def _print_events(broker: Broker, job_id: str) -> None:
    last_id, pauses, is_done = "", Pauses(PATIENCE_SECONDS), False
    while True:
        headers = {"Last-Event-ID": last_id} if last_id else {}
        try:
            if not is_done:
                with broker.stream(f"{_of(job_id)}/events", headers, quiet_seconds=_QUIET_SECONDS) as stream:
                    for line in stream.iter_lines():
                        name, _, text = line.partition(":")
                        if name == "id":
                            last_id = text.strip()
                        typer.echo(line)
                        # It has no id, so it would be told again while the job's row is still open.
                        is_done = is_done or line == _DONE
                        pauses = Pauses(PATIENCE_SECONDS)
            # That a stream ended whole does not say how its job did, nor that it did.
            job = broker.get(_of(job_id), patience=PATIENCE_SECONDS).json()
            if job["status"] not in _OPEN:
                break
        except (Unreachable, Refused) as trouble:
            if not (trouble.may_pass and pauses.has_patience):
                raise
        pauses.pause()
    if job["status"] != JobState.SUCCEEDED:
        fail(f"{job_id} is {job['status']}: {shown((job['error'] or {}).get('message'))}", FAILED)


def _document_or_exit(name: str) -> dict[str, Any]:
    try:
        text = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as exc:
        fail(f"{name}: {exc.strerror}.", USAGE)
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        fail(f"{'stdin' if name == '-' else name}: must hold one JSON object.", USAGE)
    return document


def _of(job_id: str) -> str:
    return f"{_PATH}/{quote(job_id, safe='')}"
