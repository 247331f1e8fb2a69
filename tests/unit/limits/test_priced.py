"""Which models a caller with a budget of money may ask for, where those without a price are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.domain.allowance import Allowance, Limits, Scope, Tier
from shared.domain.job import JobKind, Surface, Target
from shared.error_forms import error_view, status_in
from shared.errors import ModelUnpriced
from shared.ids import RequestId
from shared.limits.priced import priced_targets
from shared.limits.rules import Policies, Rule, RuleSet
from shared.providers.catalogue import Catalogue, ListedModel
from shared.providers.registry import BUILT_IN, Registry
from shared.settings import Settings

FREE_OF_CHARGE = """
[[model]]
id = "gift"
provider = "openai"
context_tokens = 8_000
max_output_tokens = 1_000
usd_per_million = { prompt = 0, completion = 0 }
capabilities = ["chat"]
"""
MINI, HAIKU = Target("openai", "gpt-4o-mini"), Target("anthropic", "claude-haiku-4-5")
NAMELESS = Target("openai", "nobody-knows-it")
TRIAL = Target("nvidia_nim", "meta/llama-3.3-70b-instruct")
OWN = Target("vllm", "house-7b")
BUDGET = Rule(Scope.ACCOUNT, "account:acme", "s", 1_000_000)
REGISTRY = Registry(BUILT_IN.values())


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    file = tmp_path / "catalogue.toml"
    file.write_text(FREE_OF_CHARGE, encoding="utf-8")
    return Catalogue.load(file)


def left(catalogue: Catalogue, *plan: Target, kind: JobKind = JobKind.CHAT) -> tuple[Target, ...]:
    return priced_targets(plan, kind, BUDGET, catalogue, REGISTRY)


@pytest.mark.parametrize("target", [NAMELESS, TRIAL])
def test_a_model_without_a_price_is_refused(catalogue: Catalogue, target: Target) -> None:
    with pytest.raises(ModelUnpriced) as refused:
        left(catalogue, target)

    assert refused.value.details == {"unpriced": [f"{target.provider}/{target.model}"], "scope": "account"}
    assert not refused.value.retryable


@pytest.mark.parametrize("target", [MINI, OWN, Target("litellm", "any"), Target("openai", "gift")])
def test_one_with_a_price_or_of_the_operators_own_is_not(catalogue: Catalogue, target: Target) -> None:
    assert left(catalogue, target) == (target,)


def test_a_price_in_the_list_of_its_provider_is_one(catalogue: Catalogue) -> None:
    catalogue.relist(
        [
            ListedModel("listed", "openrouter", price_prompt=1, price_completion=0),
            ListedModel("named", "openrouter", price_prompt=1),
        ]
    )

    assert left(catalogue, Target("openrouter", "listed"))
    with pytest.raises(ModelUnpriced):
        left(catalogue, Target("openrouter", "named"))


@pytest.mark.parametrize(
    ("plan", "stays"),
    [
        ((MINI, NAMELESS), (MINI,)),
        ((NAMELESS, HAIKU, MINI), (HAIKU, MINI)),
        ((MINI, TRIAL, OWN, NAMELESS), (MINI, OWN)),
    ],
)
def test_of_several_targets_those_with_a_price_stay_in_their_order(
    catalogue: Catalogue, plan: tuple[Target, ...], stays: tuple[Target, ...]
) -> None:
    assert left(catalogue, *plan) == stays


def test_where_none_has_a_price_all_are_named(catalogue: Catalogue) -> None:
    with pytest.raises(ModelUnpriced, match=r"^None of openai/nobody-knows-it, nvidia_nim/meta/llama"):
        left(catalogue, NAMELESS, TRIAL)


def test_what_no_provider_charges_for_needs_no_price(catalogue: Catalogue) -> None:
    assert left(catalogue, NAMELESS, kind=JobKind.COUNT_TOKENS) == (NAMELESS,)


@pytest.mark.parametrize("scope", [Scope.KEY, Scope.USER, Scope.ACCOUNT])
def test_a_budget_of_any_scope_is_found_in_the_rules(scope: Scope) -> None:
    rules = rules_of(scope, Tier.UNLIMITED, Limits(monthly_spend_micro_usd=0))

    assert rules.budget is not None
    assert (rules.budget.scope, rules.budget.limit) == (scope, 0)


def test_spending_that_is_only_counted_is_no_budget() -> None:
    limits = Limits(daily_requests=9, requests_per_minute=3, tokens_per_minute=10, concurrent_requests=1)

    assert rules_of(Scope.ACCOUNT, Tier.UNLIMITED, limits).budget is None
    assert RuleSet(()).budget is None


def test_the_budget_of_a_tier_is_one() -> None:
    assert rules_of(Scope.ACCOUNT, Tier.STANDARD, Limits()).budget is not None


def rules_of(scope: Scope, tier: Tier, limits: Limits) -> RuleSet:
    allowance = Allowance(scope, "somebody", limits, tier)
    return Policies.of(Settings(_env_file=None)).rules([allowance], "key", older_route=False)


@pytest.mark.parametrize(
    ("surface", "told"),
    [
        (Surface.OPENAI, {"type": "invalid_request_error", "param": "model", "code": "model_not_priced"}),
        (Surface.RESPONSES, {"type": "invalid_request_error", "param": "model", "code": "model_not_priced"}),
        (Surface.ANTHROPIC, {"type": "permission_error"}),
        (Surface.UNIFIED, {"type": "authorization_error"}),
    ],
)
def test_each_surface_says_it_in_its_form(surface: Surface, told: dict[str, str]) -> None:
    error = ModelUnpriced(["openai/nobody-knows-it"], scope="key")
    view = error_view(error, surface, RequestId("req_1"))["error"]

    assert status_in(error, surface) == 403
    assert told.items() <= view.items()
    assert "has no price here" in view["message"]
    assert "HEADRACE_CATALOGUE_FILE" in view["message"]
    if surface is Surface.UNIFIED:
        assert view["details"] == {
            "unpriced": ["openai/nobody-knows-it"],
            "scope": "key",
            "code": "model_not_priced",
            "param": "model",
        }
