"""Every Redis key, built here and nowhere else.

A job's keys carry its shard as hash tag (`{7}`), on whatever provider it runs, so
each transition is one atomic script in Redis Cluster too.

| key | type | holds | ends by |
| --- | --- | --- | --- |
| hr:{s}:lane:<provider>:<lane> | stream | ready jobs, one field `job` | never; entries by ack + delete |
| hr:{s}:backlog:<provider>:<lane> | zset | jobs that wait for room in the lane, by start tag | promotion |
| ...:backlog:<provider>:<lane>:tenants | hash | tags and counts of their tenants | promotion |
| ...:backlog:<provider>:<lane>:parked | zset | `<account>|<tag>|<job>` of tenants at their cap | promotion |
| ...:backlog:<provider>:<lane>:flying | hash | jobs in a lane with a cap, by tenant | promotion |
| ...:backlog:<provider>:<lane>:aside | hash | jobs put aside until due, in all and by tenant | promotion |
| hr:{s}:retries:<provider> | string | hundredths of retries the fleet may spend | never |
| hr:{s}:retries:<provider>:reserve | string | retries of the last ten seconds beside these | TTL |
| hr:{s}:flight:<digest> | string | the first of identical jobs in flight: its key | TTL |
| hr:{s}:try:<digest> | string | the job that a client's tries at one request stand for: its key | TTL |
| hr:{s}:delayed:<provider> | zset | `<job>|<lane>` by due time, ms | promotion |
| hr:{s}:dead:<provider> | stream | dead letters: id, reason, counters | the operator |
| hr:{s}:job:<job> | hash | envelope, state, fence, result; that its owner deleted it | TTL |
| hr:{s}:events:<job> | stream | stream events; id = last ordinal | TTL, or with its job |
| hr:{s}:idempotent:<digest> | string | id of the job that an Idempotency-Key stands for | TTL |
| hr:{s}:usage | stream | settled jobs for the ledger | the ledger's ack + delete |
| hr:{s}:ended | stream | jobs that ended, and that the database has not kept yet | its keeper's delete |
| hr:{s}:usage:rejected | stream | what the ledger could not read, and why | the operator |
| hr:reply:<process> | channel | results and events for one api process | - |
| hr:worker:<consumer> | channel | cancellations for one worker process | - |
| hr:revoked | channel | ids of api keys and credentials that were revoked or whose principal changed | - |
| hr:key:<digest> | string | a cached principal, JSON | TTL |
| hr:key:session:<user>:<account> | string | the cached principal of a member's sessions, JSON | TTL |
| hr:session:ended:<session> | string | set while access tokens of a session that ended would be good | TTL |
| hr:key:version | string | counter, raised by each revocation and changed principal | never |
| hr:scheduler:alive | string | providers whose retries a scheduler promotes, by comma | TTL |
| hr:ledger:current | string | that the ledger has read all usage there was | TTL |
| hr:served:<provider> | string | set while some worker serves it | TTL |
| hr:served:<provider>:own | string | set while some worker serves it with accounts' own keys alone | TTL |
| hr:models:<provider> | string | the models it lists, JSON | TTL |
| hr:models:due:<provider> | string | set while no worker need ask for its list again | TTL |
| hr:health:<provider> | string | how it answered when last asked for its list, JSON | TTL |
| hr:limits:<provider> | string | the limits its answers told, JSON | TTL |
| hr:breaker:<provider> | hash | `<credential>|<origin>` to what its breaker was last told to be, JSON | TTL |
| hr:probe:<provider>:<credential> | string | token of the one call that tries it again | its end, TTL |
| hr:pause:<provider>:<credential> | string | set while nothing is sent on that account | TTL |
| hr:permits:{<provider>:<credential>} | hash | what an account used of its minute | TTL |
| hr:permits:{...}:held, :held:batch | zset | calls that run on it, and those of batch work, by expiry | TTL |
| hr:limit:{<account>}:holds | hash | what is reserved for jobs of an account, by job | settlement, lapse |
| hr:limit:{<account>}:due | zset | the same jobs by when their reservation lapses, ms | settlement, lapse |
| hr:limit:{<account>}:<scope>:<id> | hash | what was used of one allowance, by rule | TTL |
| hr:limit:{<account>}:passed | hash | budgets above half of their limit, as last settled | TTL |
| hr:limit:{<account>}:<scope>:<id>:calls | zset | its calls under way, by when they lapse, ms | TTL |
| hr:load:<provider> | hash | consumer to what it has free and how fast it is, JSON behind a moment | TTL |
| hr:batch:<batch>:turn | string | token of the scheduler that works on it | its end, TTL |
| hr:conditions | channel | news of breakers and pauses, JSON | - |
"""

