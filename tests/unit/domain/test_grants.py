"""Nobody gives more than he has."""

from __future__ import annotations

from itertools import product

import pytest

from shared.domain.allowance import Allowance, Limits, Scope
from shared.domain.grants import grant_to_key, require_may_give_role
from shared.domain.job import Lane
from shared.domain.principal import Principal
from shared.domain.roles import Permission, Role
from shared.errors import NotAuthorized
from shared.ids import AccountId, ApiKeyId

SCOPES: list[frozenset[Permission] | None] = [
    None,
    frozenset({Permission.INFERENCE}),
    frozenset({Permission.API_KEYS_OWN, Permission.INFERENCE, Permission.OPERATE}),
    frozenset(Permission),
]
NAMES: list[tuple[str, ...] | None] = [
    None,
    ("openai/*",),
    ("openai/gpt-4o",),
    ("gpt-4o", "openai/gpt-4o"),
    ("*",),
]


def a_principal(
    role: Role,
    scopes: frozenset[Permission] | None = None,
    *,
    operator: bool = False,
    models: tuple[str, ...] | None = None,
    providers: tuple[str, ...] | None = None,
    lane: Lane = Lane.INTERACTIVE,
    limits: Limits | None = None,
) -> Principal:
    return Principal(
        account=AccountId("acme"),
        api_key=ApiKeyId("key_a"),
        role=role,
        scopes=scopes,
        is_operator=operator,
        models=models,
        providers=providers,
        lane=lane,
        allowances=() if limits is None else (Allowance(Scope.KEY, "key_a", limits),),
    )


@pytest.mark.parametrize("operator", [False, True])
def test_whatever_is_asked_for_a_key_never_may_do_more_than_its_giver(operator: bool) -> None:
    given = refused = 0
    for own_role, own_scopes, role, scopes in product(Role, SCOPES, [None, *Role], SCOPES):
        giver = a_principal(own_role, own_scopes, operator=operator)
        try:
            grant = grant_to_key(giver, role=role, scopes=scopes)
        except NotAuthorized:
            refused += 1
            continue
        given += 1
        key = a_principal(
            grant.role,
            grant.scopes,
            operator=operator and grant.scopes is not None and Permission.OPERATE in grant.scopes,
        )
        for permission in Permission:
            assert not key.may(permission) or giver.may(permission), (giver, grant, permission)
    assert given > 50
    assert refused > 50


def test_models_of_a_key_lie_within_those_of_its_giver() -> None:
    given = 0
    for own, asked in product(NAMES, NAMES):
        giver = a_principal(Role.ADMIN, models=own)
        try:
            grant = grant_to_key(giver, models=asked)
        except NotAuthorized:
            continue
        given += 1
        key = a_principal(grant.role, models=grant.models)
        for provider, model in product(("openai", "openrouter"), ("gpt-4o", "gpt-4o-mini", "openai/gpt-4o")):
            assert not key.may_use(provider, model) or giver.may_use(provider, model), (own, asked)
    assert given > 10


def test_what_is_not_said_is_what_the_giver_has() -> None:
    giver = a_principal(
        Role.MEMBER,
        frozenset({Permission.API_KEYS_OWN, Permission.INFERENCE}),
        models=("openai/*",),
        providers=("openai",),
        lane=Lane.BATCH,
    )

    grant = grant_to_key(giver)

    assert (grant.role, grant.scopes, grant.models) == (Role.SERVICE, giver.scopes, giver.models)
    assert (grant.providers, grant.lane) == (giver.providers, giver.lane)


def test_a_higher_lane_and_other_providers_are_not_one_s_to_give() -> None:
    giver = a_principal(Role.ADMIN, providers=("openai",), lane=Lane.STANDARD)

    assert grant_to_key(giver, lane=Lane.BATCH).lane is Lane.BATCH
    for asked in ({"lane": Lane.INTERACTIVE}, {"providers": ["openai", "xai"]}):
        with pytest.raises(NotAuthorized):
            grant_to_key(giver, **asked)


def test_a_key_with_limits_of_its_own_issues_none() -> None:
    with pytest.raises(NotAuthorized):
        grant_to_key(a_principal(Role.ADMIN, limits=Limits(daily_requests=3)))


@pytest.mark.parametrize("role", list(Role))
def test_a_role_is_given_by_who_has_all_of_it(role: Role) -> None:
    require_may_give_role(a_principal(Role.ADMIN), role)
    if role is not Role.VIEWER:
        with pytest.raises(NotAuthorized):
            require_may_give_role(a_principal(Role.VIEWER), role)
