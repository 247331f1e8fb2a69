"""Webhooks from the transaction that notes an event to the receiver's socket, on both databases."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from scheduler.duties.deliver_webhooks import WebhookDeliverer, deliver_webhooks
from shared.clock import ManualClock
from shared.db.engine import writing
from shared.db.repositories import accounts, webhook_endpoints, webhooks
from shared.db.repositories.webhook_endpoints import Endpoint
from shared.db.repositories.webhooks import Attempt, Delivery, Room, Status
from shared.egress.rules import EgressRules
from shared.egress.transport import GuardedTransport
from shared.ids import AccountId, new_webhook_endpoint_id
from shared.settings import WebhookSettings
from shared.webhooks.disabling import Because, disable
from shared.webhooks.events import Event, EventType, note, note_for
from shared.webhooks.schedule import SCHEDULE
from shared.webhooks.signing import WebhookSecrets
from tests.fakes.eventually import eventually
from tests.fakes.webhook_receiver import Says, WebhookReceiver

ACME, OTHER = AccountId("acme"), AccountId("other")
SECRETS = WebhookSecrets(b"pepper of the tests, 32 bytes or so")
DAY = timedelta(days=1).total_seconds()


class SystemTime(ManualClock):
    """Begins now, as the reference library looks at its watch."""

    def __init__(self) -> None:
        super().__init__(datetime.now().astimezone())


@pytest.fixture
def clock() -> ManualClock:
    return SystemTime()


@pytest.fixture(autouse=True)
async def accounts_there(database: AsyncEngine, clock: ManualClock) -> None:
    async with writing(database) as connection:
        for account in (ACME, OTHER):
            await accounts.ensure(connection, account, name=account, at=clock.now())


@pytest.fixture
async def receiver() -> AsyncIterator[WebhookReceiver]:
    async with WebhookReceiver() as started:
        yield started


def deliverer(
    database: AsyncEngine,
    clock: ManualClock,
    *receivers: WebhookReceiver,
    timeout: float = 20.0,
    schedule: tuple[timedelta, ...] = tuple(SCHEDULE),
    at_once: int = 64,
) -> WebhookDeliverer:
    rules = EgressRules(
        private_hosts=frozenset(receiver.host for receiver in receivers),
        plain_http=True,
        total_seconds=timeout,
    )
    settings = WebhookSettings(sends_at_once=at_once)
    return WebhookDeliverer(
        database, GuardedTransport(rules), SECRETS, settings, schedule=schedule, clock=clock
    )


async def deliver(sender: WebhookDeliverer) -> int:
    """All that is due, to its end."""
    sent = 0
    while True:
        async with asyncio.TaskGroup() as sends:
            started = await sender.start_due(sends)
        if not started:
            return sent
        sent += started


async def an_endpoint(
    database: AsyncEngine, url: str, clock: ManualClock, *events: str, account: AccountId = ACME
) -> Endpoint:
    made = Endpoint(new_webhook_endpoint_id(), account, url, "", events, 1, clock.now())
    async with writing(database) as connection:
        await webhook_endpoints.create(connection, made)
    return made


def ended(job: str, clock: ManualClock, *, type_: EventType = EventType.JOB_SUCCEEDED) -> Event:
    return Event(type_, job, clock.now(), {"id": job})


async def happens(
    database: AsyncEngine, *events: Event, account: AccountId = ACME, url: str | None = None
) -> None:
    async with writing(database) as connection:
        for event in events:
            await note(connection, account, event, url=url)


async def log(database: AsyncEngine, account: AccountId = ACME) -> list[Delivery]:
    async with database.connect() as connection:
        return await webhooks.page(connection, account, limit=1_000)


async def attempts(database: AsyncEngine, delivery: Delivery) -> list[Attempt]:
    async with database.connect() as connection:
        return await webhooks.attempts_of(connection, delivery.id)


async def found(database: AsyncEngine, endpoint: Endpoint) -> Endpoint:
    async with database.connect() as connection:
        row = await webhook_endpoints.find(connection, endpoint.id)
    assert row is not None
    return row


# noting


async def test_an_event_is_told_to_whoever_wants_it(
    database: AsyncEngine, clock: ManualClock, receiver: WebhookReceiver
) -> None:
    everything = await an_endpoint(database, receiver.url, clock)
    failures = await an_endpoint(database, receiver.url, clock, "job.failed")
    await an_endpoint(database, receiver.url, clock, account=OTHER)
    await happens(database, ended("job_1", clock), url=f"{receiver.url}/of-the-job")
    await happens(database, ended("job_2", clock, type_=EventType.JOB_FAILED))

    assert await deliver(deliverer(database, clock, receiver)) == 4

    told = Counter((call.path, call.event["data"]["id"]) for call in receiver.received)
    assert told == {("/hook", "job_1"): 1, ("/hook/of-the-job", "job_1"): 1, ("/hook", "job_2"): 2}
    assert {row.status for row in await log(database)} == {Status.DELIVERED}
    by_id = {call.id: call for call in receiver.received}
    for row in await log(database):
        secret = SECRETS.of_account(ACME)
        if row.endpoint_id is not None:
            secret = SECRETS.of_endpoint(row.endpoint_id, 1)
        assert by_id[row.id].verified(secret)["type"] == row.type
    assert {row.endpoint_id for row in await log(database)} == {everything.id, failures.id, None}


async def test_noted_again_it_is_told_once(
    database: AsyncEngine, clock: ManualClock, receiver: WebhookReceiver
) -> None:
    await an_endpoint(database, receiver.url, clock)
    sender = deliverer(database, clock, receiver)
    for _ in range(3):
        await happens(database, ended("job_1", clock), ended("job_1", clock), url=receiver.url)
        await deliver(sender)
        clock.advance(60)

    assert len(receiver.received) == len(set(receiver.ids)) == 2


async def test_what_is_rolled_back_is_told_to_nobody(
    database: AsyncEngine, clock: ManualClock, receiver: WebhookReceiver
) -> None:
    await an_endpoint(database, receiver.url, clock)
    async with database.connect() as connection:
        await note(connection, ACME, ended("job_1", clock))
        await connection.rollback()

    assert await deliver(deliverer(database, clock, receiver)) == 0


async def test_two_accounts_may_name_one_url(
    database: AsyncEngine, clock: ManualClock, receiver: WebhookReceiver
) -> None:
    for account in (ACME, OTHER):
        await happens(database, ended("job_1", clock), account=account, url=receiver.url)

    await deliver(deliverer(database, clock, receiver))

    assert len(set(receiver.ids)) == 2


# claiming


async def test_of_two_schedulers_one_sends(
    database: AsyncEngine, clock: ManualClock, receiver: WebhookReceiver
) -> None:
    await an_endpoint(database, receiver.url, clock)
    await happens(database, *(ended(f"job_{n}", clock) for n in range(60)))
    senders = [deliverer(database, clock, receiver) for _ in range(3)]

    sent = await asyncio.gather(*map(deliver, senders))

    assert sum(sent) == 60
    assert len(receiver.received) == len(set(receiver.ids)) == 60
    assert all(row.status is Status.DELIVERED and row.tries == 1 for row in await log(database))


async def test_what_a_dead_scheduler_claimed_is_sent_once_its_claim_is_over(
    database: AsyncEngine, clock: ManualClock, receiver: WebhookReceiver
) -> None:
    await happens(database, ended("job_1", clock), url=receiver.url)
    room = Room(free=10, of_account=10, of_receiver=10, accounts={}, receivers={})
    async with writing(database) as connection:
        until = clock.now() + timedelta(seconds=30)
        (claimed,) = await webhooks.claim(connection, room, now=clock.now(), until=until)
    sender = deliverer(database, clock, receiver)

    early = await deliver(sender)
    clock.advance(31)
    late = await deliver(sender)

    assert (early, late) == (0, 1)
    assert receiver.ids == [claimed.delivery.id]


async def test_a_late_answer_decides_nothing_any_more(
    database: AsyncEngine, clock: ManualClock, receiver: WebhookReceiver
) -> None:
    """Its claim was over, and another scheduler had sent it meanwhile."""
    await happens(database, ended("job_1", clock), url=receiver.url)
    answers = asyncio.Event()
    receiver.next_says.append(Says(500, after=answers))
    slow = asyncio.create_task(deliver(deliverer(database, clock, receiver)))
    await eventually(lambda: receiver.open == 1, "the first call")
    clock.advance(31)

    await deliver(deliverer(database, clock, receiver))
    answers.set()
    await slow

    (row,) = await log(database)
    assert row.status is Status.DELIVERED
    assert [attempt.status for attempt in await attempts(database, row)] == [204, 500]


async def test_a_slow_receiver_holds_up_nobody_else(
    database: AsyncEngine, clock: ManualClock, receiver: WebhookReceiver
) -> None:
    answers = asyncio.Event()
    async with WebhookReceiver() as slow:
        slow.says = Says(204, after=answers)
        await an_endpoint(database, slow.url, clock)
        await happens(database, *(ended(f"job_{n}", clock) for n in range(300)))
        clock.advance(1)
        await an_endpoint(database, receiver.url, clock, account=OTHER)
        await happens(database, ended("job_other", clock), account=OTHER)
        running = asyncio.create_task(deliver_webhooks(deliverer(database, clock, slow, receiver)))

        await eventually(lambda: len(receiver.received) == 1, "the other account's")
        at_once = slow.open
        answers.set()
        await eventually(lambda: len(slow.received) == 300, "all of the slow one's")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    assert at_once == 8
    assert len(set(slow.ids)) == 300
    assert {row.status for row in await log(database)} == {Status.DELIVERED}


async def test_an_account_with_many_slow_receivers_leaves_room_to_others(
    database: AsyncEngine, clock: ManualClock, receiver: WebhookReceiver
) -> None:
    answers = asyncio.Event()
    async with AsyncExitStack() as running:
        slow = [await running.enter_async_context(WebhookReceiver()) for _ in range(6)]
        for one in slow:
            one.says = Says(204, after=answers)
            await happens(database, *(ended(f"job_{n}", clock) for n in range(5)), url=one.url)
        await happens(database, ended("job_other", clock), account=OTHER, url=receiver.url)
        sender = deliverer(database, clock, receiver, *slow, at_once=16)
        async with asyncio.TaskGroup() as sends:
            started = await sender.start_due(sends)
            await eventually(lambda: len(receiver.received) == 1, "the other account's")
            answers.set()

    assert started == 16 // 4 + 1


# answers


async def test_a_failure_is_tried_by_the_schedule_and_then_given_up(
    database: AsyncEngine, clock: ManualClock, receiver: WebhookReceiver
) -> None:
    receiver.says = Says(500)
    await happens(database, ended("job_1", clock), url=receiver.url)
    sender = deliverer(database, clock, receiver)
    for pause in SCHEDULE:
        assert await deliver(sender) == 1
        clock.advance(pause.total_seconds() - 0.01)
        assert await deliver(sender) == 0, pause
        clock.advance(pause.total_seconds() * 0.1 + 0.02)
    assert await deliver(sender) == 1

    (row,) = await log(database)
    assert (row.status, row.tries, row.next_try_at) == (Status.GIVEN_UP, 10, None)
    assert [attempt.status for attempt in await attempts(database, row)] == [500] * 10
    assert set(receiver.ids) == {row.id}
    clock.advance(100 * DAY)
    assert await deliver(sender) == 0


async def test_the_schedule_can_be_another(
    database: AsyncEngine, clock: ManualClock, receiver: WebhookReceiver
) -> None:
    receiver.says = Says(500)
    await happens(database, ended("job_1", clock), url=receiver.url)

    await deliver(deliverer(database, clock, receiver, schedule=()))

    assert [row.status for row in await log(database)] == [Status.GIVEN_UP]


@pytest.mark.parametrize("status", [429, 503])
async def test_who_asks_for_time_gets_it(
    database: AsyncEngine, clock: ManualClock, receiver: WebhookReceiver, status: int
) -> None:
    receiver.says = Says(status, {"Retry-After": "120"})
    await happens(database, ended("job_1", clock), url=receiver.url)
    sender = deliverer(database, clock, receiver)

    await deliver(sender)
    (row,) = await log(database)

    assert row.next_try_at == clock.now() + timedelta(seconds=120)


async def test_other_failures_ask_for_nothing(
    database: AsyncEngine, clock: ManualClock, receiver: WebhookReceiver
) -> None:
    receiver.says = Says(500, {"Retry-After": "120"})
    await happens(database, ended("job_1", clock), url=receiver.url)

    await deliver(deliverer(database, clock, receiver))
    (row,) = await log(database)

    assert row.next_try_at is not None
    assert row.next_try_at < clock.now() + timedelta(seconds=6)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_a_failure_and_not_followed(
    database: AsyncEngine, clock: ManualClock, receiver: WebhookReceiver, status: int
) -> None:
    async with WebhookReceiver() as elsewhere:
        receiver.says = Says(status, {"Location": elsewhere.url})
        await happens(database, ended("job_1", clock), url=receiver.url)

        await deliver(deliverer(database, clock, receiver, elsewhere))

        assert elsewhere.received == []
    (row,) = await log(database)
    assert row.status is Status.PENDING
    assert [(a.status, a.error) for a in await attempts(database, row)] == [(None, "redirect")]


async def test_a_receiver_that_takes_too_long_has_failed(
    database: AsyncEngine, clock: ManualClock, receiver: WebhookReceiver
) -> None:
    receiver.says = Says(after=asyncio.Event())
    await happens(database, ended("job_1", clock), url=receiver.url)

    await deliver(deliverer(database, clock, receiver, timeout=0.2))

    (row,) = await log(database)
    assert row.status is Status.PENDING
    assert [(a.status, a.error) for a in await attempts(database, row)] == [(None, "timeout")]


@pytest.mark.parametrize("kind", ["nobody listens", "not public"])
async def test_why_nobody_answered_is_told_in_one_word(
    database: AsyncEngine, clock: ManualClock, receiver: WebhookReceiver, kind: str
) -> None:
    allowed = WebhookReceiver()  # never started
    url = allowed.url if kind == "nobody listens" else receiver.url
    await happens(database, ended("job_1", clock), url=url)

    await deliver(deliverer(database, clock, allowed))

    (row,) = await log(database)
    assert [(a.status, a.error) for a in await attempts(database, row)] == [(None, "unreachable")]
    assert receiver.received == []


# disabling


async def test_410_disables_the_endpoint_and_gives_up_what_is_on_its_way(
    database: AsyncEngine, clock: ManualClock, receiver: WebhookReceiver
) -> None:
    receiver.says = Says(500)
    endpoint = await an_endpoint(database, receiver.url, clock)
    await happens(database, ended("job_1", clock))
    sender = deliverer(database, clock, receiver)
    await deliver(sender)
    receiver.says = Says(410)
    await happens(database, ended("job_2", clock))

    await deliver(sender)
    await happens(database, ended("job_3", clock))
    clock.advance(DAY)

    assert await deliver(sender) == 0
    assert (await found(database, endpoint)).disabled_because == Because.GONE
    assert [row.status for row in await log(database)] == [Status.GIVEN_UP] * 2


async def test_410_to_a_url_of_a_job_gives_up_that_one(
    database: AsyncEngine, clock: ManualClock, receiver: WebhookReceiver
) -> None:
    receiver.says = Says(410)
    await happens(database, ended("job_1", clock), url=receiver.url)

    await deliver(deliverer(database, clock, receiver))

    assert [(row.status, row.tries) for row in await log(database)] == [(Status.GIVEN_UP, 1)]


async def test_an_endpoint_that_fails_for_five_days_is_disabled(
    database: AsyncEngine, clock: ManualClock, receiver: WebhookReceiver
) -> None:
    receiver.says = Says(500)
    endpoint = await an_endpoint(database, receiver.url, clock)
    sender = deliverer(database, clock, receiver)
    await happens(database, ended("job_0", clock))
    await deliver(sender)
    began = clock.now()
    clock.advance(4.9 * DAY)
    await happens(database, ended("job_1", clock))
    await deliver(sender)
    still = await found(database, endpoint)
    clock.advance(0.2 * DAY)
    await happens(database, ended("job_2", clock))

    await deliver(sender)

    now = await found(database, endpoint)
    assert (still.is_enabled, still.failing_since) == (True, began)
    assert (now.disabled_because, now.disabled_at) == (Because.FAILING, clock.now())
    assert not any(row.status is Status.PENDING for row in await log(database))


async def test_one_success_begins_the_five_days_anew(
    database: AsyncEngine, clock: ManualClock, receiver: WebhookReceiver
) -> None:
    endpoint = await an_endpoint(database, receiver.url, clock)
    sender = deliverer(database, clock, receiver)
    for day, status in enumerate((500, 500, 500, 204, 500, 500, 500, 500)):
        receiver.says = Says(status)
        await happens(database, ended(f"job_{day}", clock))
        await deliver(sender)
        if status == 204:
            assert (await found(database, endpoint)).failing_since is None
        clock.advance(1.2 * DAY)

    assert (await found(database, endpoint)).is_enabled


async def test_what_is_on_its_way_to_an_endpoint_that_is_gone_is_given_up(
    database: AsyncEngine, clock: ManualClock, receiver: WebhookReceiver
) -> None:
    removed = await an_endpoint(database, receiver.url, clock)
    disabled = await an_endpoint(database, receiver.url, clock)
    await happens(database, ended("job_1", clock))
    async with writing(database) as connection:
        await webhook_endpoints.remove(connection, removed.id)
        # Noted by a transaction that had not yet seen it disabled.
        off = disabled.disabled(Because.ASKED, at=clock.now())
        await webhook_endpoints.save(connection, off)

    assert await deliver(deliverer(database, clock, receiver)) == 0
    assert [row.status for row in await log(database)] == [Status.GIVEN_UP] * 2


async def test_an_answer_to_an_endpoint_that_was_disabled_meanwhile_changes_nothing(
    database: AsyncEngine, clock: ManualClock, receiver: WebhookReceiver
) -> None:
    answers = asyncio.Event()
    receiver.says = Says(410, after=answers)
    endpoint = await an_endpoint(database, receiver.url, clock)
    await happens(database, ended("job_1", clock))
    sending = asyncio.create_task(deliver(deliverer(database, clock, receiver)))
    await eventually(lambda: receiver.open == 1, "the call")
    async with writing(database) as connection:
        await disable(connection, endpoint, Because.ASKED, at=clock.now())
    answers.set()
    await sending

    (row,) = await log(database)
    assert (await found(database, endpoint)).disabled_because == Because.ASKED
    assert row.status is Status.GIVEN_UP
    assert [attempt.status for attempt in await attempts(database, row)] == [410]


# secrets and redelivery


async def test_while_a_secret_is_rotated_both_verify(
    database: AsyncEngine, clock: ManualClock, receiver: WebhookReceiver
) -> None:
    endpoint = await an_endpoint(database, receiver.url, clock)
    async with writing(database) as connection:
        until = clock.now() + timedelta(hours=1)
        await webhook_endpoints.save(connection, replace(endpoint, secret_version=2, previous_until=until))
    sender = deliverer(database, clock, receiver)
    await happens(database, ended("job_1", clock))
    await deliver(sender)
    clock.advance(3601)
    await happens(database, ended("job_2", clock))
    await deliver(sender)

    signatures = [len(call.headers["webhook-signature"].split(" ")) for call in receiver.received]
    assert signatures == [2, 1]
    for version in (1, 2):
        assert receiver.received[0].verified(SECRETS.of_endpoint(endpoint.id, version))


async def test_sent_anew_it_has_its_id_and_the_whole_schedule_again(
    database: AsyncEngine, clock: ManualClock, receiver: WebhookReceiver
) -> None:
    receiver.says = Says(500)
    await happens(database, ended("job_1", clock), url=receiver.url)
    sender = deliverer(database, clock, receiver, schedule=(timedelta(seconds=5),))
    for _ in range(2):
        await deliver(sender)
        clock.advance(10)
    (given_up,) = await log(database)

    async with writing(database) as connection:
        await webhooks.send_anew(connection, given_up.id, url=receiver.url, at=clock.now())
    await deliver(sender)
    receiver.says = Says(200)
    clock.advance(10)
    await deliver(sender)

    (row,) = await log(database)
    assert (given_up.status, row.status) == (Status.GIVEN_UP, Status.DELIVERED)
    assert [attempt.status for attempt in await attempts(database, row)] == [500, 500, 500, 200]
    assert set(receiver.ids) == {row.id}


async def test_a_test_goes_to_one_endpoint_whatever_that_wants(
    database: AsyncEngine, clock: ManualClock, receiver: WebhookReceiver
) -> None:
    tested = await an_endpoint(database, receiver.url, clock, "job.failed")
    await an_endpoint(database, receiver.url, clock)
    async with writing(database) as connection:
        event = Event(EventType.WEBHOOK_TEST, "test_1", clock.now(), {})
        delivery = await note_for(connection, tested, event)

    await deliver(deliverer(database, clock, receiver))

    assert receiver.ids == [delivery.id]


async def test_a_scheduler_that_stops_lets_what_it_sends_end(
    database: AsyncEngine, clock: ManualClock, receiver: WebhookReceiver
) -> None:
    answers = asyncio.Event()
    receiver.says = Says(204, after=answers)
    await happens(database, ended("job_1", clock), url=receiver.url)
    running = asyncio.create_task(deliver_webhooks(deliverer(database, clock, receiver)))
    await eventually(lambda: receiver.open == 1, "the call")

    running.cancel()
    asyncio.get_running_loop().call_later(0.1, answers.set)
    await asyncio.gather(running, return_exceptions=True)

    assert running.cancelled()
    assert [row.status for row in await log(database)] == [Status.DELIVERED]
