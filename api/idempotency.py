"""Idempotency-Key: the same key of an account on a surface is the same job, for a day.

The job id is derived from the key, so the queue's own rule that an id is accepted once does
the rest: a second request attaches to the job, running or finished.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, Final

import orjson
from starlette.datastructures import Headers

from shared.domain.job import Surface
from shared.domain.principal import Principal
from shared.errors import BadRequest
from shared.ids import JobId

RETAIN_SECONDS: Final = 86_400.0
_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}\Z")


def key_of(headers: Headers) -> str | None:
    key = headers.get("idempotency-key")
    if key is None:
        return None
    if not _KEY.match(key):
        raise BadRequest(
            "Idempotency-Key must be 1 to 255 printable ASCII characters.", param="Idempotency-Key"
        )
    return key


def job_id_for(key: str, principal: Principal, surface: Surface) -> JobId:
    """The same key of the same account on the same surface is the same job."""
    scope = f"{principal.account}\n{surface.value}\n{key}".encode()
    return JobId("job_" + hashlib.sha256(scope).hexdigest()[:32])


def fingerprint_of(document: dict[str, Any], provider: str) -> str:
    """What a second request under the same key has to ask again.

    The provider is part of it: once a route is chosen, `document` names the model alone.
    """
    asked = orjson.dumps([provider, document], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(asked).hexdigest()
