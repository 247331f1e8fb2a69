"""`POST /api/v1/keys/validate`: a worker asks the provider with a key that is stored nowhere.

The key travels sealed, in a job of its own that alone can open it: Redis never holds it in clear.
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import replace
from typing import Any, Final

import orjson
from fastapi import APIRouter, Request
from pydantic import TypeAdapter

from api.account_v1.credential_schemas import Candidate, CheckDetails, CheckView
from api.account_v1.credentials import require_address, sealer_of
from api.departure import Departure
from api.deps import Broker, request_id_of
from api.posted import posted
from api.replies import new_reader
from api.unified_v1.schemas import ErrorAnswer
from shared.crypto import Sealer, candidate_place
from shared.domain.job import CANDIDATE_CREDENTIAL, Job, JobKind, Surface, Target
from shared.domain.principal import Principal
from shared.domain.roles import Permission
from shared.errors import BrokerError, QueueUnavailable
from shared.ids import RequestId, new_job_id
from shared.limits.admission import FREE
from shared.limits.estimates import Estimate
from shared.providers.profile import not_served
from shared.requests.checking import check

router: Final = APIRouter(prefix="/api/v1/keys", tags=["Provider keys"])

CHECK_SECONDS: Final = 15.0
"""How long the caller waits: for a worker, and for the provider's list."""
_RETAIN_SECONDS: Final = 30.0
_CANDIDATE: Final = TypeAdapter(Candidate)
_REQUEST_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"type": "object", "required": ["provider", "apiKey"]},
                "example": {"provider": "anthropic", "apiKey": "sk-ant-..."},
            }
        },
    }
}


@router.post(
    "/validate",
    summary="Try a key of your own at a provider",
    responses={s: {"model": ErrorAnswer} for s in (400, 401, 403, 404, 413, 415, 422, 429, 502, 503, 504)},
    openapi_extra=_REQUEST_BODY,
)
async def validate(request: Request) -> CheckView:
    """Asks for the provider's models with it, which costs nothing. A provider that does not answer, or
    limits the rate of requests, is an error: it says nothing of the key.
    """
    asked = await posted(request, permission=Permission.CREDENTIALS_WRITE)
    document, via, principal = asked.document, asked.via, asked.principal
    check(_CANDIDATE, document)
    sealer, provider = sealer_of(via), document["provider"]
    require_address(provider, via)
    profile = via.registry.get(provider)
    if not profile.serves(JobKind.CREDENTIAL_CHECK):
        raise not_served(profile, JobKind.CREDENTIAL_CHECK)
    request.scope["state"]["provider"] = provider
    via.presence.require(provider, own=True)
    via.memory.require_room()
    job = _job(document, principal, sealer, request_id_of(request.scope))
    answer = orjson.loads(await _outcome(job, request, principal, via))
    details = CheckDetails(hasAccess=answer["has_access"], models=answer["models"])
    return CheckView(valid=answer["valid"], provider=provider, details=details)


def _job(document: dict[str, Any], principal: Principal, sealer: Sealer, request_id: RequestId) -> Job:
    job_id, provider = new_job_id(), document["provider"]
    sealed = sealer.seal(document["apiKey"], candidate_place(principal.account, job_id, provider))
    return Job(
        id=job_id,
        kind=JobKind.CREDENTIAL_CHECK,
        lane=principal.lane,
        surface=Surface.UNIFIED,
        account=principal.account,
        api_key=principal.api_key,
        request_id=request_id,
        plan=(Target(provider, "", CANDIDATE_CREDENTIAL),),
        stream=False,
        include_usage=False,
        budget_ms=int(CHECK_SECONDS * 1000),
        body=orjson.dumps({"sealed": b64encode(sealed).decode()}),
        user=principal.user,
    )


async def _outcome(job: Job, request: Request, principal: Principal, via: Broker) -> bytes:
    """It counts as a request of its caller, and costs nothing."""
    rules = via.admission.rules_of(principal, older_route=False)
    admitted = FREE
    if rules:
        job = replace(job, held=rules.holds)
        admitted = await via.admission.admit(rules, job, Estimate(0, 0))
    reply = via.replies.expect(job, request.receive, reader=new_reader())
    departure = Departure(via, reply, admitted)
    try:
        await via.producer.enqueue(
            job, reply_to=via.replies.channel, reader=reply.reader, retain_seconds=_RETAIN_SECONDS
        )
        departure.accepted = True
        result = await reply.outcome()
    except QueueUnavailable as error:
        # Its answer may be what was lost: then there is a job that nobody will read.
        departure.accepted = True
        departure(error)
        raise
    except BrokerError as error:
        if not departure.accepted:
            admitted.take_back()
        departure(error)
        raise
    finally:
        departure()
    return result.body or b"{}"
