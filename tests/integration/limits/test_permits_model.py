"""Whatever is asked in whatever order, the script answers as a plain list of what was taken would."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.limits.permits import HOLD_SECONDS, Amounts, Permit, Permits
from shared.providers.profile import AccountLimits
from tests.integration.limits.test_permits import ACCOUNT, Time
from tests.integration.queue.support import open_link

SLOT_MS, SLOTS = 2500, 25
RESERVE = 0.2


@dataclass
class Taken:
    at_slot: int
    amount: float
    expires: float
    batch: bool


@dataclass
class Model:
    """Of one amount per minute and the calls at once."""

    limit: int
    most: int
    level: float = 0
    at: float = 0
    taken: dict[str, Taken] = field(default_factory=dict)
    """By holder, while it runs."""
    minute: list[Taken] = field(default_factory=list)

    def take(self, now: float, holder: str, amount: int, *, batch: bool) -> bool:
        self._refill(now)
        running = {name: one for name, one in self.taken.items() if one.expires > now}
        self.taken = running
        if holder in running:
            return True
        free = RESERVE if batch else 0
        busy = len(running) >= (max(1, int(self.most * (1 - free))) if batch else self.most)
        batches = sum(one.batch for one in running.values())
        if busy or (batch and batches >= max(1, self.most // 2)):
            return False
        wanted = min(amount, self.limit)
        slot = int(now // SLOT_MS)
        used = sum(one.amount for one in self.minute if one.at_slot > slot - SLOTS)
        room = self.limit * (1 - free)
        needed = min(wanted, self.burst * (1 - free)) + self.burst * free
        if self.level < needed - 1e-6 or used + min(wanted, room) > room + 1e-6:
            return False
        self.level -= wanted
        self.taken[holder] = Taken(slot, wanted, now + HOLD_SECONDS * 1000, batch)
        self.minute.append(self.taken[holder])
        return True

    def give_back(self, now: float, holder: str, really: int) -> None:
        self._refill(now)
        one = self.taken.pop(holder, None)
        if one is None:
            return
        more = really - one.amount
        self.level = min(self.burst, self.level - more)
        if more > 0:
            self.minute.append(Taken(int(now // SLOT_MS), more, 0, batch=False))
        else:
            one.amount = really

    @property
    def burst(self) -> float:
        return max(1, self.limit / 6)

    def _refill(self, now: float) -> None:
        if not self.at:
            self.level = self.burst
        self.level = min(self.burst, self.level + (now - (self.at or now)) * self.limit / 60_000)
        self.at = now


holders = st.sampled_from(["a", "b", "c", "d"])
steps = st.one_of(
    st.tuples(st.just("take"), holders, st.integers(1, 40), st.booleans()),
    st.tuples(st.just("give back"), holders, st.integers(0, 60), st.just(value=False)),
    st.tuples(st.just("wait"), st.just(""), st.integers(1, 20_000), st.just(value=False)),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(limit=st.sampled_from([30, 120, 600]), most=st.integers(1, 4), script=st.lists(steps, max_size=40))
def test_the_script_answers_as_a_plain_list_would(
    redis_url: str, limit: int, most: int, script: list[tuple[str, str, int, bool]]
) -> None:
    asyncio.run(compare(redis_url, limit, most, script))


async def compare(url: str, limit: int, most: int, script: list[tuple[str, str, int, bool]]) -> None:
    time, model = Time(), Model(limit, most)
    permits_of: dict[str, Permit] = {}
    async with open_link(url) as link:
        await link.execute("FLUSHALL")
        configured = AccountLimits(tokens_per_minute=limit, concurrent=most)
        permits = Permits(link, {"openai": configured}, clock_ms=time)
        for step, holder, number, batch in script:
            if step == "wait":
                time.advance(number / 1000)
            elif step == "take":
                before = model.taken.get(holder)
                answer = await permits.take(ACCOUNT, holder, Amounts(number), batch=batch)
                assert isinstance(answer, Permit) == model.take(time.now, holder, number, batch=batch)
                # Asking again while it runs is granted what was taken at first.
                if isinstance(answer, Permit) and model.taken[holder] is not before:
                    permits_of[holder] = answer
            elif holder in permits_of:
                await permits.give_back(permits_of.pop(holder), Amounts(number))
                model.give_back(time.now, holder, number)
