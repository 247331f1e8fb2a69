"""What the three APIs of batches share: a batch is a row, and the scheduler does the rest."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from loguru import logger
from sqlalchemy.exc import IntegrityError
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from api import retries
from api.database import within_reach
from api.deps import Broker
from api.idempotency import fingerprint_of, key_of
from shared.clock import SystemClock
from shared.db.engine import writing
from shared.db.repositories import batches, files
from shared.db.repositories.batches import TRACE, Batch, NewBatch
from shared.db.repositories.files import File
from shared.domain.batch import BatchForm, BatchStatus
from shared.domain.principal import Principal
from shared.errors import Conflict, IdempotencyMismatch, JobLost, NotFound
from shared.files import check_quota, delete_object
from shared.ids import BatchId, RequestId, new_batch_id
from shared.observability import tracing
from shared.queue.producer import KEY_SECONDS
from shared.storage.objects import NoSuchObject, Storage


@dataclass(frozen=True, slots=True)
class WantedBatch:
    """`endpoint`: empty where each request names its own."""

    form: BatchForm
    endpoint: str
    notes: dict[str, str] | None = None
    options: Mapping[str, Any] | None = None
    webhook_url: str | None = None


async def create(
    wanted: WantedBatch,
    document: dict[str, Any],
    headers: Mapping[str, str],
    request_id: RequestId,
    principal: Principal,
    via: Broker,
    *,
    input_file: Callable[[BatchId], Awaitable[str | File]],
) -> Batch:
    """The batch of the request, a new one or the one that its Idempotency-Key stands for, or the one of
    the try before where a client tries again by itself.

    `input_file`: makes or finds the input of a new one; a file becomes a row together with the batch.
    Raises IdempotencyMismatch, StorageQuotaExceeded, Overloaded.
    """
    key = key_of(headers)
    digest = None if key is None else _digest(key, wanted.form, principal)
    fingerprint = fingerprint_of(document, ())
    if digest is not None and (there := await _of_key(digest, fingerprint, via)) is not None:
        return there
    if digest is None and (there := await _of_try(headers, fingerprint, wanted, principal, via)) is not None:
        return there
    now = SystemClock().now()
    batch_id = new_batch_id()
    found_input = await input_file(batch_id)
    new = NewBatch(
        id=batch_id,
        account_id=principal.account,
        api_key_id=principal.api_key,
        user_id=principal.user,
        request_id=request_id,
        form=wanted.form,
        endpoint=wanted.endpoint,
        input_file_id=found_input if isinstance(found_input, str) else found_input.id,
        notes=wanted.notes,
        options={**(wanted.options or {}), **_trace()},
        webhook_url=wanted.webhook_url,
        fingerprint=fingerprint,
        idempotency=digest,
        created_at=now,
        expires_at=now + timedelta(seconds=via.settings.batches.deadline_seconds),
    )
    async with within_reach("Batches"):
        try:
            async with writing(via.engine) as connection:
                if isinstance(found_input, File):
                    held = await files.held(connection, principal.account, alone=True)
                    check_quota(held, found_input.size_bytes, via.settings.storage)
                    await files.create(connection, found_input)
                await batches.create(connection, new)
        except IntegrityError:
            # The same key, at the same moment: whoever was first has the batch.
            there = None if digest is None else await _of_key(digest, fingerprint, via)
            if there is None:
                raise JobLost("This request met its own repetition: it is safe to send it again.") from None
            return there
    return await find(batch_id, principal, via, (wanted.form,))


async def find(batch_id: str, principal: Principal, via: Broker, forms: Collection[BatchForm]) -> Batch:
    """Raises NotFound, Overloaded."""
    async with within_reach("Batches"), via.engine.connect() as connection:
        found = await batches.find(connection, principal.account, BatchId(batch_id))
    if found is None or found.form not in forms:
        raise NotFound("There is no such batch.")
    return found


async def cancel(batch_id: str, principal: Principal, via: Broker, forms: Collection[BatchForm]) -> Batch:
    """One that is being cancelled stays so. Raises NotFound, Conflict, Overloaded."""
    while True:
        found = await find(batch_id, principal, via, forms)
        if found.status is BatchStatus.CANCELLING:
            return found
        if found.status not in {BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS}:
            raise Conflict(f"A batch that is {found.status.value} cannot be cancelled.")
        async with within_reach("Batches"), writing(via.engine) as connection:
            await batches.change(connection, found, BatchStatus.CANCELLING, at=SystemClock().now())


async def page(
    principal: Principal,
    via: Broker,
    forms: Collection[BatchForm],
    *,
    after: str | None = None,
    before: str | None = None,
    limit: int,
) -> tuple[list[Batch], bool]:
    """Newest first, and whether there are more. `after`, `before`: ids. Raises NotFound, Overloaded."""
    last = None if after is None else _place(await find(after, principal, via, forms))
    first = None if before is None else _place(await find(before, principal, via, forms))
    return await page_beside(principal, via, forms, after=last, before=first, limit=limit)


async def page_beside(
    principal: Principal,
    via: Broker,
    forms: Collection[BatchForm],
    *,
    after: tuple[datetime, str] | None = None,
    before: tuple[datetime, str] | None = None,
    limit: int,
) -> tuple[list[Batch], bool]:
    """See `page`; of places, where no batch need be any more. Raises Overloaded."""
    async with within_reach("Batches"), via.engine.connect() as connection:
        found = await batches.page(
            connection, principal.account, forms, after=after, before=before, limit=limit + 1
        )
    # Of those before another, what is too many is the newest.
    shown = found[-limit:] if before is not None else found[:limit]
    return shown, len(found) > limit


async def delete(batch_id: str, principal: Principal, via: Broker, forms: Collection[BatchForm]) -> None:
    """With its results, and with its input where that came together with it.

    Raises NotFound, Conflict, Overloaded.
    """
    found = await find(batch_id, principal, via, forms)
    if not found.has_ended:
        raise Conflict("A batch that has not ended cannot be deleted: cancel it first.")
    ids = [found.output_file_id, found.error_file_id]
    if found.requests is not None:
        ids.append(found.input_file_id)
    now = SystemClock().now()
    async with within_reach("Batches"), writing(via.engine) as connection:
        keys = [await files.remove(connection, principal.account, one, now=now) for one in ids if one]
        await batches.remove(connection, found.id)
    for key in keys:
        if key is not None:
            await delete_object(via.storage, key)


async def results(
    batch_id: str, principal: Principal, via: Broker, forms: Collection[BatchForm]
) -> ResultLines:
    """All of them. Raises NotFound, Conflict, Overloaded."""
    found = await find(batch_id, principal, via, forms)
    if not found.has_ended:
        raise Conflict("This batch has not ended: there are no results yet.")
    now = SystemClock().now()
    ids = [one for one in (found.output_file_id, found.error_file_id) if one is not None]
    async with within_reach("Batches"), via.engine.connect() as connection:
        kept = [await files.find(connection, principal.account, one, now=now) for one in ids]
    there = [file for file in kept if file is not None]
    if not there or len(there) < len(ids):
        raise _no_results()
    try:
        # While an error can still be told.
        for file in there:
            await via.storage.size(file.storage_key)
    except NoSuchObject:
        logger.error("results of a batch are gone", batch_id=found.id)
        raise _no_results() from None
    return ResultLines(via.storage, there)


class ResultLines(StreamingResponse):
    """Files of results, one behind the other. Anthropic answers with the same content type."""

    def __init__(self, storage: Storage, kept: Sequence[File]) -> None:
        self._chunks = _content(storage, kept)
        size = sum(file.size_bytes for file in kept)
        super().__init__(
            self._chunks, headers={"content-length": str(size)}, media_type="application/x-jsonl"
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._chunks):
            await super().__call__(scope, receive, send)


async def _content(storage: Storage, kept: Sequence[File]) -> AsyncGenerator[bytes]:
    for file in kept:
        async with aclosing(storage.read(file.storage_key)) as chunks:
            async for chunk in chunks:
                yield chunk


def _no_results() -> NotFound:
    return NotFound("There are no results of this batch, or they are gone.")


def _place(batch: Batch) -> tuple[datetime, str]:
    return batch.created_at, batch.id


async def _of_try(
    headers: Mapping[str, str], fingerprint: str, wanted: WantedBatch, principal: Principal, via: Broker
) -> Batch | None:
    """Official clients say in a header that they try again, and give no key by themselves."""
    seconds = via.settings.jobs.retry_window_seconds
    if not (retries.is_again(headers) and seconds):
        return None
    since = SystemClock().now() - timedelta(seconds=seconds)
    async with within_reach("Batches"), via.engine.connect() as connection:
        return await batches.find_like(
            connection, principal.account, principal.api_key, wanted.form, fingerprint, since=since
        )


async def _of_key(digest: str, fingerprint: str, via: Broker) -> Batch | None:
    async with within_reach("Batches"), via.engine.connect() as connection:
        there = await batches.find_by_key(connection, digest)
    if there is None:
        return None
    if (SystemClock().now() - there.created_at).total_seconds() > KEY_SECONDS:
        async with within_reach("Batches"), writing(via.engine) as connection:
            await batches.give_up_key(connection, there.id)
        return None
    if there.fingerprint != fingerprint:
        raise IdempotencyMismatch("This Idempotency-Key was used with a different request body.")
    return there


def _trace() -> dict[str, Any]:
    origin = tracing.origin()
    return {} if origin is None else {TRACE: origin.to_fields()}


def _digest(key: str, form: BatchForm, principal: Principal) -> str:
    scope = f"{principal.account}\nbatch\n{form.value}\n{key}"
    return hashlib.sha256(scope.encode()).hexdigest()
