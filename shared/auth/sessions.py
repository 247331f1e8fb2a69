"""Logging in: from a password to a session, and on from there without it.

    register, login ──> Session: an access token, for minutes, and a refresh token, for weeks
    refresh  ──> the next of both; a refresh token is good once
    logout   ──> the session is over, everywhere, within seconds

A refresh token that is used again is two people's: its whole family is revoked. Save where the
same client repeats itself within a moment, for it may not have heard the answer. The successor
is derived from the token under a secret, so that it can be told again and nothing readable is
stored. Source: RFC 9700, 4.14.2 (refresh token rotation).
"""

from __future__ import annotations

import hmac
import os
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from shared.auth.access_tokens import AccessTokens, Claims
from shared.auth.passwords import Passwords
from shared.auth.people import create_user
from shared.clock import Clock, SystemClock
from shared.db.engine import writing
from shared.db.repositories import audit, memberships, refresh_tokens, users
from shared.db.repositories.refresh_tokens import RefreshTokenRecord
from shared.db.repositories.users import UserRecord
from shared.errors import AuthenticationFailed, InvalidRequest
from shared.ids import AccountId, UserId
from shared.settings import AccountSettings

_REFRESH: Final = re.compile(r"rt_[0-9a-f]{64}\Z")
_EMAIL: Final = re.compile(r"[^@\s\x00-\x1f\x7f]{1,64}@[A-Za-z0-9.-]{1,189}\.[A-Za-z0-9-]{2,63}\Z")
_LOGIN_REFUSED: Final = "The email or the password is wrong."
_REFRESH_REFUSED: Final = "The refresh token is wrong, expired or was used before."


@dataclass(frozen=True, slots=True)
class Session:
    """`user` as it was when the session began or was renewed."""

    user: UserRecord
    account: AccountId
    access_token: str
    refresh_token: str


@dataclass(frozen=True, slots=True)
class Client:
    """Who asks. `fingerprint`: the same for the same client, 64 characters at most."""

    fingerprint: str = ""
    address: str | None = None
    request_id: str | None = None


class RefreshTokenReused(AuthenticationFailed):
    """Two people have it. Its access tokens are still to be ended, by `session_end.end`."""

    def __init__(self, session: str, user: UserId) -> None:
        super().__init__(_REFRESH_REFUSED)
        self.session = session
        self.user = user


def normal_email(email: str) -> str:
    """In lower case. Raises InvalidRequest for what is no address."""
    normal = email.strip().lower()
    if not _EMAIL.match(normal) or not normal.isprintable():
        raise InvalidRequest("email: must be an email address", param="email")
    return normal


