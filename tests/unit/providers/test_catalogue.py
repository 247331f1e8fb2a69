from __future__ import annotations

from dataclasses import replace
from datetime import date

import pytest

from shared.domain.job import Target
from shared.domain.usage import Usage
from shared.errors import ModelNotFound
from shared.providers import anthropic, openai, vllm
from shared.providers.catalogue import Model, load_catalogue
from shared.providers.profile import Capability
from shared.providers.registry import BUILT_IN, Registry
from shared.providers.resolve import resolve

CATALOGUE = load_catalogue()
TEN = {
    "openai", "anthropic", "deepseek", "xai", "openrouter", "litellm", "nvidia_nim", "perplexity",
    "huggingface", "vllm",
}  # fmt: skip
WRITES = {Capability.CHAT, Capability.COMPLETION, Capability.SUMMARIZATION}
LAB = replace(
    vllm.PROFILE, id="lab", base_url="https://lab.example/v1", models=("phi-4", "org/mistral-7b", "gpt-4o")
)
GPU = vllm.PROFILE.with_base_url("http://gpu-1:8000/v1")
PROVIDERS = Registry([openai.PROFILE, anthropic.PROFILE, GPU, LAB])


@pytest.mark.parametrize("model", CATALOGUE.models(), ids=lambda model: model.id)
def test_a_listed_model_is_complete(model: Model) -> None:
    assert model.provider in TEN
    assert 0 <= model.max_output_tokens <= model.context_tokens
    assert (model.max_output_tokens > 0) == bool(model.capabilities & WRITES)
    if model.prices is not None:
        assert 0 < model.prices.cached_prompt <= model.prices.prompt
        assert model.prices.prompt <= model.prices.completion or not model.max_output_tokens
        if model.provider == "anthropic":
            assert (model.prices.cache_write, model.prices.cache_write_1h) == (
                model.prices.prompt * 5 // 4,
                model.prices.prompt * 2,
            )
    assert model.capabilities
    assert model.source.startswith("https://")
    assert model.read >= date(2026, 11, 1)
    assert model.retired is None


def test_names_are_unique_at_each_provider() -> None:
    names = [(model.provider, name) for model in CATALOGUE.models() for name in (model.id, *model.aliases)]

    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("gpt-4o", "gpt-4o"),
        ("gpt-4o-2024-08-06", "gpt-4o"),
        ("openai/gpt-4o", "gpt-4o"),
        ("claude-3-5-sonnet-20241022", "claude-3-5-sonnet-latest"),
    ],
)
def test_a_model_is_found_by_every_name_it_has(name: str, model: str) -> None:
    found = CATALOGUE.find(name)

    assert found is not None
    assert found.id == model


@pytest.mark.parametrize("name", ["gpt-nine", "anthropic/gpt-4o", "openai/", "", "/gpt-4o"])
def test_what_nobody_knows_is_not_found(name: str) -> None:
    assert CATALOGUE.find(name) is None


def test_retired_models_are_priced_but_not_listed() -> None:
    usage = Usage(prompt_tokens=1_000_000)

    assert CATALOGUE.cost_micro_usd("anthropic", "claude-3-5-sonnet-20241022", usage) == 3_000_000
    assert "claude-3-5-sonnet-latest" not in [model.id for model in CATALOGUE.models()]


@pytest.mark.parametrize(
    ("usage", "cost"),
    [
        (Usage(), 0),
        (Usage(prompt_tokens=1_000_000), 150_000),
        (Usage(prompt_tokens=1_000_000, cached_tokens=1_000_000), 75_000),
        (Usage(prompt_tokens=1_000_000, cached_tokens=400_000), 120_000),
        (Usage(completion_tokens=1_000_000), 600_000),
        (Usage(completion_tokens=1_000_000, reasoning_tokens=900_000), 600_000),
        (Usage(prompt_tokens=1), 1),
        (Usage(prompt_tokens=1, completion_tokens=1), 1),
        (Usage(prompt_tokens=10, cached_tokens=99), 1),
    ],
)
def test_cost_counts_cached_tokens_at_their_price_and_rounds_up_once(usage: Usage, cost: int) -> None:
    assert CATALOGUE.cost_micro_usd("openai", "gpt-4o-mini", usage) == cost


