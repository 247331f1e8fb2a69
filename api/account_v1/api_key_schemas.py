"""What the routes of API keys take and answer."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any, Final, Literal, Required

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, with_config
from typing_extensions import TypedDict

from api.account_v1.auth_schemas import DisplayName
from api.account_v1.limits_schemas import LimitsIn, LimitsView
from api.moments import in_utc
from api.unified_v1.schemas import Provider
from shared.db.repositories.api_keys import ApiKeyRecord
from shared.domain.job import Lane
from shared.domain.roles import Permission, Role
from shared.requests.checking import fault

_STRICT: Final = ConfigDict(extra="forbid", strict=True)
_MOST: Final = timedelta(days=36_500)
RoleName = Literal["admin", "member", "viewer", "service"]
LaneName = Literal["interactive", "standard", "batch"]
ScopeName = Literal[
    "inference",
    "models:read",
    "usage:read",
    "preferences:write",
    "conversations",
    "files",
    "api-keys:own",
    "api-keys:all",
    "credentials:read",
    "credentials:write",
    "webhooks",
    "members:read",
    "members:write",
    "audit:read",
    "operate",
]
ModelPattern = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[\x21-\x7e]+$")]
Moment = Annotated[str, StringConstraints(min_length=10, max_length=40)]
MAX_GRACE_SECONDS: Final = 30 * 86_400


@with_config(_STRICT)
class ApiKeyIn(TypedDict, total=False):
    """What is missing is as it is of the credential that asks; `role`: service. `models`: `provider/model` or
    bare, `*` at the end standing for any rest. `owner`: `account` for a key that outlives its creator's
    membership.
    """

    name: Required[DisplayName]
    role: RoleName
    scopes: Annotated[list[ScopeName], Field(min_length=1, max_length=32)] | None
    models: Annotated[list[ModelPattern], Field(min_length=1, max_length=200)] | None
    providers: Annotated[list[Provider], Field(min_length=1, max_length=100)] | None
    limits: LimitsIn | None
    priority: LaneName
    expires_at: Moment | None
    owner: Literal["me", "account"]


@with_config(_STRICT)
class RotationIn(TypedDict, total=False):
    """`grace_seconds`: how long the old key is still good."""

    grace_seconds: Annotated[int, Field(ge=0, le=MAX_GRACE_SECONDS)]
    expires_at: Moment | None


class ApiKeyView(BaseModel):
    """`user`: null of the account's own. `scopes`, `models`, `providers`: null allows all."""

    id: str
    name: str
    prefix: str
    last4: str
    state: Literal["active", "expired", "revoked"]
    user: str | None
    role: Role
    scopes: list[str] | None
    models: list[str] | None
    providers: list[str] | None
    limits: LimitsView
    priority: Lane
    created_at: datetime
    created_by: str | None
    expires_at: datetime | None
    revoked_at: datetime | None
    rotated_from: str | None


class ApiKeyCreated(ApiKeyView):
    """`key`: shown this once; nothing stored gives it back."""

    key: str


class ApiKeyPage(BaseModel):
    data: list[ApiKeyView]
    next_cursor: str | None


def view_fields(record: ApiKeyRecord, now: datetime) -> dict[str, Any]:
    state = "active" if record.is_usable(now) else "expired"
    return {
        "id": record.id,
        "name": record.name,
        "prefix": record.prefix,
        "last4": record.last4,
        "state": state if record.revoked_at is None else "revoked",
        "user": record.user_id,
        "role": record.role,
        "scopes": record.scopes,
        "models": record.models,
        "providers": record.providers,
        "limits": LimitsView.of(record.limits),
        "priority": record.lane,
        "created_at": record.created_at,
        "created_by": record.created_by,
        "expires_at": record.expires_at,
        "revoked_at": record.revoked_at,
        "rotated_from": record.rotated_from,
    }


def scopes_of(document: dict[str, Any]) -> frozenset[Permission] | None:
    named = document.get("scopes")
    return None if named is None else frozenset(map(Permission, named))


def future(document: dict[str, Any], now: datetime) -> datetime | None:
    """`expires_at`. Raises InvalidRequest."""
    text = document.get("expires_at")
    if text is None:
        return None
    try:
        moment = in_utc(datetime.fromisoformat(text))
    except ValueError:
        raise fault("expires_at", "must be a time as RFC 3339 has it, such as 2027-01-31T12:00:00Z") from None
    if not now < moment <= now + _MOST:
        raise fault("expires_at", "must be in the future, and not a century away")
    return moment
