from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from shared.queue.redis_link import RedisLink
from shared.settings import QueueSettings
from tests.integration.queue.support import Queue, open_link


@pytest.fixture
async def link(redis_url: str) -> AsyncIterator[RedisLink]:
    async with open_link(redis_url) as link:
        yield link


@pytest.fixture
async def queue(link: RedisLink) -> Queue:
    """An empty queue whose consumer groups exist."""
    queue = Queue(link, QueueSettings())
    await queue.consumer("nobody").create_groups()
    return queue
