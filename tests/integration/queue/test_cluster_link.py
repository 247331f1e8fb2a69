"""A link to a Redis Cluster follows its slots wherever they go, and says in time when it cannot."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from shared import keyspace
from shared.queue.arq_pool import TAG, arq_pool
from shared.queue.cluster_link import ClusterLink, slot_of
from shared.queue.redis_link import TRANSIENT, RedisArg, RedisLink
from shared.queue.script_calls import Scripts
from shared.queue.subscription import Subscription
from tests.fakes.eventually import eventually
from tests.fakes.redis_cluster import RedisCluster
from tests.fakes.redis_server import RedisServer
from tests.integration.queue.support import open_link

TAGS = [f"{{{shard}}}" for shard in range(16)]


@pytest.fixture(scope="module")
def repaired_cluster() -> Iterator[RedisCluster]:
    cluster = RedisCluster(replicas=1)
    cluster.start()
    yield cluster
    cluster.stop(forget=True)


@pytest.fixture
def cluster(repaired_cluster: RedisCluster) -> RedisCluster:
    """To be broken: whatever the test before did to it, it is whole and empty again."""
    for node in repaired_cluster.nodes:
        if node.is_running:
            node.sigcont()
        else:
            node.start()
    repaired_cluster.wait_whole()
    repaired_cluster.flush()
    return repaired_cluster


@pytest.fixture
async def link(cluster: RedisCluster) -> AsyncIterator[RedisLink]:
    async with open_link(cluster.url, timeout=1) as link:
        yield link


async def answered(link: RedisLink, *command: RedisArg, within: float = 10.0) -> list[RedisError]:
    """Asked again and again until there is an answer; what was raised until then."""
    errors: list[RedisError] = []

    async def look() -> bool:
        try:
            await link.execute(*command)
        except RedisError as exc:
            errors.append(exc)
            return False
        return True

    await eventually(look, f"an answer to {command}", within=within)
    return errors


@pytest.mark.parametrize(
    ("command", "key"),
    [
        (("GET", "{7}a"), "{7}a"),
        (("GET", b"{7}a"), "{7}a"),
        (("EVALSHA", b"sha", 2, "{7}a", "{7}b", "{8}"), "{7}a"),
        (("EVAL", "return 1", "1", "{7}a"), "{7}a"),
        (
            ("XREADGROUP", "GROUP", "g", "c", "COUNT", 1, "BLOCK", 5, "STREAMS", "{7}a", "{7}b", ">", ">"),
            "{7}a",
        ),
        (("XREAD", "STREAMS", "{7}a", "0"), "{7}a"),
        (("XINFO", "GROUPS", "{7}a"), "{7}a"),
        (("XGROUP", "CREATE", "{7}a", "g", "0", "MKSTREAM"), "{7}a"),
        (("XCLAIM", "{7}a", "g", "c", 0, b"1-1"), "{7}a"),
    ],
)
def test_a_command_is_for_the_slot_of_its_first_key(command: tuple[RedisArg, ...], key: str) -> None:
    assert slot_of(command) == keyspace.slot_of(key) == keyspace.slot_of("7")


@pytest.mark.parametrize(
    "command",
    [
        ("PING",),
        ("TIME",),
        ("INFO", "server"),
        ("PUBLISH", "c", "m"),
        ("EVAL", "return 1", 0),
        ("CONFIG", "GET", "x"),
    ],
)
def test_a_command_without_a_key_is_for_any_node(command: tuple[RedisArg, ...]) -> None:
    assert slot_of(command) is None


@pytest.mark.parametrize(
    ("key", "hashed"), [("{}a", "{}a"), ("a{", "a{"), ("a{}{b}", "a{}{b}"), ("a{b}{c}", "b"), ("{{a}}", "{a")]
)
def test_a_slot_is_that_of_what_the_first_braces_hold(
    key: str, hashed: str, redis_cluster: RedisCluster
) -> None:
    assert keyspace.slot_of(key) == redis_cluster.nodes[0].call("CLUSTER", "KEYSLOT", key)
    if hashed != key:
        assert keyspace.slot_of(key) == keyspace.slot_of(hashed)


async def test_each_command_reaches_the_node_of_its_slot_at_once(
    cluster: RedisCluster, link: RedisLink
) -> None:
    for node in cluster.masters:
        node.call("CONFIG", "RESETSTAT")

    await asyncio.gather(*(link.execute("SET", f"{tag}x", tag) for tag in TAGS))

    assert await link.execute_many([("GET", f"{tag}x") for tag in TAGS]) == [tag.encode() for tag in TAGS]
    assert sum(int(node.call("DBSIZE")) for node in cluster.masters) == len(TAGS)
    assert link.connections == 3


async def test_one_seed_that_answers_is_enough(cluster: RedisCluster) -> None:
    alive = cluster.nodes[0].port
    async with open_link(f"redis-cluster://127.0.0.1:1,127.0.0.1:{alive}", timeout=1) as link:
        await asyncio.gather(*(link.execute("SET", f"{tag}x", tag) for tag in TAGS))

        assert link.connections == 3


async def test_without_a_node_to_ask_calls_fail_within_the_timeout() -> None:
    async with open_link("redis-cluster://127.0.0.1:1,127.0.0.1:2", timeout=1) as link:
        began = time.monotonic()

        for command in (("GET", "x"), ("PING",)):
            with pytest.raises(TRANSIENT):
                await link.execute(*command)

        assert time.monotonic() - began < 1


async def test_a_slot_on_its_way_is_asked_for_where_its_keys_are(
    cluster: RedisCluster, link: RedisLink
) -> None:
    slot = keyspace.slot_of("{3}")
    source = cluster.owner("{3}")
    target = next(node for node in cluster.masters if node is not source)
    await link.execute("SET", "{3}old", "1")
    await link.execute("SET", "{3}stays", "1")
    cluster.move_slot(slot, source, target)

    # Beside others on the same connection, that must not take the ASKING of this one for theirs.
    answers = await link.execute_many([("INCR", f"{{{n % 16}}}new{n}") for n in range(320)])
    old = await link.execute("GET", "{3}old")

    assert answers == [1] * 320
    assert old == b"1"
    # A call for keys of which some have moved already can be answered by neither.
    with pytest.raises(TRANSIENT):
        await link.execute("EVAL", "return redis.call('EXISTS', unpack(KEYS))", 2, "{3}stays", "{3}new3")

    cluster.end_move(slot, source, target)

    assert await link.execute("INCR", "{3}new3") == 2
    assert await link.execute("GET", "{3}old") == b"1"
    assert cluster.owner("{3}") is target


async def test_a_master_that_steps_back_costs_no_call(cluster: RedisCluster, link: RedisLink) -> None:
    master = cluster.owner("{3}")
    stop = asyncio.Event()
    done = 0

    async def call() -> None:
        nonlocal done
        while not stop.is_set():
            await link.execute("INCR", "{3}n")
            done += 1

    async with asyncio.TaskGroup() as calls:
        for _ in range(8):
            calls.create_task(call())
        await asyncio.to_thread(cluster.fail_over, cluster.replica_of(master))
        behind = done
        await eventually(lambda: done > behind + 100, "calls after the change")
        stop.set()

    assert int(await link.execute("GET", "{3}n")) == done
    assert cluster.owner("{3}") is not master


async def test_after_a_master_was_killed_its_replica_is_found_and_given_the_scripts(
    cluster: RedisCluster, link: RedisLink
) -> None:
    scripts = Scripts(link)
    keys = [f"hr:{tag}:job:none" for tag in TAGS]
    await asyncio.gather(*(scripts.call("attach", [key], "acme", "") for key in keys))
    master = cluster.owner("{3}")
    before = await link.reach("{3}")
    others = [tag for tag in TAGS if cluster.owner(tag) is not master]
    untouched = await link.reach(others[0])

    master.kill9()
    errors = await answered(link, "SET", "{3}x", "1")

    assert errors
    assert all(isinstance(error, TRANSIENT) for error in errors)
    assert await link.reach("{3}") != before
    cluster.wait_whole()
    assert await link.reach(others[0]) == untouched
    for node in cluster.masters:
        if node is not master:
            node.call("SCRIPT", "FLUSH")
    answers = await asyncio.gather(*(scripts.call("attach", [key], "acme", "") for key in keys))
    assert answers == [[]] * len(keys)
    assert await link.execute("PING") == b"PONG"


async def test_a_frozen_node_costs_the_calls_for_its_slots_no_more_than_the_timeout(
    cluster: RedisCluster, link: RedisLink
) -> None:
    master = cluster.owner("{3}")
    others = [tag for tag in TAGS if cluster.owner(tag) is not master]
    await asyncio.gather(*(link.execute("SET", f"{tag}x", tag) for tag in TAGS))
    master.sigstop()
    began = time.monotonic()

    late = asyncio.ensure_future(link.execute("GET", "{3}x"))
    answers = await asyncio.gather(*(link.execute("GET", f"{tag}x") for tag in others))
    quick = time.monotonic() - began
    with pytest.raises(RedisTimeoutError):
        await late

    assert answers == [tag.encode() for tag in others]
    assert quick < 0.5
    assert time.monotonic() - began < 1.5
    await answered(link, "SET", "{3}x", "2")


async def test_a_cluster_that_lost_slots_is_away_for_a_while(cluster: RedisCluster, link: RedisLink) -> None:
    master = cluster.owner("{3}")
    replica = cluster.replica_of(master)
    await link.execute("SET", "{3}x", "1")
    replica.kill9()
    master.kill9()

    with pytest.raises(TRANSIENT):
        await link.execute("GET", "{3}x")

    other = next(tag for tag in TAGS if cluster.owner(tag) is not master)

    async def refused() -> bool:
        """By a node that is up, and that may serve nobody while slots are missing."""
        try:
            await link.execute("GET", other)
        except TRANSIENT:
            return True
        return False

    await eventually(refused, "CLUSTERDOWN")
    master.start()
    replica.start()
    await answered(link, "GET", "{3}x", within=20)
    assert await link.execute("GET", "{3}x") == b"1"
    await answered(link, "GET", other)


async def test_blocking_reads_have_connections_of_their_own_and_one_map(
    cluster: RedisCluster, link: RedisLink
) -> None:
    reading = link.another(timeout=5)
    assert isinstance(link, ClusterLink)
    await link.execute("XGROUP", "CREATE", "{3}s", "g", "0", "MKSTREAM")
    read = asyncio.ensure_future(
        reading.execute("XREADGROUP", "GROUP", "g", "c", "BLOCK", 5_000, "STREAMS", "{3}s", ">")
    )
    await eventually(lambda: reading.connections == 1, "the read")

    await link.execute("XADD", "{3}s", "*", "a", "1")

    ((key, entries),) = await read
    assert (key, len(entries)) == (b"{3}s", 1)
    assert reading.connections == 1
    await reading.close()


async def test_a_subscription_goes_to_another_node_when_its_own_dies(
    cluster: RedisCluster, link: RedisLink
) -> None:
    heard: list[bytes] = []
    confirmed: list[None] = []
    subscription = Subscription(
        cluster.url,
        ["news"],
        on_message=lambda _, payload: heard.append(payload),
        on_subscribed=lambda: confirmed.append(None),
    )
    await subscription.start()
    await subscription.wait_open()
    there = next(node for node in cluster.masters if clients(node))

    there.kill9()
    await eventually(lambda: len(confirmed) > 1, "another node")

    async def published() -> bool:
        await link.execute("PUBLISH", "news", "again")
        return b"again" in heard

    await eventually(published, "a message from wherever it was published")
    await subscription.close()


def clients(node: RedisServer) -> bool:
    return bool(node.call("CLIENT", "LIST", "TYPE", "pubsub").strip())


@pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning")
async def test_arq_finds_its_node_and_finds_it_anew(cluster: RedisCluster) -> None:
    pool = arq_pool(cluster.url, timeout=1, default_queue_name=f"hr:{TAG}:test")
    try:
        await pool.enqueue_job("f", _job_id=f"{TAG}one")
        node = cluster.owner(TAG)
        await asyncio.to_thread(cluster.fail_over, cluster.replica_of(node))

        async def enqueued() -> bool:
            try:
                return await pool.enqueue_job("f", _job_id=f"{TAG}two") is not None
            except RedisError:
                return False

        await eventually(enqueued, "a job at the new node")
        assert await pool.zcard(f"hr:{TAG}:test") == 2
        async with pool.pipeline(transaction=True) as pipe:  # what arq does at the end of a job
            pipe.zrem("arq:abort", f"{TAG}one")
            pipe.zrem(f"hr:{TAG}:test", f"{TAG}one")
            pipe.delete(f"arq:job:{TAG}one", f"arq:retry:{TAG}one")
            assert await pipe.execute() == [0, 1, 1]
    finally:
        await pool.aclose(close_connection_pool=True)
