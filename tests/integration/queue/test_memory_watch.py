"""New work is refused while the memory of Redis is nearly full."""

from __future__ import annotations

import pytest
from redis.exceptions import RedisError

from shared.errors import QueueFull
from shared.queue.memory_watch import MemoryWatch
from shared.settings import QueueSettings
from tests.fakes.redis_cluster import RedisCluster
from tests.fakes.redis_server import RedisServer
from tests.integration.queue.support import open_link
from tests.unit.observability.log_lines import captured


def has_room(watch: MemoryWatch) -> bool:
    try:
        watch.require_room()
    except QueueFull as refusal:
        return not refusal.retry_after_seconds
    return True


async def test_above_the_share_nothing_new_is_taken_and_below_it_is_again(
    redis_server: RedisServer,
) -> None:
    async with open_link(redis_server.url) as link:
        watch = MemoryWatch(link, QueueSettings(max_memory_percent=70))
        seen: list[bool] = []
        with captured() as lines:
            for percent in (60, 80, 90, 60):
                redis_server.fill_to(percent)
                await watch.look()
                seen.append(has_room(watch))

    assert seen == [True, False, False, True]
    assert [line["level"] for line in lines.events()] == ["ERROR", "INFO"]


async def test_a_server_without_a_limit_is_never_full(redis_server: RedisServer) -> None:
    async with open_link(redis_server.url) as link:
        watch = MemoryWatch(link, QueueSettings(max_memory_percent=1))
        await watch.look()

        assert has_room(watch)


async def test_of_a_cluster_the_fullest_master_counts(redis_cluster: RedisCluster) -> None:
    async with open_link(redis_cluster.url) as link:
        watch = MemoryWatch(link, QueueSettings())
        for master in redis_cluster.masters:
            master.fill_to(10)
        await watch.look()
        assert has_room(watch)

        redis_cluster.masters[1].fill_to(95)
        await watch.look()

        assert not has_room(watch)


async def test_what_was_seen_last_stands_while_the_server_is_away(private_redis: RedisServer) -> None:
    async with open_link(private_redis.url) as link:
        watch = MemoryWatch(link, QueueSettings())
        private_redis.fill_to(95)
        await watch.look()
        private_redis.kill9()

        with pytest.raises(RedisError):
            await watch.look()

        assert not has_room(watch)
