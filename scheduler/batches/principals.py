"""Whose batch it is, as they stand now: what a key may do can change while its batch runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from shared.clock import Clock
from shared.db.repositories import principals
from shared.db.repositories.batches import Batch
from shared.db.repositories.principals import Holder
from shared.domain.principal import Principal
from shared.domain.roles import Permission, Role
from shared.ids import BatchId

_KNOWN_SECONDS: Final = 2.0
_KNOWN: Final = 1_000
_FOREIGN: Final = "ext_"


class Principals:
    def __init__(self, database: AsyncEngine, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._known: dict[BatchId, tuple[float, Principal | None]] = {}

    async def of(self, batch: Batch) -> Principal | None:
        """None once its credential was revoked, or expired, or may not ask for anything any more.

        Raises what the database does.
        """
        now = self._clock.monotonic()
        known = self._known.get(batch.id)
        if known is not None and now < known[0]:
            return known[1]
        async with self._database.connect() as connection:
            holder = await self._holder(connection, batch)
        usable = holder is not None and holder.is_usable and holder.principal.may(Permission.INFERENCE)
        principal = holder.principal if usable and holder is not None else None
        if len(self._known) >= _KNOWN:
            self._known.clear()
        self._known[batch.id] = now + _KNOWN_SECONDS, principal
        return principal

    async def _holder(self, connection: AsyncConnection, batch: Batch) -> Holder | None:
        caller = batch.api_key_id
        if caller.startswith(_FOREIGN):
            # Others vouched for its caller when it came, for as long as a batch takes.
            found = await principals.of_itself(connection, batch.account_id)
            if found is None:
                return None
            of_caller = replace(found.principal, api_key=caller, role=Role.SERVICE, scopes=None)
            return replace(found, principal=of_caller)
        if batch.user_id is not None and str(caller) == batch.user_id:
            return await principals.of_member(connection, batch.user_id, batch.account_id)
        return await principals.of_key(connection, caller, self._clock.now())
