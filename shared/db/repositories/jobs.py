"""Jobs that outlive their connection: what was accepted, and what came of it.

A row is queued until it ended, and then never changes: whoever ends it second changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Row,
    and_,
    bindparam,
    delete,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db.tables import job as jobs
from shared.domain.job import TERMINAL, Job, JobKind, JobState, Lane
from shared.ids import AccountId, JobId

_OPEN: Final = JobState.QUEUED.value


@dataclass(frozen=True, slots=True)
class NewJob:
    """`idempotency`: digest of its key within its scope. `cost`: its share of its tenant's turn.

    `stores_body`: keep the request as long as the result.
    """

    job: Job
    cost: int
    fingerprint: str
    idempotency: str | None
    retain_seconds: int
    stores_body: bool
    notes: Mapping[str, str] | None
    webhook_url: str | None
    created_at: datetime
    deadline_at: datetime


@dataclass(frozen=True, slots=True)
class KeptJob:
    """A row without its larger columns. `finished_at`, `expires_at`: None until it ended."""

    id: JobId
    account: AccountId
    kind: JobKind
    lane: Lane
    provider: str
    model: str
    stream: bool
    state: JobState
    fingerprint: str
    notes: dict[str, str] | None
    created_at: datetime
    deadline_at: datetime
    finished_at: datetime | None
    expires_at: datetime | None
    result_head: bytes | None
    header: bytes

    @property
    def is_open(self) -> bool:
        return self.state not in TERMINAL


@dataclass(frozen=True, slots=True)
class StoredResult:
    """`events`: of a job that streamed, a line each."""

    header: bytes
    body: bytes | None
    result_body: bytes | None
    events: bytes | None


@dataclass(frozen=True, slots=True)
class Unended:
    id: JobId
    deadline_at: datetime


@dataclass(frozen=True, slots=True)
class OpenJob:
    """What it takes to queue it again."""

    header: bytes
    body: bytes
    cost: int
    fingerprint: str
    idempotency: str | None
    stores_body: bool
    deadline_at: datetime


@dataclass(frozen=True, slots=True)
class EndedJob:
    id: JobId
    state: JobState
    head: bytes
    body: bytes | None
    events: bytes | None
    finished_at: datetime


@dataclass(frozen=True, slots=True)
class Told:
    """Of a job that ended, what its webhooks say."""

    id: JobId
    account: AccountId
    kind: JobKind
    state: JobState
    notes: dict[str, str] | None
    webhook_url: str | None
    finished_at: datetime


@dataclass(frozen=True, slots=True)
class Which:
    """`states`: any where empty."""

    states: Collection[JobState] = ()
    kind: JobKind | None = None
    since: datetime | None = None
    until: datetime | None = None
    note: tuple[str, str] | None = None


async def create(connection: AsyncConnection, new: Sequence[NewJob]) -> set[JobId]:
    """Those that are new; not one whose id or Idempotency-Key is taken."""
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    created = await connection.scalars(
        insert(jobs).on_conflict_do_nothing().returning(jobs.c.id), [_values(one) for one in new]
    )
    return {JobId(found) for found in created}


def as_kept(new: NewJob) -> KeptJob:
    """As it is found once it was created."""
    job = new.job
    return KeptJob(
        id=job.id,
        account=job.account,
        kind=job.kind,
        lane=job.lane,
        provider=job.target.provider,
        model=job.target.model,
        stream=job.stream,
        state=JobState.QUEUED,
        fingerprint=new.fingerprint,
        notes=None if new.notes is None else dict(new.notes),
        created_at=new.created_at,
        deadline_at=new.deadline_at,
        finished_at=None,
        expires_at=None,
        result_head=None,
        header=job.header(),
    )


async def find(connection: AsyncConnection, account: AccountId, job_id: JobId) -> KeptJob | None:
    """None where the account has no such job."""
    return await _one(connection, and_(jobs.c.id == job_id, jobs.c.account_id == account))


async def find_by_key(connection: AsyncConnection, idempotency: str) -> KeptJob | None:
    return await _one(connection, jobs.c.idempotency == idempotency)


async def give_up_key(connection: AsyncConnection, job_id: JobId) -> None:
    """Its Idempotency-Key is free for another job."""
    await connection.execute(update(jobs).where(jobs.c.id == job_id).values(idempotency=None))


async def tell(connection: AsyncConnection, job_id: JobId) -> bool:
    """Before somebody hears that it is accepted who did not make it. False where it was dropped meanwhile."""
    done = await connection.execute(update(jobs).where(jobs.c.id == job_id).values(told=True))
    return done.rowcount == 1


async def drop(connection: AsyncConnection, job_id: JobId) -> bool:
    """It was not accepted after all. False where somebody was told that it is, so that it stays."""
    done = await connection.execute(
        delete(jobs).where(jobs.c.id == job_id, jobs.c.state == _OPEN, jobs.c.told.is_(False))
    )
    return done.rowcount == 1


async def stored_result(
    connection: AsyncConnection, account: AccountId, job_id: JobId
) -> StoredResult | None:
    """The larger columns of a row."""
    row = (
        await connection.execute(
            select(jobs.c.header, jobs.c.body, jobs.c.result_body, jobs.c.events).where(
                jobs.c.id == job_id, jobs.c.account_id == account
            )
        )
    ).one_or_none()
    return None if row is None else StoredResult(row.header, row.body, row.result_body, row.events)


async def page(
    connection: AsyncConnection,
    account: AccountId,
    which: Which,
    *,
    after: tuple[datetime, str] | None,
    limit: int,
) -> list[KeptJob]:
    """Newest first."""
    wanted: list[ColumnElement[bool]] = [jobs.c.account_id == account]
    if which.states:
        wanted.append(jobs.c.state.in_([state.value for state in which.states]))
    if which.kind is not None:
        wanted.append(jobs.c.kind == which.kind.value)
    if which.since is not None:
        wanted.append(jobs.c.created_at >= which.since)
    if which.until is not None:
        wanted.append(jobs.c.created_at < which.until)
    if which.note is not None:
        name, value = which.note
        wanted.append(jobs.c.notes[name].as_string() == value)
    if after is not None:
        at, row_id = after
        wanted.append(or_(jobs.c.created_at < at, and_(jobs.c.created_at == at, jobs.c.id < row_id)))
    rows = await connection.execute(
        select(*_SHOWN).where(*wanted).order_by(jobs.c.created_at.desc(), jobs.c.id.desc()).limit(limit)
    )
    return [_kept(row) for row in rows]


async def unended(
    connection: AsyncConnection, *, created_before: datetime, after: str, limit: int
) -> list[Unended]:
    """By id."""
    rows = await connection.execute(
        select(jobs.c.id, jobs.c.deadline_at)
        .where(jobs.c.state == _OPEN, jobs.c.id > after, jobs.c.created_at < created_before)
        .order_by(jobs.c.id)
        .limit(limit)
    )
    return [Unended(JobId(row.id), row.deadline_at) for row in rows]


async def open_job(connection: AsyncConnection, job_id: JobId) -> OpenJob | None:
    """None where it ended meanwhile."""
    row = (
        await connection.execute(
            select(
                jobs.c.header, jobs.c.body, jobs.c.cost, jobs.c.fingerprint, jobs.c.idempotency,
                jobs.c.stores_body, jobs.c.deadline_at,
            ).where(jobs.c.id == job_id, jobs.c.state == _OPEN)
        )
    ).one_or_none()  # fmt: skip
    return None if row is None or row.body is None else OpenJob(*row)


async def end(connection: AsyncConnection, ended: Sequence[EndedJob]) -> None:
    """Those that have ended already stay as they are."""
    if not ended:
        return
    # In one order whoever writes: two schedulers must not wait for each other.
    in_order = sorted(ended, key=lambda one: one.id)
    retained = await connection.execute(
        select(jobs.c.id, jobs.c.retain_seconds).where(jobs.c.id.in_([one.id for one in in_order]))
    )
    seconds = {row.id: row.retain_seconds for row in retained}
    changes = [
        {
            "of": one.id,
            "new_state": one.state.value,
            "head": one.head,
            "answer": one.body,
            "said": one.events,
            "at": one.finished_at,
            "until": one.finished_at + timedelta(seconds=seconds[one.id]),
        }
        for one in in_order
        if one.id in seconds
    ]
    if not changes:
        return
    await connection.execute(_END, changes)
    await connection.execute(
        update(jobs)
        .where(jobs.c.id.in_([one.id for one in in_order]), jobs.c.stores_body.is_(False))
        .values(body=None)
    )


async def told_of(connection: AsyncConnection, ids: Sequence[JobId]) -> list[Told]:
    """Of those that ended, as they did."""
    rows = await connection.execute(
        select(
            jobs.c.id, jobs.c.account_id, jobs.c.kind, jobs.c.state, jobs.c.notes, jobs.c.webhook_url,
            jobs.c.finished_at,
        ).where(jobs.c.id.in_(ids), jobs.c.state != _OPEN)
    )  # fmt: skip
    return [
        Told(JobId(i), AccountId(a), JobKind(k), JobState(s), notes, url, at)
        for i, a, k, s, notes, url, at in rows
    ]


async def drop_result(connection: AsyncConnection, account: AccountId, job_id: JobId) -> None:
    """Its owner does not want it any more; that there was such a job stays."""
    await connection.execute(
        update(jobs)
        .where(jobs.c.id == job_id, jobs.c.account_id == account, jobs.c.state != _OPEN)
        .values(result_body=None, events=None, body=None, expires_at=None)
    )


async def drop_results(connection: AsyncConnection, before: datetime, /, *, limit: int) -> int:
    """Of jobs whose results were to be kept until then."""
    due = select(jobs.c.id).where(jobs.c.expires_at < before).order_by(jobs.c.expires_at).limit(limit)
    done = await connection.execute(
        update(jobs)
        .where(jobs.c.id.in_(due))
        .values(result_body=None, events=None, body=None, expires_at=None)
    )
    return done.rowcount


async def remove_before(connection: AsyncConnection, before: datetime, /, *, limit: int) -> int:
    """Jobs that ended before, and whose results are gone."""
    old = (
        select(jobs.c.id)
        .where(jobs.c.state != _OPEN, jobs.c.finished_at < before, jobs.c.expires_at.is_(None))
        .limit(limit)
    )
    done = await connection.execute(delete(jobs).where(jobs.c.id.in_(old)))
    return done.rowcount


async def count_open(connection: AsyncConnection) -> int:
    return await connection.scalar(select(func.count()).where(jobs.c.state == _OPEN)) or 0


_SHOWN: Final[tuple[ColumnElement[Any], ...]] = (
    jobs.c.id, jobs.c.account_id, jobs.c.kind, jobs.c.lane, jobs.c.provider, jobs.c.model, jobs.c.stream,
    jobs.c.state, jobs.c.fingerprint, jobs.c.notes, jobs.c.created_at, jobs.c.deadline_at,
    jobs.c.finished_at, jobs.c.expires_at, jobs.c.result_head, jobs.c.header,
)  # fmt: skip
_END: Final = (
    update(jobs)
    .where(jobs.c.id == bindparam("of"), jobs.c.state == _OPEN)
    .values(
        state=bindparam("new_state"),
        result_head=bindparam("head"),
        result_body=bindparam("answer"),
        events=bindparam("said"),
        finished_at=bindparam("at"),
        expires_at=bindparam("until"),
    )
)


async def _one(connection: AsyncConnection, which: ColumnElement[bool]) -> KeptJob | None:
    row = (await connection.execute(select(*_SHOWN).where(which))).one_or_none()
    return None if row is None else _kept(row)


def _kept(row: Row[Any]) -> KeptJob:
    return KeptJob(
        id=JobId(row.id),
        account=AccountId(row.account_id),
        kind=JobKind(row.kind),
        lane=Lane(row.lane),
        provider=row.provider,
        model=row.model,
        stream=row.stream,
        state=JobState(row.state),
        fingerprint=row.fingerprint,
        notes=row.notes,
        created_at=row.created_at,
        deadline_at=row.deadline_at,
        finished_at=row.finished_at,
        expires_at=row.expires_at,
        result_head=row.result_head,
        header=row.header,
    )


def _values(new: NewJob) -> dict[str, Any]:
    job = new.job
    return {
        "id": job.id,
        "account_id": job.account,
        "api_key_id": job.api_key,
        "user_id": job.user,
        "request_id": job.request_id,
        "kind": job.kind.value,
        "surface": job.surface.value,
        "lane": job.lane.value,
        "provider": job.target.provider,
        "model": job.target.model,
        "stream": job.stream,
        "state": _OPEN,
        "header": job.header(),
        "body": job.body,
        "cost": new.cost,
        "fingerprint": new.fingerprint,
        "idempotency": new.idempotency,
        "retain_seconds": new.retain_seconds,
        "stores_body": new.stores_body,
        "notes": None if new.notes is None else dict(new.notes),
        "webhook_url": new.webhook_url,
        "created_at": new.created_at,
        "deadline_at": new.deadline_at,
    }
