"""Redis: there, right for a queue, with room, and telling the same time."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Final

from redis.exceptions import RedisError, ResponseError

from cli.doctor.findings import Finding, NotThere, fail, ok, skip, warn
from cli.doctor.patient import Patient, RedisAway
from cli.production import redis_password_complaints
from shared.queue.eviction import SAFE, policy_of
from shared.queue.redis_link import RedisLink, redacted
from shared.queue.redis_url import Cluster, OneServer, Sentinels, read_url
from shared.queue.script_calls import SCRIPTS, source

OLDEST: Final = (6, 2)
_LOOKS: Final = 20
_SLOW_MS: Final = 25.0
_SKEW_WARN_SECONDS: Final = 1.0
_SKEW_FAIL_SECONDS: Final = 10.0
_PUBSUB_BYTES: Final = 8 * 1024 * 1024
"""What a subscriber may be behind at least: the default of Redis for a minute."""
_UNTOLD: Final = "The server does not tell: managed ones refuse CONFIG. Look at it where you manage it."


async def reach(patient: Patient) -> Finding:
    try:
        await patient.redis()
    except RedisAway as away:
        if away.refused:
            return ok(f"{_place(patient)} answers.")
        return fail(
            f"{_place(patient)} cannot be used: {away.why}.",
            fix="Start the server, or set REDIS_URL to where it is. See docs/redis.md for its forms.",
        )
    return ok(f"{_place(patient)} answers.")


async def password(patient: Patient) -> Finding:
    try:
        await patient.redis()
    except RedisAway as away:
        if not away.refused:
            raise
        return fail(
            f"Redis refuses us: {away.why}.",
            fix="Set REDIS_URL to redis://USER:PASSWORD@HOST:PORT/0 with what the server knows "
            "(redis-cli ACL LIST shows its users).",
        )
    complaint = next(redis_password_complaints(patient.redis_url or ""), None)
    if complaint is None:
        return ok("The password is taken.")
    if patient.in_production:
        return fail(
            complaint,
            fix="redis-cli CONFIG SET requirepass NEW, the same in redis.conf, and "
            "REDIS_URL=redis://:NEW@HOST:PORT/0 with a random one (openssl rand -hex 32).",
        )
    return ok("The server is open, which production does not start with.")


async def version(patient: Patient) -> Finding:
    facts = await _facts(await patient.redis(), "server")
    found = [one.get("redis_version", "?") for one in facts]
    old = [text for text in found if _version(text) < OLDEST]
    if old:
        return fail(
            f"The server is Redis {old[0]}; Headrace needs 6.2 or newer.",
            fix="Move to Redis 6.2 or newer, or Valkey.",
        )
    return ok(f"{' and '.join(sorted(set(found)))} is new enough.")


async def policy(patient: Patient) -> Finding:
    found = await policy_of(await patient.redis())
    if found is None:
        return skip(_UNTOLD)
    if found == SAFE:
        return ok(f"A full server refuses ({SAFE}).")
    return fail(
        f"A full server throws queued jobs away: its maxmemory-policy is {found}.",
        fix=f"redis-cli CONFIG SET maxmemory-policy {SAFE}, and `maxmemory-policy {SAFE}` in redis.conf.",
    )


async def memory(patient: Patient) -> Finding:
    limit = patient.settings.queue.max_memory_percent
    fullest, unlimited = 0, False
    for facts in await _facts(await patient.redis(), "memory"):
        most, used = int(facts.get("maxmemory", "0")), int(facts["used_memory"])
        unlimited |= not most
        fullest = max(fullest, 100 * used // most if most else 0)
    if fullest >= limit:
        return fail(
            f"{fullest} % of maxmemory is used, so that new jobs answer 503 (from {limit} %).",
            fix="Add workers so that the queue drains, or raise it: redis-cli CONFIG SET maxmemory 4gb. "
            "See docs/operations/capacity.md.",
        )
    if unlimited and patient.in_production:
        return warn(
            "maxmemory is not set: a queue that grows ends with the server killed instead of with 503.",
            fix="redis-cli CONFIG SET maxmemory 2gb, and the same in redis.conf: about two thirds of the "
            "machine's memory.",
        )
    if fullest >= limit * 4 // 5:
        return warn(
            f"{fullest} % of maxmemory is used; new jobs answer 503 from {limit} %.",
            fix="redis-cli CONFIG SET maxmemory 4gb. See docs/operations/capacity.md.",
        )
    return ok("maxmemory is not set." if unlimited else f"{fullest} % of maxmemory is used.")


async def durability(patient: Patient) -> list[Finding]:
    link = await patient.redis()
    found: list[Finding] = []
    facts = await _facts(link, "persistence")
    if any(one.get("aof_last_write_status", "ok") != "ok" for one in facts):
        found.append(
            fail("The last write of the append-only file failed.", fix="Make room on the disk of Redis.")
        )
    if any(one.get("rdb_last_bgsave_status", "ok") != "ok" for one in facts):
        found.append(
            fail(
                "The last snapshot failed, so that writes are refused (MISCONF).",
                fix="Make room on the disk of Redis; then redis-cli BGSAVE.",
            )
        )
    if any(one.get("aof_enabled") == "0" for one in facts):
        found.append(
            warn(
                "Without an append-only file a restart empties the queue: waiting calls are lost, jobs that "
                "were accepted (202) are queued again from the database.",
                fix="redis-cli CONFIG SET appendonly yes, and `appendonly yes` in redis.conf.",
            )
        )
    elif "no" in (await _setting(link, "appendfsync") or []):
        found.append(
            warn(
                "appendfsync is no: a power cut loses what the system had not written yet.",
                fix="redis-cli CONFIG SET appendfsync everysec, and the same in redis.conf.",
            )
        )
    return found or [ok("What was written outlives a restart (append-only file).")]


async def replicas(patient: Patient) -> Finding:
    link = await patient.redis()
    place = read_url(patient.redis_url or "")
    if isinstance(place, OneServer):
        return ok("One server: while it is down new calls answer 503 (docs/redis.md).")
    if isinstance(place, Cluster):
        told = str(await link.execute("CLUSTER", "INFO"), "utf-8", "replace")
        if "cluster_state:ok" not in told:
            return fail(
                "The cluster says that it is not whole.",
                fix="redis-cli --cluster check HOST:PORT, then redis-cli --cluster fix HOST:PORT.",
            )
    facts = await _facts(link, "replication")
    bare = sum(one.get("connected_slaves", "0") == "0" for one in facts)
    if bare:
        return warn(
            f"{bare} of {len(facts)} masters have no replica: what they hold is lost with them.",
            fix="Attach one: redis-cli --cluster add-node NEW:PORT HOST:PORT --cluster-slave"
            if isinstance(place, Cluster)
            else "Attach one: redis-cli -h REPLICA REPLICAOF MASTER PORT, with masterauth set.",
        )
    if isinstance(place, Sentinels) and len(place.addresses) < 3:
        return warn(
            f"REDIS_URL names {len(place.addresses)} sentinels: fewer than three agree on nothing once one "
            "is gone.",
            fix="Run three sentinels, and name them all in REDIS_URL.",
        )
    return ok(f"Each of {len(facts)} masters has a replica.")


async def scripts(patient: Patient) -> Finding:
    link = await patient.redis()
    try:
        for name in SCRIPTS:
            await link.execute_everywhere("SCRIPT", "LOAD", source(name, with_flags=False))
        await link.execute("EVAL", "return redis.call('TIME')", 1, "hr:{0}:doctor")
    except ResponseError as exc:
        return fail(
            f"Redis does not run the scripts of the queue ({str(exc).split()[0]}).",
            fix="Allow the user of REDIS_URL EVAL, EVALSHA and SCRIPT: "
            "redis-cli ACL SETUSER USER +@scripting",
        )
    return ok(f"All {len(SCRIPTS)} scripts of the queue can be run.")


async def latency(patient: Patient) -> Finding:
    link = await patient.redis()
    took = []
    for _ in range(_LOOKS):
        started = patient.clock.monotonic()
        await link.execute("PING")
        took.append((patient.clock.monotonic() - started) * 1000)
    median = statistics.median(took)
    if median > _SLOW_MS:
        return warn(
            f"An answer takes {median:.0f} ms: each call waits for several.",
            fix="Run Redis beside the broker (one zone, no swap; redis-cli --latency shows it).",
        )
    return ok(f"An answer takes {median:.1f} ms.")


async def clock(patient: Patient) -> Finding:
    link = await patient.redis()
    before = patient.clock.now()
    seconds, micros = await link.execute("TIME")
    after = patient.clock.now()
    there = int(seconds) + int(micros) / 1e6
    return judge_skew(there - (before.timestamp() + after.timestamp()) / 2, "Redis")


def judge_skew(ahead_seconds: float, whose: str) -> Finding:
    """`ahead_seconds`: how far that clock is ahead of this machine's."""
    apart, side = abs(ahead_seconds), "ahead of" if ahead_seconds > 0 else "behind"
    told = f"The clock of {whose} is {apart:.1f} s {side} this machine's."
    fix = f"Keep both in time: systemctl enable --now chrony (or ntpd) here and at {whose}."
    if apart >= _SKEW_FAIL_SECONDS:
        return fail(f"{told} Deadlines and sessions end at wrong moments.", fix=fix)
    if apart >= _SKEW_WARN_SECONDS:
        return warn(told, fix=fix)
    return ok(f"The clocks of {whose} and this machine agree.")


