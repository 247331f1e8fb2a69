"""`/api/v1/usage`: what an account used. Every row is one job, written once, when it ended."""

from __future__ import annotations

import csv
import io
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel
from starlette.responses import Response

from api.admin_v1.guard import require_admin
from api.database import within_reach
from api.deps import Broker, authenticate, broker_of
from api.moments import in_utc
from api.pages import cursor_of, place_of
from api.unified_v1.schemas import ErrorAnswer
from shared.clock import SystemClock
from shared.db.repositories import usage_reports
from shared.db.repositories.usage_reports import Grouping, Range, Totals, UsedJob
from shared.domain.roles import Permission
from shared.domain.usage import Outcome
from shared.ids import AccountId
from shared.money import MICRO_PER_USD
from shared.requests.checking import fault

router: Final = APIRouter(tags=["Account"])
operators: Final = APIRouter(tags=["Admin"], dependencies=[Depends(require_admin)])

MAX_DAYS: Final = 366
MAX_GROUPS: Final = 10_000
MAX_PAGE: Final = 1_000
_ERRORS: Final[dict[int | str, dict[str, Any]]] = {s: {"model": ErrorAnswer} for s in (401, 403, 422, 503)}
_CSV: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {"text/csv": {"schema": {"type": "string"}}}, "description": "The same as CSV."},
    **_ERRORS,
}
Name = Annotated[str | None, Query(min_length=1, max_length=256, pattern=r"^[\x21-\x7e]+$")]


class UsageTotals(BaseModel):
    """`cost_usd`: what providers charge; `billed_usd`: what the account is billed. `cached_tokens`: of the
    prompt's, those that the provider read from its cache, in `cached_jobs` of the jobs. Of what it is not
    grouped by, a field is null.
    """

    day: date | None = None
    model: str | None = None
    provider: str | None = None
    key: str | None = None
    user: str | None = None
    account: str | None = None
    jobs: int
    succeeded: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    cached_jobs: int
    cost_usd: float
    billed_usd: float
    mean_provider_ms: int


class UsageReport(BaseModel):
    """`start` up to and without `end`. `truncated`: there are more groups than are shown."""

    start: datetime
    end: datetime
    total: UsageTotals
    groups: list[UsageTotals]
    truncated: bool


class UsageRow(BaseModel):
    job_id: str
    ended_at: datetime
    account: str
    user: str | None
    key: str
    request_id: str
    kind: str
    provider: str
    model: str
    credential: str
    stream: bool
    outcome: str
    error: str | None
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    estimated: bool
    cost_usd: float
    billed_usd: float
    queue_ms: int
    provider_ms: int
    ttft_ms: int | None
    attempts: int


class UsagePage(BaseModel):
    data: list[UsageRow]
    next_cursor: str | None


class Asked:
    """What a report is of, as the query says it."""

    def __init__(
        self,
        start: Annotated[str | None, Query(alias="from", max_length=40)] = None,
        end: Annotated[str | None, Query(alias="to", max_length=40)] = None,
        provider: Name = None,
        model: Name = None,
        key: Name = None,
        user: Name = None,
        outcome: Annotated[Outcome | None, Query()] = None,
    ) -> None:
        """`from`, `to`: dates of UTC or RFC 3339; from the first of this month until now by default."""
        now = SystemClock().now()
        first = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        self.within = Range(_moment("from", start) or first, _moment("to", end) or now + timedelta(seconds=1))
        if self.within.start >= self.within.end:
            raise fault("to", "must be later than from")
        if self.within.end - self.within.start > timedelta(days=MAX_DAYS):
            raise fault("from", f"must be at most {MAX_DAYS} days before to")
        named = {"provider": provider, "model": model, "key": key, "user": user, "outcome": outcome}
        self.only = {name: str(value) for name, value in named.items() if value is not None}


AskedFor = Annotated[Asked, Depends()]
By = Annotated[list[Grouping] | None, Query(alias="by", max_length=3)]
TRUNCATED: Final = "x-truncated"
"""On a CSV that has not all groups: whoever adds it up would add too little."""
Form = Annotated[str | None, Query(alias="format", pattern="^(json|csv)$")]


@router.get("/api/v1/usage", summary="What was used", response_model=UsageReport, responses=_CSV)
async def report(request: Request, asked: AskedFor, by: By = None, form: Form = None) -> Any:
    """In all, and by up to three of day, model, provider, key and user: `?by=day&by=model`. CSV with
    `format=csv`, or where `Accept` is `text/csv`.
    """
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.USAGE_READ)
    if Grouping.ACCOUNT in (by or ()):
        raise fault("by", "an account sees itself alone")
    return await _report(request, via, principal.account, asked, by or [], form)


@router.get("/api/v1/usage/jobs", summary="Every job that was used", response_model=UsagePage, responses=_CSV)
async def rows(
    request: Request,
    asked: AskedFor,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 100,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
    form: Form = None,
) -> Any:
    """Newest first. This is also the audit of requests: who asked which provider and model, how many
    tokens and how long it took, and what came of it.
    """
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.USAGE_READ)
    return await _rows(request, via, principal.account, asked, limit, cursor, form)


