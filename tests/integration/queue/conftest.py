"""The whole folder runs twice: on one server, and on a cluster with its keys in 16 shards."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import pytest

from shared.queue.redis_link import RedisLink
from shared.settings import QueueSettings
from tests.integration.queue.support import Queue, open_link

SHARDS: Final = {"redis_server": 1, "redis_cluster": 16}


@pytest.fixture(params=list(SHARDS))
def place(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def redis_url(place: str, request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(place).url)


@pytest.fixture
def shards(place: str) -> int:
    return SHARDS[place]


@pytest.fixture
async def link(redis_url: str) -> AsyncIterator[RedisLink]:
    async with open_link(redis_url) as link:
        yield link


@pytest.fixture
async def queue(link: RedisLink, shards: int) -> Queue:
    """An empty queue whose consumer groups exist."""
    queue = Queue(link, QueueSettings(shards=shards))
    await queue.consumer("nobody").create_groups()
    return queue
