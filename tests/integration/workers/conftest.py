from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from shared.settings import QueueSettings
from tests.integration.queue.support import Queue, open_link


@pytest.fixture
async def queue(redis_url: str) -> AsyncIterator[Queue]:
    """An empty queue whose consumer groups exist."""
    async with open_link(redis_url) as link:
        queue = Queue(link, QueueSettings())
        await queue.consumer("nobody").create_groups()
        yield queue