from __future__ import annotations

from binascii import crc_hqx
from typing import Final

from shared.domain.job import Lane
from shared.ids import JobId

GROUP: Final = "workers"
"""Consumer group of every lane; always created at id 0."""
LEDGER_GROUP: Final = "ledger"

SLOTS: Final = 16_384
"""Of a Redis Cluster."""

REVOKED_CHANNEL: Final = "hr:revoked"
KEY_VERSION: Final = "hr:key:version"
CONDITIONS_CHANNEL: Final = "hr:conditions"
SCHEDULER_ALIVE: Final = "hr:scheduler:alive"
LEDGER_CURRENT: Final = "hr:ledger:current"


def shard_of(name: str, shards: int) -> int:
    """CRC16 (XMODEM, as Redis Cluster uses) of a job id or digest, modulo the number of shards."""
    return crc_hqx(name.encode(), 0) % shards if shards > 1 else 0


def slot_of(key: str | bytes) -> int:
    """The slot of a key in a Redis Cluster: of what its first braces hold, else of all of it."""
    name = key.encode() if isinstance(key, str) else key
    start = name.find(b"{")
    if start >= 0:
        end = name.find(b"}", start + 1)
        if end > start + 1:
            name = name[start + 1 : end]
    return crc_hqx(name, 0) % SLOTS


def lane(shard: int, provider: str, name: Lane) -> str:
    return f"hr:{{{shard}}}:lane:{provider}:{name.value}"


def backlog(shard: int, provider: str, name: Lane) -> str:
    return f"hr:{{{shard}}}:backlog:{provider}:{name.value}"


def retries(shard: int, provider: str) -> str:
    return f"hr:{{{shard}}}:retries:{provider}"


def flight(shard: int, digest: str) -> str:
    return f"hr:{{{shard}}}:flight:{digest}"


def tried(shard: int, digest: str) -> str:
    return f"hr:{{{shard}}}:try:{digest}"


def delayed(shard: int, provider: str) -> str:
    return f"hr:{{{shard}}}:delayed:{provider}"


def dead(shard: int, provider: str) -> str:
    return f"hr:{{{shard}}}:dead:{provider}"


def job(shard: int, job_id: JobId) -> str:
    return f"hr:{{{shard}}}:job:{job_id}"


def events(shard: int, job_id: JobId) -> str:
    return f"hr:{{{shard}}}:events:{job_id}"


def idempotent(shard: int, digest: str) -> str:
    return f"hr:{{{shard}}}:idempotent:{digest}"


def usage(shard: int) -> str:
    return f"hr:{{{shard}}}:usage"


def ended(shard: int) -> str:
    return f"hr:{{{shard}}}:ended"


def usage_rejected(shard: int) -> str:
    return f"hr:{{{shard}}}:usage:rejected"


def reply_channel(process: str) -> str:
    return f"hr:reply:{process}"


def served(provider: str, *, own: bool = False) -> str:
    return f"hr:served:{provider}{':own' if own else ''}"


def models(provider: str) -> str:
    return f"hr:models:{provider}"


def models_due(provider: str) -> str:
    return f"hr:models:due:{provider}"


def health(provider: str) -> str:
    return f"hr:health:{provider}"


def limits(provider: str) -> str:
    return f"hr:limits:{provider}"


def breaker(provider: str) -> str:
    return f"hr:breaker:{provider}"


def probe(provider: str, credential: str) -> str:
    return f"hr:probe:{provider}:{credential}"


def pause(provider: str, credential: str) -> str:
    return f"hr:pause:{provider}:{credential}"


def permits(provider: str, credential: str) -> str:
    """The tag is the account: no script touches a job and a permit at once."""
    return f"hr:permits:{{{provider}:{credential}}}"


def permit_holders(provider: str, credential: str, *, batch: bool = False) -> str:
    return f"hr:permits:{{{provider}:{credential}}}:held{':batch' if batch else ''}"


def holds(account: str) -> str:
    """What the scripts build the other keys of the account from."""
    return f"hr:limit:{{{account}}}:holds"


def passed(account: str) -> str:
    return f"hr:limit:{{{account}}}:passed"


def calls_at_once(account: str, subject: str) -> str:
    return f"hr:limit:{{{account}}}:{subject}:calls"


def load(provider: str) -> str:
    return f"hr:load:{provider}"


def worker_channel(consumer: str) -> str:
    return f"hr:worker:{consumer}"


def batch_turn(batch: str) -> str:
    return f"hr:batch:{batch}:turn"


def session_ended(session: str) -> str:
    return f"hr:session:ended:{session}"


def api_key(digest: str) -> str:
    return f"hr:key:{digest}"