@pytest.mark.parametrize(
    ("usage", "cost"),
    [
        # Dollars a million: 3.00 read, 0.30 from the cache, 3.75 kept for minutes, 6.00 an hour, 15.00 said.
        (Usage(1_000_000), 3_000_000),
        (Usage(1_000_000, cache_write_tokens=1_000_000), 3_750_000),
        (Usage(1_000_000, cache_write_tokens=1_000_000, cache_write_1h_tokens=1_000_000), 6_000_000),
        (Usage(1_000_000, cache_write_tokens=400_000, cache_write_1h_tokens=100_000), 3_525_000),
        (
            Usage(1_000_000, 10_000, 500_000, cache_write_tokens=300_000, cache_write_1h_tokens=200_000),
            600_000 + 150_000 + 375_000 + 1_200_000 + 150_000,
        ),
        (Usage(160, 61, 130, cache_write_tokens=22, cache_write_1h_tokens=10), 24 + 39 + 45 + 60 + 915),
        (Usage(1, cache_write_tokens=1), 4),
        # More than there is cannot have been kept.
        (Usage(100, cached_tokens=60, cache_write_tokens=999, cache_write_1h_tokens=0), 18 + 150),
        (Usage(100, cache_write_tokens=10, cache_write_1h_tokens=999), 270 + 60),
        (Usage(0, cached_tokens=5, cache_write_tokens=5, cache_write_1h_tokens=5), 0),
    ],
)
def test_what_is_kept_in_the_cache_is_charged_by_how_long(usage: Usage, cost: int) -> None:
    assert CATALOGUE.cost_micro_usd("anthropic", "claude-sonnet-4-5", usage) == cost


def test_what_is_kept_costs_nothing_more_where_no_price_says_so() -> None:
    kept = Usage(1_000_000, cache_write_tokens=500_000, cache_write_1h_tokens=500_000)

    assert CATALOGUE.cost_micro_usd("openai", "gpt-4o-mini", kept) == 150_000


@pytest.mark.parametrize(("provider", "model"), [("openai", "gpt-nine"), ("lab", "gpt-4o"), ("lab", "phi-4")])
def test_an_unknown_model_costs_nothing(provider: str, model: str) -> None:
    assert CATALOGUE.cost_micro_usd(provider, model, Usage(1000, 1000)) == 0


@pytest.mark.parametrize(
    ("name", "default", "target"),
    [
        ("gpt-4o", "openai", Target("openai", "gpt-4o")),
        ("gpt-4o-2024-08-06", "openai", Target("openai", "gpt-4o-2024-08-06")),
        ("claude-sonnet-4-5", "openai", Target("anthropic", "claude-sonnet-4-5")),
        ("openai/gpt-nine", "openai", Target("openai", "gpt-nine")),
        ("vllm/org/model", "openai", Target("vllm", "org/model")),
        ("phi-4", "openai", Target("lab", "phi-4")),
        ("org/mistral-7b", "openai", Target("lab", "org/mistral-7b")),
        ("gpt-4o", "lab", Target("lab", "gpt-4o")),
        ("claude-sonnet-4-5", "lab", Target("anthropic", "claude-sonnet-4-5")),
        ("whatever", "lab", Target("lab", "whatever")),
        ("org/whatever", "vllm", Target("vllm", "org/whatever")),
    ],
)
def test_a_name_leads_to_the_provider_that_serves_it(name: str, default: str, target: Target) -> None:
    assert resolve(name, PROVIDERS, default) == target


