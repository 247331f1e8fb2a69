"""Plans: what is in them, in which order, and what is told when there can be none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.domain.conditions import BreakerState, ProviderCondition
from shared.domain.job import FallbackOn, JobKind, Target
from shared.errors import InvalidRequest, ModelNotFound, NoFittingTarget
from shared.providers.catalogue import load_catalogue
from shared.providers.tokens import prompt_tokens
from shared.routing.needs import Needs
from shared.routing.routing_file import MAX_TARGETS, Policy
from tests.unit.routing.support import GPT, HAIKU, HELLO, HOUSE, IMAGE, MINI, PROVIDERS, Routed

TEXT = """
[routes.house]
targets = ["openai/gpt-4o-mini", "claude-haiku-4-5", "vllm/house-7b"]
fallback_on = ["context_length"]

[routes.two]
targets = ["openai/gpt-4o-mini", "claude-haiku-4-5", "vllm/house-7b"]
max_targets = 2

[routes.mixed]
fallback_on = ["context_length"]
targets = ["text-embedding-3-small", "gpt-4o", "gpt-3.5-turbo-instruct"]

[routes.one]
targets = ["gpt-3.5-turbo-instruct"]
fallback_on = ["context_length"]

[fallbacks]
"openai/gpt-4o" = ["claude-haiku-4-5"]
"""
OPEN = ProviderCondition(breaker=BreakerState.OPEN, open_seconds=5)
HALF_OPEN = ProviderCondition(breaker=BreakerState.HALF_OPEN)
PAUSED = ProviderCondition(paused_seconds=1.5)
SEARCH = {"type": "function", "function": {"name": "search"}}


@pytest.fixture
def routed(tmp_path: Path) -> Routed:
    return Routed(tmp_path, TEXT)


def says(*parts: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}]}


def test_a_name_that_is_no_route_leads_where_it_led(routed: Routed) -> None:
    for name in ("gpt-4o-mini", "openai/gpt-4o-mini"):
        plan = routed.plan(name)

        assert plan.targets == (MINI,)
        assert plan.asked == ("openai",)
        assert plan.fallback_on == frozenset()


def test_the_fallbacks_of_a_model_go_with_every_name_of_it(routed: Routed) -> None:
    assert routed.targets("gpt-4o") == routed.targets("openai/gpt-4o") == (GPT, HAIKU)


def test_the_callers_fallbacks_stand_in_the_place_of_the_files(routed: Routed) -> None:
    plan = routed.plan("gpt-4o", fallbacks=("vllm/house-7b", "gpt-4o-mini"))

    assert plan.targets == (GPT, HOUSE, MINI)
    assert plan.asked == ("openai", "vllm/house-7b", "gpt-4o-mini")
    assert routed.targets("gpt-4o", fallbacks=()) == (GPT,)


def test_fallbacks_come_behind_a_route_and_may_be_routes(routed: Routed) -> None:
    assert routed.targets("house", fallbacks=("gpt-4o",)) == (MINI, HAIKU, HOUSE, GPT)
    assert routed.targets("gpt-4o", fallbacks=("two",)) == (GPT, MINI, HAIKU)


def test_a_route_that_is_fallen_back_to_counts_only_what_it_adds(routed: Routed) -> None:
    assert routed.targets("gpt-4o-mini", fallbacks=("two",)) == (MINI, HAIKU, HOUSE)


def test_a_job_carries_no_more_targets_than_it_can(tmp_path: Path) -> None:
    text = "\n".join(
        f"[routes.r{n}]\ntargets = {[f'vllm/m{n}-{each}' for each in range(MAX_TARGETS)]}" for n in range(3)
    )

    targets = Routed(tmp_path, text).targets("r0", fallbacks=("r1", "r2"))

    assert [target.model for target in targets] == [f"m0-{each}" for each in range(MAX_TARGETS)]


def test_no_target_stands_twice(routed: Routed) -> None:
    assert routed.targets("gpt-4o", fallbacks=("openai/gpt-4o", "gpt-4o-mini", "house")) == (
        GPT,
        MINI,
        HAIKU,
        HOUSE,
    )


def test_an_unknown_fallback_is_not_found_and_named(routed: Routed) -> None:
    with pytest.raises(ModelNotFound, match="'gpt-4o-mni'") as missing:
        routed.plan("gpt-4o", fallbacks=("gpt-4o-mini", "gpt-4o-mni"))

    assert missing.value.param == "fallback_models"
    assert "gpt-4o-mini" in missing.value.details["available_models"]


def test_routes_are_suggested_for_a_name_that_is_nearly_theirs(routed: Routed) -> None:
    with pytest.raises(ModelNotFound) as missing:
        routed.plan("hous")

    assert missing.value.param == "model"
    assert missing.value.details["available_models"][0] == "house"


def test_a_failure_of_the_request_moves_it_on_where_the_route_or_the_caller_says(routed: Routed) -> None:
    assert routed.plan("house").fallback_on == {FallbackOn.CONTEXT_LENGTH}
    assert routed.plan("two").fallback_on == frozenset()
    filtered = frozenset({FallbackOn.CONTENT_FILTER})
    assert routed.plan("house", fallback_on=filtered).fallback_on == filtered
    assert routed.plan("gpt-4o", fallback_on=filtered).fallback_on == filtered
    # With nobody to move on to, workers of the release before can read the job too.
    assert routed.plan("gpt-4o-mini", fallback_on=filtered).fallback_on == frozenset()
    assert routed.plan("mixed", says(IMAGE)).targets == (GPT,)
    assert routed.plan("mixed", says(IMAGE)).fallback_on == frozenset()


def test_what_the_request_needs_decides_who_may_take_it(routed: Routed) -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}

    # The house model is in no catalogue: it can what vLLM can.
    assert HOUSE in routed.targets("house", {**HELLO, "tools": [SEARCH]})
    assert routed.targets("mixed", {**HELLO, "stream": True}) == (GPT,)
    assert routed.targets("mixed", {**HELLO, "response_format": schema}) == (GPT,)
    assert routed.targets("mixed", says(IMAGE)) == (GPT,)


@pytest.mark.parametrize(
    ("kind", "document", "needs"),
    [
        (JobKind.CHAT, HELLO, {"chat"}),
        (JobKind.CHAT, {**HELLO, "stream": True, "tools": []}, {"chat", "stream"}),
        (JobKind.CHAT, {**HELLO, "functions": [{"name": "f"}]}, {"chat", "function-calling"}),
        (JobKind.CHAT, {**HELLO, "response_format": {"type": "json_object"}}, {"chat"}),
        (JobKind.CHAT, says({"type": "text", "text": "a"}, IMAGE), {"chat", "vision"}),
        (
            JobKind.MESSAGES,
            says({"type": "tool_result", "content": [{"type": "image", "source": {}}]}),
            {"chat", "vision"},
        ),
        (
            JobKind.MESSAGES,
            {**HELLO, "output_config": {"format": {"type": "json_schema"}}},
            {"chat", "structured-output"},
        ),
        (
            JobKind.RESPONSES,
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            {"chat", "vision"},
        ),
        (
            JobKind.RESPONSES,
            {"input": "a", "text": {"format": {"type": "json_schema"}}},
            {"chat", "structured-output"},
        ),
        (JobKind.EMBEDDINGS, {"input": ["a"]}, {"embeddings"}),
        (JobKind.RERANK, {"query": "a", "documents": ["b"]}, {"rerank"}),
        (JobKind.COMPLETION, {"prompt": "a", "stream": True}, set()),
    ],
)
def test_needs_are_read_from_every_form(kind: JobKind, document: dict[str, Any], needs: set[str]) -> None:
    assert {need.value for need in Needs(kind, document).capabilities} == needs


def test_a_kind_goes_to_those_who_serve_it(routed: Routed) -> None:
    embedded = routed.plan(
        "gpt-4o-mini", {"input": "a"}, kind=JobKind.EMBEDDINGS, fallbacks=("text-embedding-3-small",)
    )

    assert [target.model for target in embedded.targets] == ["text-embedding-3-small"]
    with pytest.raises(InvalidRequest) as refused:
        routed.plan(
            "claude-haiku-4-5",
            {"input": "a"},
            kind=JobKind.EMBEDDINGS,
            fallbacks=("anthropic/claude-sonnet-4-5",),
        )
    assert refused.value.code == "unsupported_by_provider"


def test_when_nobody_can_take_it_each_target_is_told_with_what_it_lacks(routed: Routed) -> None:
    with pytest.raises(NoFittingTarget) as refused:
        routed.plan("text-embedding-3-small", says(IMAGE), fallbacks=("gpt-3.5-turbo-instruct",))

    assert (refused.value.status, refused.value.code) == (400, "no_fitting_target")
    assert set(refused.value.details["lacking"]) == {
        "openai/text-embedding-3-small",
        "openai/gpt-3.5-turbo-instruct",
    }
    assert "vision" in refused.value.details["lacking"]["openai/text-embedding-3-small"]


def test_a_single_target_is_not_judged(routed: Routed) -> None:
    for name in ("gpt-3.5-turbo-instruct", "one"):
        assert routed.targets(name, says(IMAGE)) == (Target("openai", "gpt-3.5-turbo-instruct"),)


def test_a_request_too_long_for_one_goes_to_another(routed: Routed) -> None:
    long = {"messages": [{"role": "user", "content": "word " * 150_000}]}

    # 128,000 tokens of context, and 200,000; of the house model nobody knows.
    assert routed.targets("house", long) == (HAIKU, HOUSE)
    assert routed.targets("house", {**HELLO, "max_tokens": 190_000}) == (HAIKU, HOUSE)
    assert routed.targets("house", {**HELLO, "max_tokens": 210_000}) == (HOUSE,)
    with pytest.raises(NoFittingTarget) as refused:
        routed.plan("gpt-4o", {**HELLO, "max_tokens": 210_000})
    assert refused.value.code == "context_length_exceeded"


def test_the_bound_on_tokens_is_one(routed: Routed) -> None:
    needs = Needs(JobKind.CHAT, document := says(IMAGE, IMAGE, {"type": "text", "text": "ǅ 語" * 9}))

    assert needs._prompt_at_most >= prompt_tokens(JobKind.CHAT, document, "gpt-4o")


def test_providers_without_a_worker_are_left_out_while_others_remain(routed: Routed) -> None:
    routed.unserved = {"openai"}
    assert routed.targets("house") == (HAIKU, HOUSE)

    routed.unserved = {"openai", "anthropic", "vllm"}
    assert routed.targets("house") == (MINI, HAIKU, HOUSE)


@pytest.mark.parametrize("condition", [OPEN, PAUSED])
def test_what_cannot_be_used_now_comes_last(routed: Routed, condition: ProviderCondition) -> None:
    routed.conditions = {"openai": condition}

    assert routed.targets("house") == (HAIKU, HOUSE, MINI)
    assert routed.targets("two") == (HAIKU, HOUSE)
    assert routed.targets("gpt-4o") == (HAIKU, GPT)
    assert routed.targets("house", fallbacks=("claude-sonnet-4-5",))[-1] == MINI


def test_a_breaker_that_lets_a_probe_through_is_usable(routed: Routed) -> None:
    routed.conditions = {"openai": HALF_OPEN}

    assert routed.targets("house") == (MINI, HAIKU, HOUSE)


def test_when_nobody_can_be_used_the_plan_stays_whole(routed: Routed) -> None:
    routed.conditions = {"openai": OPEN, "anthropic": PAUSED, "vllm": OPEN}

    assert routed.targets("house") == (MINI, HAIKU, HOUSE)


def test_conditions_change_nothing_of_what_was_asked(routed: Routed) -> None:
    before = routed.plan("house", fallbacks=("gpt-4o",)).asked

    routed.conditions = {"openai": OPEN}

    assert routed.plan("house", fallbacks=("gpt-4o",)).asked == before == ("house", "gpt-4o")


MODELS = ["openai/gpt-4o", "gpt-4o-mini", "claude-haiku-4-5", "vllm/house-7b", "text-embedding-3-small"]
conditions = st.builds(
    ProviderCondition,
    breaker=st.sampled_from(BreakerState),
    paused_seconds=st.sampled_from([0.0, 0.0, 2.0]),
    queued=st.integers(0, 50),
    in_flight=st.integers(0, 50),
    slots=st.integers(0, 9),
    latency_seconds=st.dictionaries(st.sampled_from(["gpt-4o", "gpt-4o-mini", "house-7b"]), st.floats(0, 60)),
)
documents = st.builds(
    lambda words, extra, image: {
        "messages": [
            {
                "role": "user",
                "content": [{"type": "text", "text": "a " * words}, *([IMAGE] if image else [])],
            }
        ],
        **extra,
    },
    st.sampled_from([1, 140_000, 260_000]),
    st.fixed_dictionaries(
        {},
        optional={
            "tools": st.just([SEARCH]),
            "stream": st.just(True),
            "max_tokens": st.sampled_from([1, 100_000, 250_000]),
        },
    ),
    st.booleans(),
)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    policy=st.sampled_from(Policy),
    models=st.lists(st.sampled_from(MODELS), min_size=1, max_size=5, unique=True),
    max_targets=st.integers(1, 5),
    fallbacks=st.none() | st.lists(st.sampled_from([*MODELS, "r"]), max_size=8).map(tuple),
    name=st.sampled_from(["r", *MODELS]),
    document=documents,
    how=st.dictionaries(st.sampled_from(["openai", "anthropic", "vllm"]), conditions),
    unserved=st.sets(st.sampled_from(["openai", "anthropic", "vllm"])),
    seed=st.integers(0, 2**32),
)
def test_every_plan_is_sound(
    tmp_path: Path,
    policy: Policy,
    models: list[str],
    max_targets: int,
    fallbacks: tuple[str, ...] | None,
    name: str,
    document: dict[str, Any],
    how: dict[str, ProviderCondition],
    unserved: set[str],
    seed: int,
) -> None:
    text = f'[routes.r]\npolicy = "{policy}"\ntargets = {models}\nmax_targets = {max_targets}\n'
    routed = Routed(tmp_path, text)
    routed.conditions, routed.unserved = how, unserved
    routed.rng.seed(seed)
    nameable: set[Target] = {
        target for each in (name, *(fallbacks or ())) for target in routed.router.leads_to(each)
    }
    needs = Needs(JobKind.CHAT, document)

    def fits(target: Target) -> bool:
        return not needs.lacks(target, PROVIDERS, load_catalogue())

    try:
        targets = routed.targets(name, document, fallbacks=fallbacks)
    except NoFittingTarget:
        assert not any(map(fits, nameable))
        return

    assert 1 <= len(targets) <= MAX_TARGETS
    assert len(set(targets)) == len(targets)
    assert set(targets) <= nameable
    if len(nameable) > 1:
        assert all(map(fits, targets))
        able = {target for target in nameable if fits(target)}
        served = {target for target in able if target.provider not in unserved}
        assert set(targets) <= (served or able)
    usable = [routed.conditions.get(target.provider, ProviderCondition()).is_usable for target in targets]
    assert usable == sorted(usable, reverse=True)
