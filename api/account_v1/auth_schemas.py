"""What the routes of registering and logging in take and answer."""

from __future__ import annotations

from typing import Annotated, Required

from pydantic import BaseModel, ConfigDict, StringConstraints, with_config
from typing_extensions import TypedDict

from shared.domain.roles import Permission, Role

_STRICT = ConfigDict(extra="forbid", strict=True)
Email = Annotated[str, StringConstraints(min_length=3, max_length=320)]
Password = Annotated[str, StringConstraints(max_length=100_000)]
"""Its length is judged where it is hashed, in the same way for everybody."""
DisplayName = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
AccountName = Annotated[str, StringConstraints(min_length=1, max_length=128)]
Token = Annotated[str, StringConstraints(min_length=1, max_length=4096)]


@with_config(_STRICT)
class Registration(TypedDict, total=False):
    email: Required[Email]
    password: Required[Password]
    name: Required[DisplayName]


@with_config(_STRICT)
class Login(TypedDict, total=False):
    """`account`: which one of the user's; the first one by default."""

    email: Required[Email]
    password: Required[Password]
    account: AccountName | None


@with_config(_STRICT)
class Refresh(TypedDict, total=False):
    refreshToken: Token


@with_config(_STRICT)
class Logout(TypedDict, total=False):
    everywhere: bool


@with_config(_STRICT)
class PasswordChange(TypedDict, total=False):
    password: Required[Password]
    newPassword: Required[Password]


class UserView(BaseModel):
    id: str
    email: str
    name: str


class SessionView(BaseModel):
    """`token` goes into `Authorization: Bearer`; `refreshToken` gets the next one of both, once."""

    token: str
    expiresIn: str  # noqa: N815 - the name that callers know
    refreshToken: str  # noqa: N815 - as above
    account: str


class RegisteredView(SessionView):
    user: UserView


class Me(BaseModel):
    """Who the credential of this request stands for, and what it allows."""

    account: str
    user: UserView | None
    credential: str
    role: Role
    operator: bool
    permissions: list[Permission]
    models: list[str] | None
    providers: list[str] | None
