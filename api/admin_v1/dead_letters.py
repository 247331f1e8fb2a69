"""Dead letters, for operators."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Request
from loguru import logger

from api.admin_v1.guard import require_admin
from api.admin_v1.schemas import (
    DeadJobView,
    DeadLetterPage,
    DeadLetterView,
    Name,
    NotRedriven,
    Purged,
    RedrivenAllView,
    RedrivenView,
    check_redrive,
)
from api.audit import audited
from api.database import within_reach
from api.deps import broker_of, request_id_of
from api.request_body import read_body
from api.unified_v1.schemas import ErrorAnswer
from shared.db.engine import writing
from shared.errors import InvalidRequest, NotFound, Overloaded
from shared.ids import JOB_ID, AccountId, JobId
from shared.queue.dead_letters import ALL, MAX_PAGE, Which
from shared.requests.json_body import parse_object

router: Final = APIRouter(
    prefix="/api/v1/admin/dead-letters",
    tags=["Admin"],
    responses={s: {"model": ErrorAnswer} for s in (401, 403, 404, 409, 422, 503)},
)


Operator = Annotated[str, Depends(require_admin)]


@router.get("", summary="List dead letters")
async def list_dead_letters(
    request: Request,
    by: Operator,
    provider: Annotated[Name | None, Query()] = None,
    account: Annotated[Name | None, Query()] = None,
    reason: Annotated[Name | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 50,
    cursor: Annotated[Name | None, Query()] = None,
) -> DeadLetterPage:
    """Newest first. A page may be short and still have a next one."""
    page = await broker_of(request).dead_letters.page(
        _which(provider, account, reason), limit=limit, cursor=cursor
    )
    await _note(request, by, "dead letters listed", None, found=len(page.letters))
    return DeadLetterPage(
        data=[DeadLetterView(**letter.to_fields()) for letter in page.letters], next_cursor=page.cursor
    )


@router.post(
    "/redrive",
    summary="Run dead letters again",
    responses={s: {"model": ErrorAnswer} for s in (400, 413, 415)},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {
                        "type": "object",
                        "properties": {
                            "provider": {"type": "string"},
                            "account": {"type": "string"},
                            "reason": {"type": "string"},
                            "limit": {"type": "integer", "minimum": 1, "maximum": MAX_PAGE},
                        },
                    },
                    "example": {"provider": "openai", "reason": "poison"},
                }
            },
        }
    },
)
async def redrive_dead_letters(request: Request, by: Operator) -> RedrivenAllView:
    """Those with all of what is named; something must be. Each is run again once, whoever asks how often."""
    via = broker_of(request)
    document = parse_object(await read_body(request.receive, limit=via.settings.api.max_body_bytes))
    wanted = check_redrive(document)
    which = _which(wanted.provider, wanted.account, wanted.reason)
    if which == ALL:
        raise InvalidRequest("provider: one of provider, account, reason is required", param="provider")
    answer = await via.dead_letters.redrive_all(which, limit=wanted.limit)
    for redriven in answer.redriven:
        await _note(request, by, "dead letter redriven", redriven.job_id, **redriven.to_fields())
    return RedrivenAllView(
        redriven=[RedrivenView(**redriven.to_fields()) for redriven in answer.redriven],
        failed=[
            NotRedriven(job_id=job_id, code=error.code, message=error.message)
            for job_id, error in answer.failed
        ],
        more=answer.more,
    )


@router.get("/{job_id}", summary="Show a dead letter")
async def show_dead_letter(
    request: Request, by: Operator, job_id: str, include_body: bool = False
) -> DeadJobView:
    """Without what was asked, unless `include_body`."""
    wanted = _job_id(job_id)
    found = await broker_of(request).dead_letters.show(wanted, include_body=include_body)
    await _note(request, by, "dead letter shown", wanted, job_id=wanted, with_body=include_body)
    return DeadJobView(**found.to_fields())


@router.post("/{job_id}/redrive", summary="Run a dead letter again")
async def redrive_dead_letter(request: Request, by: Operator, job_id: str) -> RedrivenView:
    """As a new job, the same one however often this is called."""
    redriven = await broker_of(request).dead_letters.redrive(_job_id(job_id))
    await _note(request, by, "dead letter redriven", redriven.job_id, **redriven.to_fields())
    return RedrivenView(**redriven.to_fields())


@router.delete("/{job_id}", summary="Throw a dead letter away")
async def purge_dead_letter(request: Request, by: Operator, job_id: str, confirm: bool = False) -> Purged:
    """For good, and so only with `confirm=true`."""
    wanted = _job_id(job_id)
    if not confirm:
        raise InvalidRequest("confirm: must be true, as a purged letter is gone for good", param="confirm")
    await broker_of(request).dead_letters.purge(wanted)
    await _note(request, by, "dead letter purged", wanted, job_id=wanted)
    return Purged(job_id=wanted)


def _which(provider: str | None, account: str | None, reason: str | None) -> Which:
    return Which(provider, None if account is None else AccountId(account), reason)


def _job_id(text: str) -> JobId:
    if not JOB_ID.match(text):
        raise NotFound("There is no such dead letter.")
    return JobId(text)


async def _note(request: Request, by: str, act: str, object_id: str | None, **facts: Any) -> None:
    """One row and one line an act. A database that is away stops no operator; the line then says so."""
    client = request.client.host if request.client else None
    logger.info(act, by=by, client=client, request_id=request_id_of(request.scope), **facts)
    try:
        async with within_reach("Audit events"), writing(broker_of(request).engine) as connection:
            await audited(
                connection, request, by, f"dead-letter.{act.rpartition(' ')[2]}", object_id, **facts
            )
    except Overloaded:
        logger.error("act not audited", act=act, by=by, request_id=request_id_of(request.scope))
