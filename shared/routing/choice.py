"""HOT PATH. Where a request may go, and what a preset adds to it first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from shared.domain.job import JobKind
from shared.domain.principal import Preference, Principal
from shared.providers.presets import apply
from shared.routing.default_model import default_model
from shared.routing.fallbacks import says_something, take_wish
from shared.routing.means import RawHeaders, RoutingMeans
from shared.routing.router import Plan
from shared.routing.table import CALLERS_CHOICE

_COMPLETED: Final = frozenset(
    {JobKind.CHAT, JobKind.MESSAGES, JobKind.RESPONSES, JobKind.COMPLETION, JobKind.COUNT_TOKENS}
)
"""Kinds that a preset can complete."""
_PREFERRED: Final = _COMPLETED | {JobKind.SUMMARIZATION}
"""Kinds whose model can be left to the account's preference, which is of a model that writes."""


def choose_plan(
    document: dict[str, Any], kind: JobKind, headers: RawHeaders, principal: Principal, via: RoutingMeans
) -> Plan:
    """The plan of a checked request: its `model` may be a preset, a route, an alias, a model, or left
    to the account's preference. A preset completes `document`; the caller's fallbacks are taken out of it.

    Raises ModelNotFound, NoFittingTarget, or InvalidRequest for what the preset cannot say in this
    kind of request or what is wrong with the fallbacks.
    """
    name, registry = document["model"], via.registry
    preference = None
    if name in CALLERS_CHOICE and kind in _PREFERRED and not _is_somebodys_name(name, via):
        preference = principal.preference or Preference(default_model(via))
        name = preference.model
    if registry.presets and kind in _COMPLETED and (preset := registry.presets.get(name)) is not None:
        apply(preset, document, kind)
        name = preset.model
    return plan_for(name, document, kind, headers, principal, via, preference=preference)


def plan_for(
    name: str,
    document: dict[str, Any],
    kind: JobKind,
    headers: RawHeaders,
    principal: Principal,
    via: RoutingMeans,
    *,
    preference: Preference | None = None,
) -> Plan:
    """The same for a name that is neither a preset nor left to a preference.

    `preference`: where `name` is from, if from there.
    """
    if (
        preference is None
        and not says_something(document, headers)
        and (only := via.router.only_plan(name)) is not None
    ):
        return only
    wish, changed = take_wish(name, document, headers, via)
    said = wish.fallbacks
    if preference is not None:
        wish = replace(
            wish,
            fallbacks=(preference.fallback_models or None) if said is None else said,
            fallback_on=preference.fallback_on if wish.fallback_on is None else wish.fallback_on,
        )
    plan = via.router.plan(
        wish,
        # Whoever takes a message can tell how long it is.
        JobKind.MESSAGES if kind is JobKind.COUNT_TOKENS else kind,
        document,
        conditions=via.conditions,
        serves=_serves(principal, via),
    )
    if preference is not None:
        # The same request stays the same when the preference changes.
        plan = replace(plan, asked=(document["model"], *(said or ())))
    return replace(plan, rewritten=True) if changed else plan


def _serves(principal: Principal, via: RoutingMeans) -> Callable[[str], bool]:
    if not principal.credentials:
        return via.presence.serves
    own = frozenset(provider for provider, _ in principal.credentials)
    return lambda provider: via.presence.serves(provider, own=provider in own)


def _is_somebodys_name(name: str, via: RoutingMeans) -> bool:
    """Whether something here was called so before it had a meaning of its own."""
    known = via.catalogue
    return (
        name in via.registry.presets
        or name in known.aliases
        or known.find(name) is not None
        or known.lister_of(name) is not None
        or any(name in profile.models for profile in via.registry.profiles.values())
    )
