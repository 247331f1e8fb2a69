"""What the routes of an account's members take and answer."""

from __future__ import annotations

from datetime import datetime
from typing import Final, Required, Self

from pydantic import BaseModel, ConfigDict, with_config
from typing_extensions import TypedDict

from api.account_v1.api_key_schemas import RoleName
from api.account_v1.auth_schemas import Email, UserView
from api.account_v1.limits_schemas import LimitsIn, LimitsView
from shared.db.repositories.memberships import Member
from shared.domain.roles import Role

_STRICT: Final = ConfigDict(extra="forbid", strict=True)


@with_config(_STRICT)
class MemberIn(TypedDict, total=False):
    email: Required[Email]
    role: Required[RoleName]
    limits: LimitsIn | None


@with_config(_STRICT)
class MemberChange(TypedDict, total=False):
    """What is missing stays. `limits` take the place of those before; null takes them away."""

    role: RoleName
    limits: LimitsIn | None


class MemberView(BaseModel):
    """`disabled`: by whoever runs the broker; everywhere, not only here."""

    user: UserView
    role: Role
    limits: LimitsView
    disabled: bool
    created_at: datetime

    @classmethod
    def of(cls, member: Member) -> Self:
        return cls(
            user=UserView(id=member.user_id, email=member.email, name=member.name),
            role=member.role,
            limits=LimitsView.of(member.limits),
            disabled=member.disabled_at is not None,
            created_at=member.created_at,
        )


class MemberList(BaseModel):
    data: list[MemberView]
