"""Who may do what, as data. What a role is not given here it may not do.

An account has members; each has one role in it. A key acts as its own role, no higher than
its creator's, and its scopes narrow that down further. An operator runs the broker: what is
not of one account, only an operator may do.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class Role(StrEnum):
    ADMIN = "admin"
    """Everything of the account: members, keys, limits."""
    MEMBER = "member"
    """Works with models, and manages its own keys."""
    VIEWER = "viewer"
    """Reads what was used, and spends nothing."""
    SERVICE = "service"
    """A program: works with models, and manages nothing."""


class Permission(StrEnum):
    """One kind of act. Also the words that a key's scopes are made of."""

    INFERENCE = "inference"
    """Submit jobs; read and stop those of the account."""
    MODELS_READ = "models:read"
    USAGE_READ = "usage:read"
    PREFERENCES_WRITE = "preferences:write"
    CONVERSATIONS = "conversations"
    """Keep, list and delete one's own conversations."""
    FILES = "files"
    """Upload, read and delete files of the account."""
    API_KEYS_OWN = "api-keys:own"
    """Create, list and revoke one's own keys."""
    API_KEYS_ALL = "api-keys:all"
    CREDENTIALS_READ = "credentials:read"
    CREDENTIALS_WRITE = "credentials:write"
    WEBHOOKS = "webhooks"
    """Name URLs that events are sent to, read what was sent there and the secrets that sign it."""
    MEMBERS_READ = "members:read"
    MEMBERS_WRITE = "members:write"
    AUDIT_READ = "audit:read"
    OPERATE = "operate"
    """Of the broker, not of an account: no role has it, only operators do."""


_VIEWER: Final = frozenset({Permission.MODELS_READ, Permission.USAGE_READ})
_SERVICE: Final = _VIEWER | {
    Permission.INFERENCE,
    Permission.CONVERSATIONS,
    Permission.FILES,
    Permission.PREFERENCES_WRITE,
}
_MEMBER: Final = _SERVICE | {
    Permission.API_KEYS_OWN,
    Permission.CREDENTIALS_READ,
    Permission.MEMBERS_READ,
    Permission.WEBHOOKS,
}
_ADMIN: Final = frozenset(Permission) - {Permission.OPERATE}

PERMISSIONS: Final[Mapping[Role, frozenset[Permission]]] = {
    Role.ADMIN: _ADMIN,
    Role.MEMBER: _MEMBER,
    Role.VIEWER: _VIEWER,
    Role.SERVICE: _SERVICE,
}


def lower(one: Role, other: Role) -> Role:
    """The one that may do less. Roles are nested, so there is one."""
    return one if PERMISSIONS[one] <= PERMISSIONS[other] else other
