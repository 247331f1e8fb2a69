"""Which batches have their turn: some of every account, however many the others have.

A page has accounts by name, and of each some of its batches. Where there are more accounts than a page
has, or more batches of one, the next page has others, until all were there; then it begins anew.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from shared.db.repositories import batches
from shared.ids import AccountId, BatchId

_FAR: Final = 2**30
"""Places are counted up to there, so that they stay integers of the database."""


class Listing:
    """`most`: batches on a page, and accounts."""

    def __init__(self, database: AsyncEngine, *, most: int) -> None:
        self._database = database
        self._most = most
        self._after = ""
        self._first = 0
        self._named: list[AccountId] = []

    async def page(self) -> dict[BatchId, AccountId]:
        """As it stands now. Raises what the database raises."""
        async with self._database.connect() as connection:
            named = await batches.open_accounts(connection, after=self._after, limit=self._most)
            if not named and self._after:
                self._begin_anew()
                named = await batches.open_accounts(connection, after="", limit=self._most)
            self._named = named
            if not named:
                return {}
            found = await batches.open_of_each(connection, named, each=self._each, first=self._first)
        return dict(found)

    def turn(self) -> None:
        """All of the page had their turn."""
        if not self._named:
            return
        if len(self._named) == self._most:
            self._after = self._named[-1]
        else:
            self._begin_anew()

    def _begin_anew(self) -> None:
        # So many of each account were there: of more accounts than a page has, one.
        step = 1 if self._after else self._each
        self._first = (self._first + step) % _FAR
        self._after = ""

    @property
    def _each(self) -> int:
        return self._most // max(1, len(self._named))
