"""A validated request on its way to becoming a job: what was asked, and what the queue has to know."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson

from api.deps import Broker
from api.dropped_params import ASKED, TOLD, drop_params
from api.idempotency import fingerprint_of, key_of
from api.responses import RawHeaders
from api.retries import is_counted, try_of
from api.sse import StreamForm
from api.urgency import budget_ms, lane_of
from shared.domain.job import FallbackOn, JobKind, Lane, Surface, Target
from shared.domain.principal import Principal
from shared.limits.rules import RuleSet
from shared.providers.profile import not_served
from shared.queue.frames import Result
from shared.queue.producer import Try
from shared.routing.own_targets import targets_for

RenderBody = Callable[[Result], bytes]
"""A finished job's canonical body in the caller's dialect."""


@dataclass(frozen=True, slots=True)
class Submission:
    """
    document: the request in the form of `kind`, gateway-only fields already taken out
    body: the bytes it was parsed from when they still say the same, else None
    plan: where the job may run, best first
    asked: what of the plan the caller asked for, which does not change with how providers do
    fallback_on: failures of the request itself that move the job on
    include_usage: whether the caller asked for the usage chunk of a chat stream
    sent: the document as it came, where `document` holds more than that
    retain_seconds: how long the result can be read again, if not as long as any other
    detachable: whether its answer can be told later, on another connection
    """

    kind: JobKind
    document: dict[str, Any]
    body: bytes | None
    plan: tuple[Target, ...]
    asked: tuple[str, ...]
    surface: Surface
    stream: bool
    include_usage: bool
    render_body: RenderBody
    form: StreamForm
    retain_seconds: float | None = None
    fallback_on: frozenset[FallbackOn] = frozenset()
    sent: dict[str, Any] | None = None
    detachable: bool = False

    @property
    def target(self) -> Target:
        return self.plan[0]


@dataclass(frozen=True, slots=True)
class Prepared:
    """
    call: with what the provider must not see taken out
    body: canonical, as the worker sends it
    key: its Idempotency-Key, and `fingerprint` what a second request under it has to ask again
    tried: which of a client's tries it is, where that counts them and gives no key
    told: headers about what was changed
    """

    call: Submission
    body: bytes
    lane: Lane
    budget_ms: int
    key: str | None
    fingerprint: str
    tried: Try | None
    told: RawHeaders


def prepare(
    call: Submission, headers: Mapping[str, str], principal: Principal, via: Broker, *, most_seconds: float
) -> Prepared:
    """`most_seconds`: how long any caller may wait. Raises InvalidRequest, QueueFull."""
    profile = via.registry.get(call.target.provider)
    if not profile.serves(call.kind):
        raise not_served(profile, call.kind)
    key = key_of(headers)
    if "timeout_seconds" in call.document:
        call = replace(call, body=None)  # which the provider must not see
    window = via.settings.jobs.retry_window_seconds
    counts = key is None and is_counted(headers, window_seconds=window)
    budget = budget_ms(
        headers,
        call.document,
        most_seconds=most_seconds,
        stream=call.stream,
        comes_back_seconds=min(window, via.settings.api.disconnect_grace_seconds) if counts else 0.0,
    )
    via.memory.require_room()
    lane = lane_of(headers, call.document, principal)
    # Of what the caller asked, so before anything of it is rewritten for the provider.
    fingerprint, tried = "", None
    if key is not None:
        fingerprint = fingerprint_of(call.sent or call.document, call.asked)
    elif counts:
        asked = fingerprint_of(call.sent or call.document, call.asked)
        tried = try_of(headers, principal, call.surface, call.kind, asked, window_seconds=window)
    dropped: list[str] = []
    if headers.get(ASKED, "").lower() == "true":
        dropped = drop_params(
            call.document, kind=call.kind, target=call.target, profile=profile, stream=call.stream
        )
        call = replace(call, body=None) if dropped else call
    body = _canonical_body(call)
    return Prepared(call, body, lane, budget, key, fingerprint, tried, _told(dropped))


def for_principal(call: Submission, principal: Principal) -> Submission:
    """Only what the caller may use of the plan, with its account's own credentials. Raises ModelNotFound."""
    plan = targets_for(call.plan, principal)
    return call if plan is call.plan else replace(call, plan=plan)


def priced(call: Submission, rules: RuleSet, via: Broker) -> Submission:
    """Only what of the plan its caller's budgets can count. Raises ModelUnpriced."""
    plan = via.admission.priced(call.plan, call.kind, rules)
    return call if plan is call.plan else replace(call, plan=plan)


def _canonical_body(call: Submission) -> bytes:
    document, changed = call.document, call.body is None
    if document.get("model") != call.target.model:
        document["model"] = call.target.model
        changed = True
    if call.stream and call.kind is JobKind.CHAT:
        # Asked of every provider, whether or not the caller wants to see it: the ledger needs it.
        options = document.get("stream_options")
        if not isinstance(options, dict) or options.get("include_usage") is not True:
            document["stream_options"] = {**(options or {}), "include_usage": True}
            changed = True
    return orjson.dumps(document) if changed or call.body is None else call.body


def _told(dropped: list[str]) -> RawHeaders:
    return [(TOLD, ", ".join(dropped).encode("ascii", "replace"))] if dropped else []


def as_stored(result: Result) -> bytes:
    return result.body or b""
