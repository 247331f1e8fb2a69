"""A request of a line as its route would take it, and the job that it becomes.

The routes themselves answer callers who wait; of what they check, this is what a line is checked by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson
from pydantic import TypeAdapter

from shared.domain.batch import job_id_of, line_id_of, row_of
from shared.domain.job import Job, JobKind, Lane, Surface
from shared.domain.principal import Principal
from shared.errors import BadRequest
from shared.ids import BatchId
from shared.limits.admission import Admission
from shared.limits.rules import RuleSet
from shared.providers.profile import not_served
from shared.requests.chat import check_chat_completion
from shared.requests.checking import check, fault
from shared.requests.messages import check_messages
from shared.requests.responses import check_response_request
from shared.requests.vectors import CompletionRequest, EmbeddingOptions
from shared.routing.choice import choose_plan
from shared.routing.means import RoutingMeans
from shared.routing.own_targets import targets_for


@dataclass(frozen=True, slots=True)
class _Route:
    kind: JobKind
    surface: Surface
    check: Callable[[dict[str, Any]], None]


_COMPLETION: Final = TypeAdapter(CompletionRequest)
_EMBEDDING: Final = TypeAdapter(EmbeddingOptions)


def _check_response(body: dict[str, Any]) -> None:
    check_response_request(body)
    for name in ("previous_response_id", "background"):
        if body.get(name):
            raise fault(name, "cannot be asked for in a batch")


_ROUTES: Final[Mapping[str, _Route]] = {
    "/v1/chat/completions": _Route(JobKind.CHAT, Surface.OPENAI, check_chat_completion),
    "/v1/completions": _Route(JobKind.COMPLETION, Surface.OPENAI, lambda body: check(_COMPLETION, body)),
    "/v1/embeddings": _Route(JobKind.EMBEDDINGS, Surface.OPENAI, lambda body: check(_EMBEDDING, body)),
    "/v1/responses": _Route(JobKind.RESPONSES, Surface.RESPONSES, _check_response),
    "/v1/messages": _Route(JobKind.MESSAGES, Surface.ANTHROPIC, check_messages),
}
ENDPOINTS: Final = tuple(_ROUTES)


def surface_of(endpoint: str) -> Surface:
    return _ROUTES[endpoint].surface


def check_request(endpoint: str, body: dict[str, Any]) -> None:
    """Raises InvalidRequest: what its route would refuse, and what only somebody who waits can ask for."""
    if body.get("stream"):
        error = BadRequest("A request of a batch cannot be streamed.", param="stream")
        error.code = "stream_not_supported"
        raise error
    _ROUTES[endpoint].check(body)


def job_of(
    endpoint: str,
    body: dict[str, Any],
    principal: Principal,
    via: RoutingMeans,
    *,
    batch: BatchId,
    ordinal: int,
    budget_ms: int,
    admission: Admission,
    rules: RuleSet,
) -> Job:
    """Of a checked body, which is not to be used any more. `rules`: what its caller is held to.

    Raises ModelNotFound, ModelUnpriced, InvalidRequest, or whatever else says that there is no way to run it.
    """
    route = _ROUTES[endpoint]
    plan = choose_plan(body, route.kind, [], principal, via)
    targets = admission.priced(targets_for(plan.targets, principal), route.kind, rules)
    profile = via.registry.get(targets[0].provider)
    if not profile.serves(route.kind):
        raise not_served(profile, route.kind)
    # For gateways alone: how urgent it is, its batch says.
    body.pop("timeout_seconds", None)
    body["model"] = targets[0].model
    return Job(
        id=job_id_of(batch, ordinal),
        kind=route.kind,
        lane=Lane.BATCH,
        surface=route.surface,
        account=principal.account,
        api_key=principal.api_key,
        request_id=line_id_of(batch, ordinal),
        plan=targets,
        fallback_on=plan.fallback_on,
        stream=False,
        include_usage=True,
        budget_ms=budget_ms,
        body=orjson.dumps(body),
        held=rules.holds,
        user=principal.user,
        row=row_of(batch, ordinal),
    )
