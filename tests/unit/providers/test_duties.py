"""What can be asked of each provider: health, costs, limits and quota."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from math import ceil
from typing import Any

import orjson
import pytest

from shared.domain.job import JobKind
from shared.providers import duties, openai, vllm
from shared.providers.catalogue import Catalogue, ListedModel
from shared.providers.duties import Cost, Quota, QuotaState, RateLimit
from shared.providers.model_lists import HealthRecord, ProviderStatus
from shared.providers.profile import ProviderProfile
from shared.providers.registry import BUILT_IN

CATALOGUE = Catalogue.load()
NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
SOON = NOW + timedelta(seconds=30)
HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello there, world"}]}  # 4 + 4 + 3 tokens


def cost(
    model: str, kind: JobKind = JobKind.CHAT, profile: ProviderProfile = openai.PROFILE, **document: Any
) -> Cost:
    return duties.estimate_cost(profile, model, kind, document, CATALOGUE)


@pytest.mark.parametrize("provider", BUILT_IN)
def test_every_provider_has_every_duty_without_code_of_its_own(provider: str) -> None:
    profile = BUILT_IN[provider].with_base_url("https://somewhere.example")

    assert duties.health(profile, None, served=True).status is ProviderStatus.UNKNOWN
    assert duties.estimate_cost(profile, "m", JobKind.CHAT, HELLO, CATALOGUE).prompt_tokens > 0
    assert duties.rate_limits(profile, None) == []
    assert duties.quota(profile, [], NOW) == Quota(QuotaState.UNKNOWN)


def test_health_is_what_a_worker_last_found() -> None:
    record = HealthRecord(ProviderStatus.DEGRADED, NOW.timestamp(), 120, "provider_rate_limited")

    found = duties.health(openai.PROFILE, record, served=True)

    assert (found.status, found.latency_ms, found.checked_at) == (ProviderStatus.DEGRADED, 120, NOW)
    assert found.error == "provider_rate_limited"


def test_a_provider_nobody_serves_or_without_an_address_is_offline() -> None:
    record = HealthRecord(ProviderStatus.ONLINE, NOW.timestamp())

    assert duties.health(openai.PROFILE, record, served=False).error == "no_worker"
    assert duties.health(vllm.PROFILE, record, served=True).error == "no_address"


@pytest.mark.parametrize(
    ("mark", "micro_usd"), [(None, 3), ({"type": "ephemeral"}, 3.75), ({"type": "ephemeral", "ttl": "1h"}, 6)]
)
def test_a_prompt_that_may_be_kept_costs_that_at_most(mark: Any, micro_usd: float) -> None:
    asked = {**HELLO, "max_tokens": 100, "cache_control": mark}

    found = cost("claude-sonnet-4-5", JobKind.MESSAGES, BUILT_IN["anthropic"], **asked)

    assert found.low_micro_usd == 3 * found.prompt_tokens
    assert found.high_micro_usd == ceil(micro_usd * found.prompt_tokens) + 1_500


def test_a_cost_lies_between_an_empty_answer_and_the_longest() -> None:
    found = cost("gpt-4o-mini", **HELLO, max_tokens=1_000)

    assert found.known
    assert (found.prompt_tokens, found.max_completion_tokens) == (11, 1_000)
    assert found.low_micro_usd == 2  # 11 * 0.15, rounded up
    assert found.high_micro_usd == 602  # and 1,000 * 0.60


@pytest.mark.parametrize(
    ("document", "longest"),
    [
        ({}, 16_384),
        ({"max_tokens": 10}, 10),
        ({"max_completion_tokens": 7, "max_tokens": 10}, 7),
        ({"max_tokens": 10, "n": 3}, 30),
        ({"max_tokens": 10**9}, 16_384),
        ({"max_tokens": None, "n": None}, 16_384),
    ],
)
def test_the_longest_answer_is_what_was_asked_or_what_the_model_can(
    document: dict[str, Any], longest: int
) -> None:
    assert cost("gpt-4o-mini", **HELLO, **document).max_completion_tokens == longest


def test_the_longest_answer_fits_beside_the_prompt() -> None:
    prompt: dict[str, Any] = {"messages": [{"role": "user", "content": "word " * 8_000}]}

    found = cost("gpt-4", **prompt)

    assert found.max_completion_tokens == 8_192 - found.prompt_tokens


def test_nothing_is_generated_for_embeddings() -> None:
    found = cost("text-embedding-3-large", JobKind.EMBEDDINGS, input=["Hello there, world"] * 1_000)

    assert (found.prompt_tokens, found.max_completion_tokens) == (4_000, 0)
    assert found.low_micro_usd == found.high_micro_usd == 520


def test_counting_tokens_is_free_and_known_to_be() -> None:
    found = cost("gpt-4o-mini", JobKind.COUNT_TOKENS, **HELLO)

    assert (found.low_micro_usd, found.high_micro_usd, found.known) == (0, 0, True)


def test_a_price_nobody_knows_is_said_to_be_unknown() -> None:
    found = cost("house-7b", profile=vllm.PROFILE, **HELLO)

    assert (found.known, found.low_micro_usd, found.high_micro_usd) == (False, 0, 0)
    assert found.max_completion_tokens is None


def test_a_price_that_only_the_provider_lists_counts() -> None:
    catalogue = Catalogue.load()
    catalogue.relist(
        [ListedModel("big", "openai", max_output_tokens=100, price_prompt=10**6, price_completion=10**6)]
    )

    found = duties.estimate_cost(openai.PROFILE, "big", JobKind.CHAT, HELLO, catalogue)

    assert (found.known, found.low_micro_usd) == (True, found.prompt_tokens)
    assert found.high_micro_usd == found.prompt_tokens + 100


def test_limits_are_read_as_they_were_stored() -> None:
    stored = {
        "requests": {"limit": 10_000, "remaining": 9_999, "reset_at": SOON.timestamp()},
        "tokens": {"limit": 500, "remaining": 5, "reset_at": SOON.isoformat()},
        "concurrency": {"limit": 4},
        "at": 1_763_985_600,
    }

    assert duties.rate_limits(openai.PROFILE, orjson.dumps(stored)) == [
        RateLimit("requests", 10_000, 9_999, SOON),
        RateLimit("tokens", 500, 5, SOON),
        RateLimit("concurrency", 4, None, None),
    ]


@pytest.mark.parametrize("stored", [None, b"", b"[]", b"7", b'{"tokens":{"limit":"x","reset_at":"soon"}}'])
def test_limits_that_make_no_sense_say_nothing(stored: bytes | None) -> None:
    limits = duties.rate_limits(openai.PROFILE, stored)

    assert limits in ([], [RateLimit("tokens", None, None, None)])


@pytest.mark.parametrize(
    ("limits", "quota"),
    [
        ([], Quota(QuotaState.UNKNOWN)),
        ([RateLimit("requests", 100, 50, SOON)], Quota(QuotaState.AVAILABLE, SOON)),
        (
            [RateLimit("requests", 100, 50, SOON), RateLimit("tokens", 100, 10, None)],
            Quota(QuotaState.LOW),
        ),
        (
            [RateLimit("requests", 100, 0, SOON), RateLimit("tokens", 100, 10, None)],
            Quota(QuotaState.EXHAUSTED, SOON),
        ),
        ([RateLimit("requests", 100, 0, NOW)], Quota(QuotaState.AVAILABLE)),
    ],
)
def test_the_quota_is_that_of_the_scarcest_allowance(limits: list[RateLimit], quota: Quota) -> None:
    assert duties.quota(openai.PROFILE, limits, NOW) == quota
