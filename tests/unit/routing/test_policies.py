"""Each policy's order, with the dice in the test's hand."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from shared.domain.conditions import ProviderCondition
from shared.domain.job import Target
from shared.providers.catalogue import Catalogue
from shared.routing.policies import EXPLORE_SHARE
from tests.unit.routing.support import GPT, HAIKU, HELLO, HOUSE, MINI, Routed

TARGETS = '["openai/gpt-4o", "claude-haiku-4-5", "openai/gpt-4o-mini", "vllm/house-7b"]'
ROUNDS = 4_000


def route(policy: str, targets: str = TARGETS) -> str:
    return f'[routes.r]\npolicy = "{policy}"\ntargets = {targets}\n'


def first_choices(routed: Routed) -> Counter[Target]:
    return Counter(routed.targets("r")[0] for _ in range(ROUNDS))


def test_failover_keeps_the_order_of_the_file(tmp_path: Path) -> None:
    assert Routed(tmp_path, route("failover")).targets("r") == (GPT, HAIKU, MINI, HOUSE)


def test_weighted_follows_the_weights_in_every_place(tmp_path: Path) -> None:
    targets = '[{ model = "gpt-4o", weight = 6 }, { model = "claude-haiku-4-5", weight = 3 }, "gpt-4o-mini"]'
    routed = Routed(tmp_path, route("weighted", targets))

    plans = [routed.targets("r") for _ in range(ROUNDS)]

    firsts = Counter(plan[0] for plan in plans)
    assert firsts[GPT] / ROUNDS == pytest.approx(0.6, abs=0.03)
    assert firsts[HAIKU] / ROUNDS == pytest.approx(0.3, abs=0.03)
    # Behind the first, again by weight: of 6 and 1 that are left.
    behind_haiku = Counter(plan[1] for plan in plans if plan[0] == HAIKU)
    assert behind_haiku[GPT] / behind_haiku.total() == pytest.approx(6 / 7, abs=0.04)


def test_the_same_dice_give_the_same_plans(tmp_path: Path) -> None:
    first, again = (Routed(tmp_path, route("weighted")) for _ in range(2))

    assert [first.targets("r") for _ in range(50)] == [again.targets("r") for _ in range(50)]


def test_cheapest_goes_by_the_price_of_the_request_and_unknown_prices_come_last(tmp_path: Path) -> None:
    # Per million tokens: mini 0.15 and 0.60, haiku 1 and 5, gpt-4o 2.50 and 10.
    routed = Routed(tmp_path, route("cheapest"))

    assert routed.targets("r") == (MINI, HAIKU, GPT, HOUSE)


def test_cheapest_weighs_a_long_prompt_against_a_long_answer(tmp_path: Path) -> None:
    catalogue = tmp_path / "catalogue.toml"
    catalogue.write_text(
        "\n".join(
            f"[[model]]\nid = '{name}'\nprovider = 'vllm'\ncontext_tokens = 1_000_000\n"
            f"usd_per_million = {{ prompt = {prompt}, completion = {answer} }}\n"
            "capabilities = ['chat', 'stream']"
            for name, prompt, answer in (("reads-cheap", 1, 10), ("writes-cheap", 5, 2))
        )
    )
    routed = Routed(
        tmp_path,
        route("cheapest", '["vllm/reads-cheap", "vllm/writes-cheap"]'),
        catalogue=Catalogue.load(catalogue),
    )
    long_prompt = {"messages": [{"role": "user", "content": "word " * 4_000}], "max_tokens": 10}

    assert routed.targets("r", long_prompt)[0].model == "reads-cheap"
    assert routed.targets("r", {**HELLO, "max_tokens": 4_000})[0].model == "writes-cheap"


def test_fastest_goes_by_what_was_measured_and_tries_an_unknown_one_now_and_then(tmp_path: Path) -> None:
    routed = Routed(tmp_path, route("fastest"))
    routed.conditions = {
        "openai": ProviderCondition(latency_seconds={"gpt-4o": 2.0, "gpt-4o-mini": 0.5}),
        "anthropic": ProviderCondition(latency_seconds={"claude-haiku-4-5": 1.0}),
    }

    firsts = first_choices(routed)

    assert set(firsts) == {MINI, HOUSE}
    assert firsts[HOUSE] / ROUNDS == pytest.approx(EXPLORE_SHARE, abs=0.015)
    assert Counter(routed.targets("r") for _ in range(100)).most_common(1)[0][0] == (MINI, HAIKU, GPT, HOUSE)


def test_fastest_also_looks_whether_a_slow_one_recovered(tmp_path: Path) -> None:
    routed = Routed(tmp_path, route("fastest", '["gpt-4o", "gpt-4o-mini", "claude-haiku-4-5"]'))
    routed.conditions = {
        "openai": ProviderCondition(latency_seconds={"gpt-4o": 2.0, "gpt-4o-mini": 0.5}),
        "anthropic": ProviderCondition(latency_seconds={"claude-haiku-4-5": 60.0}),
    }

    firsts = first_choices(routed)

    assert firsts[MINI] / ROUNDS == pytest.approx(1 - EXPLORE_SHARE, abs=0.015)
    assert firsts[HAIKU] > 0
    assert firsts[GPT] > 0


def test_fastest_without_a_measurement_tries_them_in_turn(tmp_path: Path) -> None:
    firsts = first_choices(Routed(tmp_path, route("fastest")))

    assert firsts.most_common(1)[0][0] == GPT
    assert set(firsts) == {GPT, HAIKU, MINI, HOUSE}


def test_least_loaded_counts_jobs_for_each_slot(tmp_path: Path) -> None:
    routed = Routed(tmp_path, route("least_loaded", '["gpt-4o", "claude-haiku-4-5", "vllm/house-7b"]'))
    routed.conditions = {
        "openai": ProviderCondition(queued=100, in_flight=100, slots=400),
        "anthropic": ProviderCondition(queued=5, in_flight=5, slots=10),
        "vllm": ProviderCondition(queued=0, in_flight=3),  # no worker told its slots: one is assumed
    }

    assert routed.targets("r") == (GPT, HAIKU, HOUSE)


def test_equally_loaded_targets_share(tmp_path: Path) -> None:
    firsts = first_choices(Routed(tmp_path, route("least_loaded")))

    assert all(count / ROUNDS == pytest.approx(0.25, abs=0.04) for count in firsts.values())
    assert len(firsts) == 4