class Sessions:
    """One a process. `pepper`: the secret under which refresh tokens are digested and derived."""

    def __init__(
        self,
        database: AsyncEngine,
        tokens: AccessTokens,
        passwords: Passwords,
        *,
        pepper: bytes,
        settings: AccountSettings,
        clock: Clock | None = None,
    ) -> None:
        self._database = database
        self._tokens = tokens
        self._passwords = passwords
        self._pepper = pepper
        self._settings = settings
        self._clock = clock or SystemClock()

    @property
    def life(self) -> timedelta:
        """Of an access token."""
        return self._tokens.life

    async def register(self, email: str, password: str, name: str, client: Client) -> Session:
        """A user with an account of its own. Raises EmailTaken, InvalidRequest or TooManyRequests."""
        normal = normal_email(email)
        hashed = await self._passwords.hash(password)
        now = self._clock.now()
        async with writing(self._database) as connection:
            record, account = await create_user(connection, normal, name, hashed, now=now)
            await self._audit(connection, client, account, record.id, "user.registered", record.id)
            return await self._begin(connection, record, account, now)

    async def login(
        self, email: str, password: str, client: Client, *, account: AccountId | None = None
    ) -> Session:
        """`account`: one of the user's; the first one by default.

        Raises AuthenticationFailed, in the same words and after the same work whatever is wrong,
        or TooManyRequests.
        """
        try:
            normal = normal_email(email)
        except InvalidRequest:
            normal = ""  # nobody's, and it takes as long
        async with self._database.connect() as connection:
            found = await users.find_by_email(connection, normal)
        usable = found is not None and found.disabled_at is None
        stored = found.password_hash if found is not None and usable else None
        if not await self._passwords.verify(password, stored) or found is None or stored is None:
            raise AuthenticationFailed(_LOGIN_REFUSED)
        now = self._clock.now()
        newer = await self._passwords.hash(password) if self._passwords.is_outdated(stored) else None
        async with writing(self._database) as connection:
            its = await memberships.accounts_of(connection, found.id)
            if not its or (account is not None and account not in its):
                raise AuthenticationFailed(_LOGIN_REFUSED)
            if newer is not None:
                await users.change(connection, found.id, password_hash=newer)
            into = account or its[0]
            await self._audit(connection, client, into, found.id, "user.logged-in", found.id)
            return await self._begin(connection, found, into, now)

    async def refresh(self, token: str, client: Client) -> Session:
        """The next session tokens. Raises AuthenticationFailed, or RefreshTokenReused, which is one."""
        if not _REFRESH.match(token):
            raise AuthenticationFailed(_REFRESH_REFUSED)
        digest, now = self._digest(token), self._clock.now()
        session: Session | None = None
        async with writing(self._database) as connection:
            known = await refresh_tokens.find(connection, digest)
            if known is None:
                raise AuthenticationFailed(_REFRESH_REFUSED)
            # What ends sessions takes this lock too: none may begin that it does not see.
            await users.lock(connection, known.user_id)
            used = await refresh_tokens.use(connection, digest, now=now, by=client.fingerprint)
            stolen = None
            if used is None:
                used, stolen = await self._repeated(connection, digest, client, now)
            if used is not None:
                session = await self._next(connection, used, token, now)
        # Out of the transaction: a theft that was noticed stays noticed.
        if stolen is not None:
            raise RefreshTokenReused(stolen.family, stolen.user_id)
        if session is None:
            raise AuthenticationFailed(_REFRESH_REFUSED)
        return session

    async def logout(self, claims: Claims, client: Client, *, everywhere: bool = False) -> None:
        """Ends the family of refresh tokens; `everywhere`: those of all sessions of the user.

        Access tokens are ended by `session_end.end`, which tells every process.
        """
        now = self._clock.now()
        async with writing(self._database) as connection:
            await users.lock(connection, claims.user)
            if everywhere:
                await users.end_sessions(connection, claims.user)
                await refresh_tokens.revoke_of_user(connection, claims.user, at=now)
            else:
                await refresh_tokens.revoke_family(connection, claims.session, at=now)
            await self._audit(connection, client, claims.account, claims.user, "user.logged-out", claims.user)

    async def change_password(self, claims: Claims, old: str, new: str, client: Client) -> Session:
        """Ends every session, and begins one. Raises AuthenticationFailed, InvalidRequest, TooManyRequests.

        Access tokens are ended by `session_end.end_all`.
        """
        async with self._database.connect() as connection:
            found = await users.find(connection, claims.user)
        if found is None or not await self._passwords.verify(old, found.password_hash):
            raise AuthenticationFailed(_LOGIN_REFUSED)
        hashed, now = await self._passwords.hash(new), self._clock.now()
        async with writing(self._database) as connection:
            await users.lock(connection, found.id)
            await users.change(connection, found.id, password_hash=hashed)
            await users.end_sessions(connection, found.id)
            await refresh_tokens.revoke_of_user(connection, found.id, at=now)
            anew = await users.find(connection, found.id)
            await self._audit(connection, client, claims.account, found.id, "user.password-changed", found.id)
            return await self._begin(connection, anew or found, claims.account, now)

    async def _begin(
        self, connection: AsyncConnection, user: UserRecord, account: AccountId, now: datetime
    ) -> Session:
        family = "ses_" + os.urandom(12).hex()
        token = "rt_" + os.urandom(32).hex()
        await self._store(connection, token, family, user.id, account, now)
        access = self._tokens.issue(user.id, account, user.token_version, session=family)
        return Session(user, account, access, token)

    async def _repeated(
        self, connection: AsyncConnection, digest: str, client: Client, now: datetime
    ) -> tuple[RefreshTokenRecord | None, RefreshTokenRecord | None]:
        """The token, if the client that used it a moment ago asks again; else, if it was used, as stolen."""
        found = await refresh_tokens.find(connection, digest)
        if found is None or found.revoked_at is not None or found.used_at is None:
            return None, None
        grace = timedelta(seconds=self._settings.refresh_grace_seconds)
        if found.used_by == client.fingerprint and now - found.used_at <= grace:
            return found, None
        revoked = await refresh_tokens.revoke_family(connection, found.family, at=now)
        if revoked:
            await self._audit(
                connection, client, found.account_id, found.user_id, "refresh-token.reused", found.family
            )
        return None, found

    async def _next(
        self, connection: AsyncConnection, used: RefreshTokenRecord, token: str, now: datetime
    ) -> Session | None:
        user = await users.find(connection, used.user_id)
        member = await memberships.find(connection, used.account_id, used.user_id)
        if user is None or user.disabled_at is not None or member is None:
            return None
        following = "rt_" + hmac.digest(self._pepper, b"refresh successor\n" + token.encode(), "sha256").hex()
        await self._store(connection, following, used.family, user.id, used.account_id, now)
        access = self._tokens.issue(user.id, used.account_id, user.token_version, session=used.family)
        return Session(user, used.account_id, access, following)

    async def _store(
        self,
        connection: AsyncConnection,
        token: str,
        family: str,
        user_id: UserId,
        account: AccountId,
        now: datetime,
    ) -> None:
        expires = now + timedelta(seconds=self._settings.refresh_seconds)
        record = RefreshTokenRecord(self._digest(token), family, user_id, account, now, expires)
        await refresh_tokens.create(connection, record)

    def _digest(self, token: str) -> str:
        return hmac.digest(self._pepper, b"refresh token\n" + token.encode(), "sha256").hex()

    async def _audit(
        self,
        connection: AsyncConnection,
        client: Client,
        account: AccountId,
        actor: UserId,
        act: str,
        object_id: str,
    ) -> None:
        await audit.record(
            connection,
            at=self._clock.now(),
            account=account,
            actor=actor,
            act=act,
            object_id=object_id,
            request_id=client.request_id,
            address=client.address,
        )
