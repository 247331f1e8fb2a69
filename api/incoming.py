"""Uploads on their way: they count against their account's quota before they are rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from shared.db.repositories.files import Held
from shared.files import check_quota
from shared.ids import AccountId
from shared.settings import StorageSettings


class Incoming:
    """Those of this process, by account."""

    def __init__(self) -> None:
        self.files: Counter[AccountId] = Counter()
        self.bytes: Counter[AccountId] = Counter()

    @contextmanager
    def one(
        self, account: AccountId, held: Held, quota: StorageSettings, *, at_least: int
    ) -> Iterator[Counted]:
        """`held`: what are rows already. `at_least`: bytes that will come, and have their place from now
        on; else of two uploads that grow at the same time, neither might fit. Raises StorageQuotaExceeded.
        """
        files, size_bytes = held.files + self.files[account], held.size_bytes + self.bytes[account]
        check_quota(Held(files, size_bytes), max(1, at_least), quota)
        counted = Counted(self, account, held, quota, at_least)
        self.files[account] += 1
        self.bytes[account] += at_least
        try:
            yield counted
        finally:
            self.files[account] -= 1
            self.bytes[account] -= counted.place
            if not self.files[account]:
                del self.files[account], self.bytes[account]


class Counted:
    """One upload: `size` bytes so far, and the `place` it takes."""

    def __init__(
        self, incoming: Incoming, account: AccountId, held: Held, quota: StorageSettings, at_least: int
    ) -> None:
        self._incoming = incoming
        self._account = account
        self._held = held
        self._quota = quota
        self.size = 0
        self.place = at_least

    def add(self, more: int) -> None:
        """Raises StorageQuotaExceeded."""
        self.size += more
        grown = max(0, self.size - self.place)
        self.place += grown
        self._incoming.bytes[self._account] += grown
        check_quota(self._held, self._incoming.bytes[self._account], self._quota)
