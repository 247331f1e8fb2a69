"""The first operator, of HEADRACE_ADMIN_EMAIL and HEADRACE_ADMIN_PASSWORD: so that there is one at all."""

from __future__ import annotations

from datetime import datetime
from enum import Enum
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from shared.auth.passwords import Passwords
from shared.auth.people import create_user
from shared.auth.sessions import normal_email
from shared.db.engine import writing
from shared.db.repositories import accounts, audit, users
from shared.db.repositories.users import EmailTaken
from shared.domain.roles import Role
from shared.ids import AccountId

ACCOUNT: Final = AccountId("default")
"""Where the key of `headrace up` is, too."""


class FirstOperator(Enum):
    MADE = "made"
    NOT_NEEDED = "there is one already"
    EMAIL_TAKEN = "the email is of a user who is none"


async def make_first_operator(
    database: AsyncEngine, passwords: Passwords, email: str, password: str, *, now: datetime
) -> FirstOperator:
    """Where there is an operator already, nothing is changed, whatever the settings say.

    Nor is a user who registered with this email made one: it may be anybody, as emails are not
    verified. Raises InvalidRequest for an email or a password that cannot be one, and what the
    database does.
    """
    normal = normal_email(email)
    async with database.connect() as connection:
        if await users.there_is_an_operator(connection):
            return FirstOperator.NOT_NEEDED
    hashed = await passwords.hash(password)
    try:
        async with writing(database) as connection:
            await accounts.ensure(connection, ACCOUNT, name=ACCOUNT, at=now)
            record, _ = await create_user(
                connection,
                normal,
                "Operator",
                hashed,
                now=now,
                account=ACCOUNT,
                role=Role.ADMIN,
                operator=True,
            )
            await audit.record(
                connection,
                at=now,
                account=ACCOUNT,
                actor="settings",
                act="user.created",
                object_id=record.id,
                details={"operator": True},
            )
    except EmailTaken:
        # Another process at the same time, or somebody else long ago.
        async with database.connect() as connection:
            made = await users.there_is_an_operator(connection)
        return FirstOperator.NOT_NEEDED if made else FirstOperator.EMAIL_TAKEN
    return FirstOperator.MADE
