"""What readers hear of stream events: all of it, or where it is."""

from __future__ import annotations

import asyncio

import pytest

from shared.queue.frames import EventBatch, parse_frame
from shared.queue.subscription import Subscription
from tests.integration.queue.support import Queue, a_job

CHANNEL = "hr:reply:frames"


@pytest.mark.parametrize("fits", [True, False])
async def test_events_too_large_for_a_message_are_told_by_their_ordinals_alone(
    queue: Queue, redis_url: str, fits: bool
) -> None:
    most = queue.settings.inline_result_bytes
    event = b"x" * (most if fits else most + 1)
    heard = asyncio.Queue[bytes]()
    subscribed = asyncio.Event()
    subscription = Subscription(
        redis_url,
        [CHANNEL],
        on_message=lambda _, frame: heard.put_nowait(frame),
        on_subscribed=subscribed.set,
    )
    await subscription.start()
    await subscribed.wait()
    job = a_job(stream=True)
    worker = queue.consumer("writes")
    await queue.enqueue(job, reply_to=CHANNEL)
    lease = await queue.lease(worker)

    await worker.append(lease, 1, [event])

    job_id, news = parse_frame(await heard.get())
    assert (job_id, news) == (job.id, EventBatch(1, 1, (event,) if fits else ()))
    assert await queue.producer.events_after(job.id, 0) == [EventBatch(1, 1, (event,))]
    await subscription.close()