@operators.get(
    "/api/v1/admin/usage",
    summary="What everybody used",
    response_model=UsageReport,
    responses=_CSV,
)
async def report_for_operators(
    request: Request,
    asked: AskedFor,
    by: By = None,
    account: Name = None,
    form: Form = None,
) -> Any:
    """By account as well."""
    owner = None if account is None else AccountId(account)
    return await _report(request, broker_of(request), owner, asked, by or [], form)


@operators.get(
    "/api/v1/admin/usage/jobs",
    summary="Every job of everybody",
    response_model=UsagePage,
    responses=_CSV,
)
async def rows_for_operators(
    request: Request,
    asked: AskedFor,
    account: Name = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 100,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
    form: Form = None,
) -> Any:
    """Newest first."""
    owner = None if account is None else AccountId(account)
    return await _rows(request, broker_of(request), owner, asked, limit, cursor, form)


async def _report(
    request: Request,
    via: Broker,
    account: AccountId | None,
    asked: Asked,
    by: list[Grouping],
    form: str | None,
) -> Any:
    by = list(dict.fromkeys(by))
    async with within_reach("Usage"), via.engine.connect() as connection:
        total = await usage_reports.totals(connection, account, asked.within, by=(), only=asked.only, limit=1)
        groups = (
            await usage_reports.totals(
                connection, account, asked.within, by=by, only=asked.only, limit=MAX_GROUPS + 1
            )
            if by
            else []
        )
    shown = [_totals(group, by) for group in groups[:MAX_GROUPS]]
    if _wants_csv(request, form):
        response = _as_csv(UsageTotals, shown if by else [_totals(total[0], [])])
        if len(groups) > MAX_GROUPS:
            response.headers[TRUNCATED] = "true"
        return response
    return UsageReport(
        start=asked.within.start,
        end=asked.within.end,
        total=_totals(total[0], []),
        groups=shown,
        truncated=len(groups) > MAX_GROUPS,
    )


async def _rows(
    request: Request,
    via: Broker,
    account: AccountId | None,
    asked: Asked,
    limit: int,
    cursor: str | None,
    form: str | None,
) -> Any:
    after = place_of(cursor)
    async with within_reach("Usage"), via.engine.connect() as connection:
        found = await usage_reports.jobs(
            connection, account, asked.within, only=asked.only, after=after, limit=limit + 1
        )
    data = [_row(job) for job in found[:limit]]
    last = found[limit - 1] if len(found) > limit else None
    following = None if last is None else cursor_of(last.created_at, last.job_id)
    if _wants_csv(request, form):
        response = _as_csv(UsageRow, data)
        if following is not None:
            response.headers["x-next-cursor"] = following
        return response
    return UsagePage(data=data, next_cursor=following)


def _totals(totals: Totals, by: list[Grouping]) -> UsageTotals:
    groups: dict[str, Any] = {grouping.value: value for grouping, value in zip(by, totals.group, strict=True)}
    return UsageTotals(
        **groups,
        jobs=totals.jobs,
        succeeded=totals.succeeded,
        prompt_tokens=totals.prompt_tokens,
        completion_tokens=totals.completion_tokens,
        cached_tokens=totals.cached_tokens,
        cached_jobs=totals.cached_jobs,
        cost_usd=totals.cost_micro_usd / MICRO_PER_USD,
        billed_usd=totals.billed_micro_usd / MICRO_PER_USD,
        mean_provider_ms=totals.provider_ms // max(1, totals.jobs),
    )


def _row(job: UsedJob) -> UsageRow:
    fields = {
        name: getattr(job, name) for name in UsedJob.__dataclass_fields__ if name in UsageRow.model_fields
    }
    return UsageRow(
        **fields,
        ended_at=job.created_at,
        account=job.account_id,
        user=job.user_id,
        key=job.api_key_id,
        credential=job.credential_id,
        cost_usd=job.cost_micro_usd / MICRO_PER_USD,
        billed_usd=job.billed_micro_usd / MICRO_PER_USD,
    )


def _moment(name: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        if len(text) == len("2026-11-26"):
            return datetime.combine(date.fromisoformat(text), time(), UTC)
        # A plus sign that nobody escaped reads as a space in a query.
        return in_utc(datetime.fromisoformat(text.replace(" ", "+")))
    except ValueError:
        raise fault(name, "must be a date such as 2026-11-26, or a time as RFC 3339 has it") from None


def _wants_csv(request: Request, form: str | None) -> bool:
    if form is not None:
        return form == "csv"
    return request.headers.get("accept", "").split(";")[0].strip() == "text/csv"


def _as_csv(kind: type[BaseModel], rows: list[Any]) -> Response:
    text = io.StringIO()
    writer = csv.writer(text)
    names = list(kind.model_fields)
    writer.writerow(names)
    for row in rows:
        fields = row.model_dump(mode="json")
        writer.writerow([_cell(fields[name]) for name in names])
    return Response(text.getvalue(), media_type="text/csv; charset=utf-8")


def _cell(value: object) -> object:
    """A spreadsheet runs what begins like a formula; a quote before it makes it text."""
    return (
        f"'{value}"
        if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
        else value
    )
