"""`/api/v1/members`: the people of an account, their roles and their limits."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from fastapi import APIRouter, Request
from pydantic import TypeAdapter
from sqlalchemy.ext.asyncio import AsyncConnection

from api.account_v1.limits_schemas import limits_from
from api.account_v1.member_schemas import MemberChange, MemberIn, MemberList, MemberView
from api.audit import audited
from api.client_address import client_address
from api.database import within_reach
from api.deps import Broker, authenticate, broker_of
from api.posted import posted
from api.unified_v1.schemas import ErrorAnswer
from shared.auth.announcement import tell
from shared.clock import SystemClock
from shared.db.engine import writing
from shared.db.repositories import accounts, memberships, users
from shared.domain.grants import require_may_give_role
from shared.domain.principal import Principal
from shared.domain.roles import Permission, Role
from shared.errors import Conflict, NotFound
from shared.ids import UserId
from shared.requests.checking import check, fault

router: Final = APIRouter(prefix="/api/v1/members", tags=["Members"])

MAX_MEMBERS: Final = 1000
USER_ID: Final = re.compile(r"usr_[0-9a-f]{24}\Z")
_MEMBER: Final = TypeAdapter(MemberIn)
_CHANGE: Final = TypeAdapter(MemberChange)


class AlreadyMember(Conflict):
    code = "already_member"

    def __init__(self) -> None:
        super().__init__("This user is a member already.", param="email")


class TooManyMembers(Conflict):
    code = "too_many_members"

    def __init__(self) -> None:
        super().__init__(f"An account has at most {MAX_MEMBERS} members.")


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {s: {"model": ErrorAnswer} for s in (401, 403, *statuses, 503)}


def _body(example: dict[str, Any]) -> dict[str, Any]:
    content = {"application/json": {"schema": {"type": "object"}, "example": example}}
    return {"requestBody": {"required": True, "content": content}}


@router.get("", summary="List members", responses=_errors())
async def list_members(request: Request) -> MemberList:
    """Who was here first comes first."""
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.MEMBERS_READ)
    async with within_reach("Members"), via.engine.connect() as connection:
        found = await memberships.list_of(connection, principal.account)
    return MemberList(data=[MemberView.of(member) for member in found])


@router.get("/{user_id}", summary="Show a member", responses=_errors(404))
async def show(request: Request, user_id: str) -> MemberView:
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.MEMBERS_READ)
    async with within_reach("Members"), via.engine.connect() as connection:
        return MemberView.of(await _member(principal, _id(user_id), connection))


@router.post(
    "",
    summary="Add a member",
    status_code=201,
    responses=_errors(400, 404, 409, 413, 415, 422, 429),
    openapi_extra=_body({"email": "grace@example.com", "role": "member", "limits": {"daily_requests": 500}}),
)
async def add(request: Request) -> MemberView:
    """Of somebody who has registered. As this tells who has, it is limited as logins are."""
    asked = await posted(request, permission=Permission.MEMBERS_WRITE)
    via, document, principal = asked.via, asked.document, asked.principal
    check(_MEMBER, document)
    role, limits = Role(document["role"]), limits_from(document.get("limits"))
    require_may_give_role(principal, role)
    await via.login_limits.require(client_address(request.scope, via.settings.api.trusted_proxies))
    now = SystemClock().now()
    async with _changing(principal, via) as connection:
        found = await users.find_by_email(connection, document["email"].strip())
        if found is None:
            raise NotFound("There is no user with this email: they must register first.", param="email")
        if await memberships.find(connection, principal.account, found.id) is not None:
            raise AlreadyMember
        if await memberships.count(connection, principal.account) >= MAX_MEMBERS:
            raise TooManyMembers
        await memberships.add(connection, principal.account, found.id, role, at=now, limits=limits)
        await audited(connection, request, principal, "member.added", found.id, role=role)
        member = await _member(principal, found.id, connection)
    return MemberView.of(member)


@router.patch(
    "/{user_id}",
    summary="Change a member's role or limits",
    responses=_errors(400, 404, 409, 413, 415, 422),
    openapi_extra=_body({"role": "viewer"}),
)
async def change(request: Request, user_id: str) -> MemberView:
    """Of its sessions and keys too, within seconds. An account is never left without an admin."""
    asked = await posted(request, permission=Permission.MEMBERS_WRITE)
    via, document, principal = asked.via, asked.document, asked.principal
    check(_CHANGE, document)
    if not document:
        raise fault("role", "or limits must be there")
    role = Role(document["role"]) if "role" in document else None
    limits = limits_from(document["limits"]) if "limits" in document else None
    if role is not None:
        require_may_give_role(principal, role)
    wanted = _id(user_id)
    async with _changing(principal, via) as connection:
        if not await memberships.change(connection, principal.account, wanted, role=role, limits=limits):
            raise _unknown()
        await memberships.require_an_admin(connection, principal.account)
        await audited(
            connection,
            request,
            principal,
            "member.changed",
            wanted,
            role=role,
            limits=None if limits is None else limits.to_fields(),
        )
        member = await _member(principal, wanted, connection)
    return MemberView.of(member)


@router.delete("/{user_id}", summary="Remove a member", status_code=204, responses=_errors(404, 409))
async def remove(request: Request, user_id: str) -> None:
    """Its sessions and its keys in this account are dead within seconds. The user stays."""
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.MEMBERS_WRITE)
    wanted = _id(user_id)
    async with _changing(principal, via, left=(wanted,)) as connection:
        # Told in any case, so that asking again helps where processes could not be told.
        removed = await memberships.remove(connection, principal.account, wanted)
        if removed:
            await memberships.require_an_admin(connection, principal.account)
            await audited(connection, request, principal, "member.removed", wanted)
    if not removed:
        raise _unknown()


@asynccontextmanager
async def _changing(
    principal: Principal, via: Broker, *, left: tuple[UserId, ...] = ()
) -> AsyncIterator[AsyncConnection]:
    """One transaction at a time over the account's members; what became of it is told to all processes."""
    async with within_reach("Members"):
        async with writing(via.engine) as connection:
            await accounts.hold(connection, principal.account)
            yield connection
        await tell(
            via.engine,
            via.link,
            [principal.account],
            clock=SystemClock(),
            settings=via.settings.auth,
            left=left,
        )


async def _member(principal: Principal, user_id: UserId, connection: AsyncConnection) -> memberships.Member:
    """Raises NotFound."""
    found = await memberships.find(connection, principal.account, user_id)
    if found is None:
        raise _unknown()
    return found


def _id(text: str) -> UserId:
    """Raises NotFound for what is none."""
    if not USER_ID.match(text):
        raise _unknown()
    return UserId(text)


def _unknown() -> NotFound:
    return NotFound("There is no such member.")
