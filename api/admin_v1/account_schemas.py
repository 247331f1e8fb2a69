"""What the operators' routes of accounts and users take and answer."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final, Literal, Required, Self

from pydantic import BaseModel, ConfigDict, StringConstraints, with_config
from typing_extensions import TypedDict

from api.account_v1.api_key_schemas import RoleName
from api.account_v1.auth_schemas import DisplayName, Email, Password
from api.account_v1.limits_schemas import LimitsIn, LimitsView
from shared.db.repositories.accounts import AccountRecord
from shared.db.repositories.users import UserRecord
from shared.domain.allowance import Tier

_STRICT: Final = ConfigDict(extra="forbid", strict=True)
AccountName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
TierName = Literal["standard", "paid", "unlimited"]


@with_config(_STRICT)
class AccountIn(TypedDict, total=False):
    """`id`: made up where it is missing. `tier`: standard where it is missing."""

    id: AccountName
    name: Required[DisplayName]
    tier: TierName
    limits: LimitsIn | None


@with_config(_STRICT)
class AccountChange(TypedDict, total=False):
    """What is missing stays. `limits` take the place of those before; null takes them away."""

    name: DisplayName
    tier: TierName
    limits: LimitsIn | None


class AccountView(BaseModel):
    id: str
    name: str
    tier: Tier
    limits: LimitsView
    created_at: datetime

    @classmethod
    def of(cls, record: AccountRecord) -> Self:
        return cls(
            id=record.id,
            name=record.name,
            tier=record.tier,
            limits=LimitsView.of(record.limits),
            created_at=record.created_at,
        )


class AccountPage(BaseModel):
    data: list[AccountView]
    next_cursor: str | None


@with_config(_STRICT)
class UserIn(TypedDict, total=False):
    """`account`: one that is there; without it the user gets one of its own. `role`: in that account."""

    email: Required[Email]
    name: Required[DisplayName]
    password: Required[Password]
    account: AccountName
    role: RoleName
    operator: bool


@with_config(_STRICT)
class UserChange(TypedDict, total=False):
    """What is missing stays. A new password, like `disabled`, ends all sessions of the user."""

    name: DisplayName
    password: Password
    disabled: bool
    operator: bool


class AdminUserView(BaseModel):
    """`accounts`: those it is a member of."""

    id: str
    email: str
    name: str
    operator: bool
    disabled_at: datetime | None
    created_at: datetime
    accounts: list[str]

    @classmethod
    def of(cls, record: UserRecord, accounts: list[str]) -> Self:
        return cls(
            id=record.id,
            email=record.email,
            name=record.name,
            operator=record.is_operator,
            disabled_at=record.disabled_at,
            created_at=record.created_at,
            accounts=accounts,
        )


class AdminUserPage(BaseModel):
    data: list[AdminUserView]
    next_cursor: str | None