EVERYBODY = Registry(
    replace(vllm.PROFILE, id=name, base_url="https://somewhere.example/v1", self_hosted=False)
    for name in sorted(TEN)
)


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("grok-4-1-fast-reasoning", Target("xai", "grok-4-1-fast-reasoning")),
        ("sonar-pro", Target("perplexity", "sonar-pro")),
        ("deepseek-chat", Target("deepseek", "deepseek-chat")),
        ("deepseek/deepseek-chat", Target("deepseek", "deepseek-chat")),
        ("nvidia/llama-3.3-70b-instruct", Target("nvidia_nim", "meta/llama-3.3-70b-instruct")),
        ("nvidia_nim/nvidia/llama-3.3-70b-instruct", Target("nvidia_nim", "meta/llama-3.3-70b-instruct")),
        ("meta/llama-3.3-70b-instruct", Target("nvidia_nim", "meta/llama-3.3-70b-instruct")),
        (
            "nvidia/llama-3_2-nv-rerankqa-1b-v2",
            Target("nvidia_nim", "nvidia/llama-3_2-nv-rerankqa-1b-v2"),
        ),
        ("BAAI/bge-large-en-v1.5", Target("huggingface", "BAAI/bge-large-en-v1.5")),
        ("together/deepseek-ai/DeepSeek-R1", Target("huggingface", "together/deepseek-ai/DeepSeek-R1")),
        ("deepseek-ai/DeepSeek-R1", Target("huggingface", "deepseek-ai/DeepSeek-R1")),
        ("facebook/bart-large-cnn", Target("huggingface", "facebook/bart-large-cnn")),
        ("text-embedding-3-small", Target("openai", "text-embedding-3-small")),
        ("text-embedding-3-large", Target("openai", "text-embedding-3-large")),
        ("gpt-3.5-turbo", Target("openai", "gpt-3.5-turbo")),
        ("gpt-3.5-turbo-instruct", Target("openai", "gpt-3.5-turbo-instruct")),
        ("openrouter/openai/gpt-4o-mini", Target("openrouter", "openai/gpt-4o-mini")),
        ("openai/gpt-4o-mini", Target("openai", "gpt-4o-mini")),
    ],
)
def test_models_of_all_ten_providers_are_found_with_slashes_and_without(name: str, target: Target) -> None:
    assert resolve(name, EVERYBODY, "openai") == target


def test_every_provider_with_models_of_its_own_has_some_in_the_catalogue() -> None:
    assert {model.provider for model in CATALOGUE.models()} == TEN - {"litellm", "vllm"}


def test_a_provider_whose_address_nobody_configured_serves_no_model() -> None:
    nowhere = Registry([BUILT_IN["vllm"]])

    for name in ("vllm/org/model", "org/model"):
        with pytest.raises(ModelNotFound):
            resolve(name, nowhere, "vllm")


@pytest.mark.parametrize("name", ["gpt-nine", "acme/gpt-4o", "openai/", "", "/", "x" * 10_000, "gpt-4o\n"])
@pytest.mark.parametrize("default", ["openai", "acme"])
def test_an_unknown_name_is_not_found(name: str, default: str) -> None:
    with pytest.raises(ModelNotFound) as caught:
        resolve(name, PROVIDERS, default)

    assert caught.value.param == "model"
    assert len(caught.value.details["available_models"]) <= 5
    assert len(caught.value.message) < 400


@pytest.mark.parametrize(
    ("name", "meant"),
    [("gpt4o", "gpt-4o"), ("GPT-4O-MINI", "gpt-4o-mini"), ("opnai/gpt-4o", "gpt-4o"), ("phi4", "phi-4")],
)
def test_the_closest_names_are_suggested(name: str, meant: str) -> None:
    with pytest.raises(ModelNotFound) as caught:
        resolve(name, PROVIDERS, "openai")

    assert meant in caught.value.details["available_models"]


def test_only_names_that_lead_somewhere_are_suggested() -> None:
    with pytest.raises(ModelNotFound) as caught:
        resolve("claude-sonnet-4.5", Registry([openai.PROFILE]), "openai")

    assert not any(name.startswith("claude") for name in caught.value.details["available_models"])
