"""From a row of a credential to the principal behind it: one question over what makes it up.

api_key ──┬── account       tier and limits
          ├── user          disabled or not, operator or not
          ├── membership    role and limits
          ├── account_preferences
          └── provider_credential   the account's own, by provider
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, and_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db.repositories import api_keys, preferences
from shared.db.tables import account, api_key, membership, provider_credential, user
from shared.domain.allowance import Allowance, Limits, Scope, Tier
from shared.domain.job import Lane
from shared.domain.principal import Preference, Principal
from shared.domain.roles import Permission, Role, lower
from shared.ids import AccountId, ApiKeyId, CredentialId, UserId

_Shared = tuple[Preference | None, tuple[tuple[str, CredentialId], ...]]


_SESSION: Final = "session:"
_ACCOUNT: Final = "account:"


@dataclass(frozen=True, slots=True)
class Holder:
    """A key, or a member's sessions, as they stand. `is_usable` at the moment it was asked about.

    `version`: what access tokens of the member must carry; None of a key.
    """

    digest: str
    principal: Principal
    expires_at: datetime | None
    is_usable: bool
    version: int | None = None


def session_digest(user_id: UserId, account_id: AccountId) -> str:
    """In the place of a key's digest, for all sessions of a member."""
    return f"{_SESSION}{user_id}:{account_id}"


def account_digest(account_id: AccountId) -> str:
    """The same, for all whom others vouch for."""
    return f"{_ACCOUNT}{account_id}"


async def of_digest(connection: AsyncConnection, digest: str, now: datetime) -> Holder | None:
    """Unusable ones too. The one question without an account: its answer is the account."""
    if digest.startswith(_SESSION):
        user_id, _, account_id = digest.removeprefix(_SESSION).partition(":")
        return await of_member(connection, UserId(user_id), AccountId(account_id))
    if digest.startswith(_ACCOUNT):
        return await of_itself(connection, AccountId(digest.removeprefix(_ACCOUNT)))
    found = await _holders(connection, api_key.c.digest == digest, now)
    return found[0] if found else None


async def of_member(connection: AsyncConnection, user_id: UserId, account_id: AccountId) -> Holder | None:
    """None where the user is no member of the account."""
    found = await _members(
        connection, and_(membership.c.user_id == user_id, membership.c.account_id == account_id)
    )
    return found[0] if found else None


async def of_key(connection: AsyncConnection, key_id: ApiKeyId, now: datetime) -> Holder | None:
    """Unusable ones too. For work that goes on without its caller: whoever asks has the id from a row."""
    found = await _holders(connection, api_key.c.id == key_id, now)
    return found[0] if found else None


async def of_account(connection: AsyncConnection, account_id: AccountId, now: datetime) -> list[Holder]:
    """Of each key of the account that is not revoked, of each member, and of the account itself."""
    its = and_(api_key.c.account_id == account_id, api_key.c.revoked_at.is_(None))
    keys = await _holders(connection, its, now)
    members = await _members(connection, membership.c.account_id == account_id)
    itself = await of_itself(connection, account_id)
    return [*keys, *members, *([] if itself is None else [itself])]


async def of_itself(connection: AsyncConnection, account_id: AccountId) -> Holder | None:
    """What all of the account have in common, which may do nothing by itself."""
    found = (
        await connection.execute(
            select(
                account.c.id.label("account_id"), account.c.tier, account.c.limits.label("account_limits")
            ).where(account.c.id == account_id)
        )
    ).one_or_none()
    if found is None:
        return None
    preference, credentials = await _shared(connection, account_id)
    digest = account_digest(account_id)
    principal = Principal(
        account=account_id,
        api_key=ApiKeyId(digest),
        preference=preference,
        role=Role.VIEWER,
        scopes=frozenset(),
        allowances=allowances_of(dict(found._mapping)),
        credentials=credentials,
    )
    return Holder(digest, principal, None, is_usable=True)


async def _members(connection: AsyncConnection, which: ColumnElement[bool]) -> list[Holder]:
    rows = (
        await connection.execute(
            select(
                membership,
                account.c.tier,
                account.c.limits.label("account_limits"),
                user.c.disabled_at,
                user.c.is_operator,
                user.c.token_version,
            )
            .join(account, account.c.id == membership.c.account_id)
            .join(user, user.c.id == membership.c.user_id)
            .where(which)
        )
    ).all()
    holders = []
    shared: _Shared | None = None
    for found in rows:
        row: dict[str, Any] = dict(found._mapping)
        owner, user_id = AccountId(row["account_id"]), UserId(row["user_id"])
        shared = shared or await _shared(connection, owner)
        principal = Principal(
            account=owner,
            api_key=ApiKeyId(user_id),
            preference=shared[0],
            user=user_id,
            role=Role(row["role"]),
            is_operator=row["is_operator"],
            allowances=allowances_of(row, (Scope.USER, user_id, row["limits"])),
            credentials=shared[1],
        )
        usable = row["disabled_at"] is None
        holders.append(Holder(session_digest(user_id, owner), principal, None, usable, row["token_version"]))
    return holders


