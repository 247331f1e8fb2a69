"""Passwords: argon2id, a few at once.

Each hash takes 19 MiB and some 60 ms of a core, so a flood of logins would take the process
down with it: they run in `slots` threads, a bounded number waits, and more are refused at once.
Whoever does not exist is hashed for as well, so that the answer takes as long.
Source: OWASP Password Storage Cheat Sheet (m = 19 MiB, t = 2, p = 1), read 2026-11.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from shared.errors import InvalidRequest, TooManyRequests

MIN_CHARS: Final = 8
MAX_CHARS: Final = 256
_RETRY_SECONDS: Final = 2.0


def check_form(password: str) -> None:
    """Raises InvalidRequest. Before anything is hashed."""
    if not MIN_CHARS <= len(password) <= MAX_CHARS:
        raise InvalidRequest(f"password: must have {MIN_CHARS} to {MAX_CHARS} characters", param="password")


class Passwords:
    """One a process."""

    def __init__(self, *, slots: int, queue: int) -> None:
        self._hasher = PasswordHasher(memory_cost=19 * 1024, time_cost=2, parallelism=1)
        self._threads = ThreadPoolExecutor(slots, thread_name_prefix="password")
        self._room = slots + queue
        self._under_way = 0
        self._nobodys = ""
        self.hashed = 0
        """Hashes computed so far."""

    async def hash(self, password: str) -> str:
        """Raises InvalidRequest, or TooManyRequests where too many wait already."""
        check_form(password)
        return await self._run(password, None)

    async def verify(self, password: str, stored: str | None) -> bool:
        """`stored`: None for nobody, which takes as long. Raises TooManyRequests."""
        if not MIN_CHARS <= len(password) <= MAX_CHARS:
            # No account has it: it would have been refused. Hashing it would only cost.
            password = password[:MAX_CHARS].ljust(MIN_CHARS)
            stored = None
        if stored is None:
            if not self._nobodys:
                self._nobodys = await self._run("nobody has this password", None)
            await self._run(password, self._nobodys)
            return False
        return bool(await self._run(password, stored))

    def is_outdated(self, stored: str) -> bool:
        """Whether it was made with other parameters, so that it should be made anew."""
        return self._hasher.check_needs_rehash(stored)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self, password: str, stored: str | None) -> str:
        """The hash; or, against a stored one, something if it fits and "" if not."""
        if self._under_way >= self._room:
            raise TooManyRequests(
                "Too many logins at once. Try again in a moment.", retry_after_seconds=_RETRY_SECONDS
            )
        self._under_way += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._threads, self._hash if stored is None else self._fits, password, stored or ""
            )
        finally:
            self._under_way -= 1

    def _hash(self, password: str, _: str) -> str:
        self.hashed += 1
        return self._hasher.hash(password)

    def _fits(self, password: str, stored: str) -> str:
        self.hashed += 1
        try:
            self._hasher.verify(stored, password)
        except (VerificationError, InvalidHashError):
            return ""
        return "fits"
