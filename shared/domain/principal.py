"""Who calls: taken from the credential, never from the request."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from shared.domain.allowance import Allowance
from shared.domain.job import FallbackOn, Lane
from shared.domain.roles import PERMISSIONS, Permission, Role
from shared.ids import AccountId, ApiKeyId, CredentialId, UserId


@dataclass(frozen=True, slots=True)
class Preference:
    """What an account wants where a request leaves the model to it.

    model: a name that a request could have written; fallback_models: what to go on to
    """

    model: str
    fallback_models: tuple[str, ...] = ()
    fallback_on: frozenset[FallbackOn] = frozenset()


_FAILURES: Final = frozenset(FallbackOn)


def known_failures(words: Iterable[str]) -> frozenset[FallbackOn]:
    """Of stored words; those that only a later release knows are left out."""
    return frozenset(FallbackOn(word) for word in words if word in _FAILURES)


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls, for which account, and what that allows.

    api_key: what was shown: a key, or the id of a user whose session it is
    lane: the highest its jobs may be in
    user: whose key or session it is; None of an account's own key
    scopes: to what its role is narrowed down; None leaves all of it
    is_operator: runs the broker, so that it may do what is of no account
    models, providers: the only ones it may use; None allows all. A model is named as
        `provider/model` or bare, `*` at the end standing for any rest
    allowances: those that limit anything
    credentials: the account's own credential by provider, in place of the broker's
    counted_as: the first of the keys whose place this one took, under which its use is counted
    """

    account: AccountId
    api_key: ApiKeyId
    preference: Preference | None = None
    lane: Lane = Lane.INTERACTIVE
    user: UserId | None = None
    role: Role = Role.SERVICE
    scopes: frozenset[Permission] | None = None
    is_operator: bool = False
    models: tuple[str, ...] | None = None
    providers: tuple[str, ...] | None = None
    allowances: tuple[Allowance, ...] = ()
    credentials: tuple[tuple[str, CredentialId], ...] = ()
    counted_as: ApiKeyId | None = None

    def may(self, permission: Permission) -> bool:
        """Deny by default: the role has it, and the scopes, where there are any, leave it."""
        if self.scopes is not None and permission not in self.scopes:
            return False
        if permission is Permission.OPERATE:
            return self.is_operator
        return permission in PERMISSIONS[self.role]

    def may_use(self, provider: str, model: str) -> bool:
        if self.providers is not None and provider not in self.providers:
            return False
        if self.models is None:
            return True
        names = (model, f"{provider}/{model}")
        return any(
            any(name.startswith(allowed[:-1]) for name in names)
            if allowed.endswith("*")
            else allowed in names
            for allowed in self.models
        )
