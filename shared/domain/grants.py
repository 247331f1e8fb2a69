"""What somebody may give to a key or a member: never more than he has himself.

What is not said is what the giver has, so that a key of narrow scopes only ever issues narrow keys.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from shared.domain.allowance import Scope
from shared.domain.job import Lane
from shared.domain.principal import Principal
from shared.domain.roles import PERMISSIONS, Permission, Role, lower
from shared.errors import NotAuthorized

_RANK: Final = {lane: rank for rank, lane in enumerate(Lane)}
"""Higher lanes first."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What a key may do. None: all that its role may, all models, all providers."""

    role: Role
    scopes: frozenset[Permission] | None
    models: tuple[str, ...] | None
    providers: tuple[str, ...] | None
    lane: Lane


def grant_to_key(
    giver: Principal,
    *,
    role: Role | None = None,
    scopes: Collection[Permission] | None = None,
    models: Collection[str] | None = None,
    providers: Collection[str] | None = None,
    lane: Lane | None = None,
) -> Grant:
    """By default a key for a program. Raises NotAuthorized, with what is too much."""
    if any(allowance.scope is Scope.KEY for allowance in giver.allowances):
        # What it issued would have them anew.
        raise NotAuthorized("A key that has limits of its own cannot issue keys.")
    role = role or lower(Role.SERVICE, giver.role)
    scopes = giver.scopes if scopes is None else frozenset(scopes)
    given = PERMISSIONS[role] if scopes is None else (PERMISSIONS[role] | {Permission.OPERATE}) & scopes
    _refuse_beyond(giver, given)
    models = giver.models if models is None else tuple(models)
    if not _within(models, giver.models):
        raise NotAuthorized("models: more than your own credential may use.", param="models")
    providers = giver.providers if providers is None else tuple(providers)
    if giver.providers is not None and not set(providers or ()) <= set(giver.providers):
        raise NotAuthorized("providers: more than your own credential may use.", param="providers")
    lane = lane or giver.lane
    if _RANK[lane] < _RANK[giver.lane]:
        raise NotAuthorized("priority: a higher lane than your own.", param="priority")
    return Grant(role, scopes, models, providers, lane)


def require_may_give_role(giver: Principal, role: Role) -> None:
    """To a member. Raises NotAuthorized."""
    _refuse_beyond(giver, PERMISSIONS[role])


def _refuse_beyond(giver: Principal, given: Iterable[Permission]) -> None:
    beyond = sorted(permission.value for permission in given if not giver.may(permission))
    if beyond:
        raise NotAuthorized(
            f"Nobody can give what he does not have: {', '.join(beyond)}.",
            param="scopes" if giver.scopes is not None else "role",
            details={"permissions": beyond},
        )


def _within(asked: Collection[str] | None, allowed: Collection[str] | None) -> bool:
    """Names as they are written: what a bare name stands for depends on the provider."""
    if allowed is None:
        return True
    if asked is None:
        return False
    return all(
        any(name.startswith(one[:-1]) if one.endswith("*") else name == one for one in allowed)
        for name in asked
    )