async def buffers(patient: Patient) -> Finding:
    """Replies are published: a subscriber that is cut off for being behind hears of them late."""
    found = await _setting(await patient.redis(), "client-output-buffer-limit")
    if found is None:
        return skip(_UNTOLD)
    for text in found:
        words = text.split()
        limits = {words[at]: tuple(map(int, words[at + 1 : at + 3])) for at in range(0, len(words), 4)}
        hard, soft = limits.get("pubsub", (0, 0))
        if 0 < hard < _PUBSUB_BYTES or 0 < soft < _PUBSUB_BYTES:
            return warn(
                "Subscribers may be behind by less than 8 MiB: an api process under load is cut off, and "
                "its callers are answered up to 2 s late.",
                fix="redis-cli CONFIG SET client-output-buffer-limit 'pubsub 32mb 8mb 60', and the same in "
                "redis.conf.",
            )
    return ok("Subscribers may be far enough behind.")


async def connections(patient: Patient) -> Finding:
    link = await patient.redis()
    most = await _setting(link, "maxclients")
    if most is None:
        return skip(_UNTOLD)
    used = [int(facts["connected_clients"]) for facts in await _facts(link, "clients")]
    fullest = max(100 * one // int(limit) for one, limit in zip(used, most, strict=True))
    if fullest >= 80:
        return warn(
            f"{fullest} % of the connections that Redis takes are in use.",
            fix="redis-cli CONFIG SET maxclients 20000, and the same in redis.conf.",
        )
    return ok(f"{max(used)} connections of {most[0]}.")


def _place(patient: Patient) -> str:
    """Never with what it is opened by."""
    if patient.redis_url is None:
        raise NotThere
    place = read_url(patient.redis_url)
    return redacted(place.url) if isinstance(place, OneServer) else place.shown()


async def _facts(link: RedisLink, section: str) -> list[Mapping[str, str]]:
    """INFO of every master."""
    answers: Sequence[Any] = await link.execute_everywhere("INFO", section)
    return [
        dict(line.split(":", 1) for line in str(answer, "utf-8", "replace").splitlines() if ":" in line)
        for answer in answers
    ]


async def _setting(link: RedisLink, name: str) -> list[str] | None:
    """Of every master; None where one does not tell."""
    try:
        answers = await link.execute_everywhere("CONFIG", "GET", name)
    except RedisError:
        return None
    return [str(answer[1], "utf-8", "replace") for answer in answers if len(answer) == 2] or None


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdigit())
