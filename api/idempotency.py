"""Idempotency-Key: the same key of an account on a surface is the same job, for a day.

A pointer in Redis says which job the key stands for; the first request to ask decides, and
the queue's own rule that an id is accepted once does the rest: a second request attaches to
the job, running or finished. A job that failed in a way that another run may mend is not
what the key was for: the next request with it runs anew.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any, Final

import orjson

from shared.domain.job import JobKind, Surface
from shared.domain.principal import Principal
from shared.domain.usage import Outcome
from shared.errors import BadRequest
from shared.ids import JobId
from shared.queue.frames import Result, ResultHead
from shared.queue.producer import Producer

_CLAIM_SECONDS: Final = 60.0
"""Longer than any request takes from its claim to the queue."""
_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}\Z")


def key_of(headers: Mapping[str, str]) -> str | None:
    key = headers.get("idempotency-key")
    if key is None:
        return None
    if not _KEY.match(key):
        raise BadRequest(
            "Idempotency-Key must be 1 to 255 printable ASCII characters.", param="Idempotency-Key"
        )
    return key


def digest_of(
    key: str, principal: Principal, surface: Surface, kind: JobKind, route: str | None = None
) -> str:
    """Under which its pointer stands. `route`: one of any surface and kind, whose keys are its own."""
    within = f"{surface.value}\n{kind.value}" if route is None else route
    return hashlib.sha256(f"{principal.account}\n{within}\n{key}".encode()).hexdigest()


async def claim_job_id(digest: str, producer: Producer) -> tuple[JobId, bool]:
    """The job that the key of this digest stands for, and whether there is one already.

    The claim is a short one: the job makes it last when it is queued, so that what is refused leaves nothing.
    """
    fresh = producer.new_id_beside(digest)
    held = await producer.claim_key(digest, fresh, instead_of=None, seconds=_CLAIM_SECONDS)
    if held == fresh:
        return fresh, False
    stored = await producer.result(held)
    # Not every id without a job: another request may be about to queue this one.
    again = (isinstance(stored, Result) and is_worth_another_run(stored.head)) or (
        stored is None and await producer.was_forgotten(held)
    )
    if again:
        held = await producer.claim_key(digest, fresh, instead_of=held, seconds=_CLAIM_SECONDS)
        return held, held != fresh
    return held, stored is not None


def is_worth_another_run(head: ResultHead) -> bool:
    if head.outcome is Outcome.SUCCEEDED:
        return False
    return head.outcome is not Outcome.FAILED or head.status == 429 or head.status >= 500


def fingerprint_of(document: dict[str, Any], asked: tuple[str, ...]) -> str:
    """What a second request under the same key has to ask again.

    `asked`: the route or provider named and the fallbacks, which `document` does not say any more.
    """
    both = orjson.dumps([*asked, document], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(both).hexdigest()