async def _holders(connection: AsyncConnection, which: ColumnElement[bool], now: datetime) -> list[Holder]:
    rows = (
        await connection.execute(
            select(
                api_key,
                account.c.tier,
                account.c.limits.label("account_limits"),
                membership.c.role.label("member_role"),
                membership.c.limits.label("member_limits"),
                user.c.disabled_at,
                user.c.is_operator,
            )
            .join(account, account.c.id == api_key.c.account_id)
            .outerjoin(
                membership,
                and_(
                    membership.c.account_id == api_key.c.account_id,
                    membership.c.user_id == api_key.c.user_id,
                ),
            )
            .outerjoin(user, user.c.id == api_key.c.user_id)
            .where(which)
        )
    ).all()
    rotated = [row.id for row in rows if row.rotated_from is not None]
    firsts = await api_keys.first_of_each(connection, rotated)
    shared: dict[AccountId, _Shared] = {}
    holders = []
    for found in rows:
        row: dict[str, Any] = dict(found._mapping)
        owner = AccountId(row["account_id"])
        if owner not in shared:
            shared[owner] = await _shared(connection, owner)
        preference, credentials = shared[owner]
        counted_as = firsts.get(row["id"], row["id"])
        usable = row["revoked_at"] is None and (row["expires_at"] is None or now < row["expires_at"])
        role = Role(row["role"])
        if row["user_id"] is not None:
            # Whoever left the account left its keys.
            usable = usable and row["member_role"] is not None and row["disabled_at"] is None
            role = lower(role, Role(row["member_role"] or role))
        principal = Principal(
            account=owner,
            api_key=ApiKeyId(row["id"]),
            preference=preference,
            lane=Lane(row["lane"]),
            user=None if row["user_id"] is None else UserId(row["user_id"]),
            role=role,
            scopes=None if row["scopes"] is None else known_permissions(row["scopes"]),
            # A key for a program should not run the broker only because its owner does.
            is_operator=bool(row["is_operator"]) and Permission.OPERATE.value in (row["scopes"] or ()),
            models=_names(row["models"]),
            providers=_names(row["providers"]),
            allowances=allowances_of(
                row,
                (Scope.KEY, counted_as, row["limits"]),
                (Scope.USER, row["user_id"], row["member_limits"]),
            ),
            credentials=credentials,
            counted_as=None if counted_as == row["id"] else ApiKeyId(counted_as),
        )
        holders.append(Holder(row["digest"], principal, row["expires_at"], usable))
    return holders


def known_permissions(words: Iterable[str]) -> frozenset[Permission]:
    """Of stored words; those that only a later release knows allow nothing here."""
    known = frozenset(Permission)
    return frozenset(Permission(word) for word in words if word in known)


def allowances_of(
    row: dict[str, Any], *narrower: tuple[Scope, str | None, dict[str, int] | None]
) -> tuple[Allowance, ...]:
    """Those that limit anything. `row` has `account_id`, `tier` and `account_limits`."""
    of_account = Allowance(
        Scope.ACCOUNT, row["account_id"], Limits.from_fields(row["account_limits"]), Tier(row["tier"])
    )
    all_of_them = [
        *(Allowance(scope, name, Limits.from_fields(limits)) for scope, name, limits in narrower if name),
        of_account,
    ]
    return tuple(allowance for allowance in all_of_them if not allowance.is_unlimited)


def _names(stored: list[str] | None) -> tuple[str, ...] | None:
    return None if stored is None else tuple(stored)


async def _shared(connection: AsyncConnection, owner: AccountId) -> _Shared:
    """What all keys of an account have in common: its preference, and its newest credential of each
    provider.
    """
    stored = await preferences.find(connection, owner)
    rows = await connection.execute(
        select(provider_credential.c.provider, provider_credential.c.id)
        .where(provider_credential.c.account_id == owner, provider_credential.c.revoked_at.is_(None))
        .order_by(provider_credential.c.created_at, provider_credential.c.id)
    )
    newest = {row.provider: CredentialId(row.id) for row in rows}
    return None if stored is None else stored.preference, tuple(sorted(newest.items()))
