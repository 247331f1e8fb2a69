"""`/api/v1/admin/users`: all people, for operators."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Request
from pydantic import TypeAdapter

from api.account_v1.members import USER_ID
from api.admin_v1.account_schemas import AdminUserPage, AdminUserView, UserChange, UserIn
from api.admin_v1.accounts import Cursor, Limit, Operator, body, document_of, errors
from api.audit import audited
from api.database import within_reach
from api.deps import broker_of
from shared.auth.announcement import tell
from shared.auth.people import change_user, create_user
from shared.auth.sessions import normal_email
from shared.clock import SystemClock
from shared.db.engine import writing
from shared.db.repositories import memberships, users
from shared.domain.roles import Role
from shared.errors import Conflict, NotFound
from shared.ids import AccountId, UserId
from shared.requests.checking import fault

router: Final = APIRouter(prefix="/api/v1/admin/users", tags=["Admin"])

_USER: Final = TypeAdapter(UserIn)
_CHANGE: Final = TypeAdapter(UserChange)


class NotOneself(Conflict):
    code = "not_oneself"

    def __init__(self) -> None:
        super().__init__("Operators do not disable or demote themselves: another one has to.")


@router.get("", summary="List users", responses=errors(422))
async def list_users(
    request: Request, _: Operator, limit: Limit = 100, cursor: Cursor = None
) -> AdminUserPage:
    """By id."""
    async with within_reach("Users"), broker_of(request).engine.connect() as connection:
        found = await users.list_for_operator(connection, after=cursor or "", limit=limit + 1)
        page = found[:limit]
        its = await memberships.accounts_of_all(connection, [record.id for record in page])
    return AdminUserPage(
        data=[AdminUserView.of(record, list(its.get(record.id, ()))) for record in page],
        next_cursor=page[-1].id if len(found) > limit else None,
    )


@router.get("/{user_id}", summary="Show a user", responses=errors(404))
async def show(request: Request, user_id: str, _: Operator) -> AdminUserView:
    wanted = _id(user_id)
    async with within_reach("Users"), broker_of(request).engine.connect() as connection:
        found = await users.find(connection, wanted)
        if found is None:
            raise _unknown()
        its = await memberships.accounts_of(connection, wanted)
    return AdminUserView.of(found, list(its))


@router.post(
    "",
    summary="Make a user",
    status_code=201,
    responses=errors(400, 404, 409, 413, 415, 422, 429),
    openapi_extra=body(
        {
            "email": "grace@example.com",
            "name": "Grace",
            "password": "correct horse battery staple",
            "account": "acme",
            "role": "member",
        }
    ),
)
async def create(request: Request, operator: Operator) -> AdminUserView:
    """Also where registration is closed."""
    document = await document_of(request, _USER)
    via, email = broker_of(request), normal_email(document["email"])
    account = AccountId(document["account"]) if "account" in document else None
    role = Role(document.get("role", Role.ADMIN if account is None else Role.MEMBER))
    hashed = await via.passwords.hash(document["password"])
    is_operator = document.get("operator", False)
    async with within_reach("Users"), writing(via.engine) as connection:
        record, account = await create_user(
            connection,
            email,
            document["name"],
            hashed,
            now=SystemClock().now(),
            account=account,
            role=role,
            operator=is_operator,
        )
        await audited(
            connection,
            request,
            operator,
            "user.created",
            record.id,
            account=account,
            role=role,
            operator=is_operator,
        )
    return AdminUserView.of(record, [account])


@router.patch(
    "/{user_id}",
    summary="Disable a user, make it an operator, give it a new password",
    responses=errors(400, 404, 409, 413, 415, 422, 429),
    openapi_extra=body({"disabled": True}),
)
async def change(request: Request, user_id: str, operator: Operator) -> AdminUserView:
    """Holds within seconds, in every process and for the user's keys as well."""
    wanted = _id(user_id)
    document = await document_of(request, _CHANGE)
    if not document:
        raise fault("disabled", "or name, password or operator must be there")
    disabled, is_operator = document.get("disabled"), document.get("operator")
    if wanted == operator and (disabled or is_operator is False):
        raise NotOneself
    via, password = broker_of(request), document.get("password")
    hashed = None if password is None else await via.passwords.hash(password)
    async with within_reach("Users"):
        async with writing(via.engine) as connection:
            record = await change_user(
                connection,
                wanted,
                now=SystemClock().now(),
                name=document.get("name"),
                password_hash=hashed,
                disabled=disabled,
                operator=is_operator,
            )
            its = await memberships.accounts_of(connection, wanted)
            await audited(
                connection,
                request,
                operator,
                "user.changed",
                wanted,
                disabled=disabled,
                operator=is_operator,
                new_password=password is not None,
            )
        await tell(via.engine, via.link, its, clock=SystemClock(), settings=via.settings.auth)
    return AdminUserView.of(record, list(its))


def _id(text: str) -> UserId:
    """Raises NotFound for what is none."""
    if not USER_ID.match(text):
        raise _unknown()
    return UserId(text)


def _unknown() -> NotFound:
    return NotFound("There is no such user.")
