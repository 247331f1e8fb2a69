"""A line of the input as one request of the provider's own batch."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from shared.batches.faults import Fault
from shared.batches.lines import refused
from shared.domain.batch import line_id_of, read_row
from shared.domain.job import Job, Target
from shared.errors import BrokerError
from shared.providers.dialect import Call
from shared.providers.profile import ProviderProfile


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """`job`: what the line would be by itself, at this provider alone. `group`: it shares a batch with those
    of the same. `weight`: see BatchApi.
    """

    job: Job
    text: bytes
    endpoint: str
    headers: Mapping[str, str]
    group: Hashable
    weight: int


def request_of(
    job: Job, document: Mapping[str, Any], target: Target, profile: ProviderProfile
) -> BatchRequest | Fault | None:
    """`target`: one of the job's. None where the provider's batches serve no such request; a fault where the
    provider can be asked no such thing at all.
    """
    api = profile.batches
    if api is None:
        return None
    at = replace(job.at(job.plan.index(target)), plan=(target,), hop=0, fallback_on=frozenset())
    batch, ordinal = read_row(job.row or "")
    try:
        request = profile.codec(at.kind).encode(Call(at.body, target, profile, False, True, at.id))
    except BrokerError as exc:
        return refused(exc, ordinal=ordinal)
    endpoint = api.endpoint(request.path)
    if endpoint is None:
        return None
    return BatchRequest(
        job=at,
        text=api.request(line_id_of(batch, ordinal), endpoint, request.body),
        endpoint=endpoint,
        headers=request.headers,
        group=api.group(endpoint, target.model, request.headers),
        weight=api.weight(endpoint, document),
    )


def target_of(job: Job, provider: str, credential: str) -> Target | None:
    """The first of a job's that is there."""
    wanted = (provider, credential)
    return next((one for one in job.plan if (one.provider, one.credential) == wanted), None)
