"""The envelope, and the table of states."""

from __future__ import annotations

from dataclasses import replace

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.job import (
    ENVELOPE_VERSION,
    OLDEST_ENVELOPE,
    TERMINAL,
    TRANSITIONS,
    FallbackOn,
    Job,
    JobKind,
    JobState,
    Lane,
    Surface,
    Target,
    UnknownEnvelope,
)
from shared.domain.usage import Outcome, Settlement, Usage
from shared.ids import AccountId, ApiKeyId, JobId, RequestId

# JSON has no lone surrogates.
words = st.text(st.characters(codec="utf-8"))
counts = st.integers(0, 2**53)

jobs = st.builds(
    Job,
    id=words.map(JobId),
    kind=st.sampled_from(JobKind),
    lane=st.sampled_from(Lane),
    surface=st.sampled_from(Surface),
    account=words.map(AccountId),
    api_key=words.map(ApiKeyId),
    request_id=words.map(RequestId),
    plan=st.lists(st.builds(Target, words, words, words), min_size=1, max_size=3).map(tuple),
    stream=st.booleans(),
    include_usage=st.booleans(),
    budget_ms=counts,
    body=st.binary(),
    fallback_on=st.frozensets(st.sampled_from(FallbackOn)),
)

PLAIN = Job(
    id=JobId("job_1"),
    kind=JobKind.CHAT,
    lane=Lane.INTERACTIVE,
    surface=Surface.OPENAI,
    account=AccountId("acc_1"),
    api_key=ApiKeyId("key_1"),
    request_id=RequestId("req_1"),
    plan=(Target("openai", "gpt-4o"),),
    stream=False,
    include_usage=False,
    budget_ms=1_000,
    body=b"{}",
)

settlements = st.builds(
    Settlement,
    outcome=st.sampled_from(Outcome),
    provider=words,
    model=words,
    usage=st.builds(Usage, counts, counts, counts, counts, st.booleans(), counts, counts),
    cost_micro_usd=counts,
    queue_ms=counts,
    provider_ms=counts,
    ttft_ms=st.none() | counts,
    attempts=counts,
    deliveries=counts,
    error=st.none() | words,
)


@given(jobs)
def test_a_job_comes_back_from_the_wire_as_it_went(job: Job) -> None:
    assert Job.from_wire(job.header(), job.body) == job


@given(jobs)
def test_only_what_the_last_release_cannot_run_is_written_in_a_new_form(job: Job) -> None:
    written = orjson.loads(job.header())
    if len(job.plan) == 1 and not job.fallback_on:
        assert written["v"] == OLDEST_ENVELOPE
        assert "on" not in written
    else:
        assert written["v"] == ENVELOPE_VERSION


def test_a_job_at_its_next_target_asks_for_the_model_there() -> None:
    plan = (Target("openai", "gpt-4o"), Target("anthropic", "claude"))
    job = replace(PLAIN, plan=plan, body=b'{"model":"gpt-4o","messages":[]}')
    assert job.next_target == plan[1]
    moved = job.at(1)
    assert moved.target == plan[1]
    assert moved.next_target is None
    assert orjson.loads(moved.body) == {"model": "claude", "messages": []}
    assert job.at(0) is job


@given(settlements)
def test_a_settlement_comes_back_from_the_wire_as_it_went(settlement: Settlement) -> None:
    assert Settlement.from_wire(settlement.to_wire()) == settlement


@given(settlements)
def test_a_settlement_of_the_release_before_says_nothing_of_what_was_kept(settlement: Settlement) -> None:
    fields = orjson.loads(settlement.to_wire())
    del fields["written"], fields["written_1h"]

    usage = replace(settlement.usage, cache_write_tokens=0, cache_write_1h_tokens=0)
    assert Settlement.from_wire(orjson.dumps(fields)) == replace(settlement, usage=usage)


@pytest.mark.parametrize("version", [ENVELOPE_VERSION + 1, 0, None, "1", [1]])
def test_an_envelope_of_another_version_is_refused_before_it_is_read(version: object) -> None:
    with pytest.raises(UnknownEnvelope, match="version"):
        Job.from_wire(orjson.dumps({"v": version, "everything": "else"}), b"")


def test_the_states_that_lead_nowhere_are_the_terminal_ones() -> None:
    assert set(TRANSITIONS) == set(JobState)
    assert {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED} == TERMINAL
    assert all(TRANSITIONS[state] == frozenset() for state in TERMINAL)


def test_every_state_can_be_reached_and_every_other_can_end() -> None:
    reachable = {JobState.QUEUED}.union(*TRANSITIONS.values())

    assert reachable == set(JobState)
    assert all(TRANSITIONS[state] & TERMINAL for state in set(JobState) - TERMINAL)
