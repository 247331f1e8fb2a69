"""`/v1/files`: what batches read and write, and whatever else an account puts here."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query, Request
from loguru import logger
from starlette.responses import Response

from api.database import within_reach
from api.deps import Broker, authenticate, broker_of
from api.multipart import boundary_of
from api.openai_v1.file_content import FileContent, range_of
from api.openai_v1.file_schemas import DeletedFile, FileList, FileObject
from api.openai_v1.schemas import ErrorAnswer
from api.openai_v1.upload import PURPOSES, receive_upload, told_bytes
from api.request_body import too_large
from shared.clock import SystemClock
from shared.db.engine import writing
from shared.db.repositories import files
from shared.db.repositories.files import File
from shared.domain.principal import Principal
from shared.domain.roles import Permission
from shared.errors import BadRequest, NotFound
from shared.files import delete_object, keep
from shared.ids import new_file_id
from shared.storage.objects import NoSuchObject

router: Final = APIRouter(prefix="/v1/files", tags=["OpenAI"])
PATH: Final = router.prefix

_REQUEST_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "additionalProperties": False,
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": list(PURPOSES)},
                        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                        "expires_after[seconds]": {"type": "integer", "minimum": 3600, "maximum": 2592000},
                    },
                },
                "example": {"file": '{"custom_id": "1"}', "purpose": "batch"},
            }
        },
    }
}


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {s: {"model": ErrorAnswer} for s in statuses}


@router.post(
    "",
    summary="Upload a file",
    responses=_errors(400, 401, 403, 413, 415, 422, 503),
    openapi_extra=_REQUEST_BODY,
)
async def create(request: Request) -> FileObject:
    """Up to 512 MiB, of the purpose `batch` up to 200 MiB. What is for batches expires after 30 days
    unless `expires_after` says otherwise, everything else never.
    """
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.FILES)
    settings = via.settings.storage
    boundary = boundary_of(request.headers.get("content-type", ""))
    at_least = told_bytes(request)
    if at_least > settings.max_file_bytes:
        raise too_large(settings.max_file_bytes)
    async with within_reach("Files"), via.engine.connect() as connection:
        held = await files.held(connection, principal.account)
    with via.incoming.one(principal.account, held, settings, at_least=at_least) as counted:
        upload = await receive_upload(request, boundary, via.storage, settings, counted)
        now = SystemClock().now()
        lasts = upload.expires_after_seconds
        new = File(
            id=new_file_id(),
            account_id=principal.account,
            created_by=principal.user or principal.api_key,
            filename=upload.filename,
            purpose=upload.purpose,
            size_bytes=upload.size_bytes,
            storage_key=upload.key,
            created_at=now,
            expires_at=None if lasts is None else now + timedelta(seconds=lasts),
        )
        async with within_reach("Files"):
            await keep(via.engine, via.storage, new, quota=settings)
    return FileObject.of(new)


@router.get("", summary="List files", responses=_errors(400, 401, 403, 422, 503))
async def list_all(
    request: Request,
    purpose: Annotated[str | None, Query(max_length=64)] = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Literal["asc", "desc"] = "desc",
    after: Annotated[str | None, Query(max_length=64)] = None,
) -> FileList:
    """The newest first, unless `order` is `asc`; from behind the file whose id is `after`."""
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.FILES)
    now = SystemClock().now()
    async with within_reach("Files"), via.engine.connect() as connection:
        last = None if after is None else await files.find(connection, principal.account, after, now=now)
        if after is not None and last is None:
            raise BadRequest("There is no such file.", param="after")
        found = await files.page(
            connection,
            principal.account,
            now=now,
            limit=limit + 1,
            purpose=purpose,
            oldest_first=order == "asc",
            after=last,
        )
    data = [FileObject.of(file) for file in found[:limit]]
    return FileList(
        data=data,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
        has_more=len(found) > limit,
    )


@router.get("/{file_id}", summary="Describe a file", responses=_errors(401, 403, 404, 503))
async def show(request: Request, file_id: str) -> FileObject:
    via = broker_of(request)
    return FileObject.of(await _find(file_id, await authenticate(request, via, Permission.FILES), via))


@router.get(
    "/{file_id}/content",
    summary="Read a file",
    response_class=Response,
    responses={
        200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}},
        206: {"description": "The part that `Range` asked for"},
        **_errors(401, 403, 404, 416, 503),
    },
)
async def content(request: Request, file_id: str) -> Response:
    """Byte for byte, or a part of it by `Range`."""
    via = broker_of(request)
    found = await _find(file_id, await authenticate(request, via, Permission.FILES), via)
    part = range_of(request.headers.get("range"), found.size_bytes)
    try:
        # While an error can still be told.
        await via.storage.size(found.storage_key)
    except NoSuchObject:
        logger.error("content of a file is gone", file_id=found.id)
        raise _unknown() from None
    start, length = (0, None) if part is None else (part.start, len(part))
    chunks = via.storage.read(found.storage_key, offset=start, length=length)
    return FileContent(chunks, filename=found.filename, size=found.size_bytes, part=part)


@router.delete("/{file_id}", summary="Delete a file", responses=_errors(401, 403, 404, 503))
async def delete(request: Request, file_id: str) -> DeletedFile:
    """For good."""
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.FILES)
    async with within_reach("Files"), writing(via.engine) as connection:
        key = await files.remove(connection, principal.account, file_id, now=SystemClock().now())
    if key is None:
        raise _unknown()
    await delete_object(via.storage, key)
    return DeletedFile(id=file_id)


async def _find(file_id: str, principal: Principal, via: Broker) -> File:
    async with within_reach("Files"), via.engine.connect() as connection:
        found = await files.find(connection, principal.account, file_id, now=SystemClock().now())
    if found is None:
        raise _unknown()
    return found


def _unknown() -> NotFound:
    return NotFound("There is no such file.")
