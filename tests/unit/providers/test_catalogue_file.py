"""An operator's catalogue file: what it adds, what it replaces, and how it is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.domain.job import Target
from shared.domain.usage import Usage
from shared.errors import ModelNotFound
from shared.providers import anthropic, openai, vllm
from shared.providers.catalogue import Catalogue, ListedModel, load_catalogue
from shared.providers.catalogue_file import CatalogueFileInvalid
from shared.providers.profile import Capability
from shared.providers.registry import Registry
from shared.providers.resolve import resolve

GPU = vllm.PROFILE.with_base_url("http://gpu-1:8000/v1")
PROVIDERS = Registry([openai.PROFILE, anthropic.PROFILE, GPU])
ONE_CENT_A_THOUSAND = "usd_per_million = { prompt = 10, completion = 10.5 }"
HOUSE = f"""
[[model]]
id = "house-7b"
provider = "vllm"
context_tokens = 32_768
max_output_tokens = 4_096
{ONE_CENT_A_THOUSAND}
capabilities = ["chat", "stream"]
aliases = ["house-7b-2026"]
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "catalogue.toml"
    path.write_text(text, encoding="utf-8")
    return path


def catalogue(folder: Path, text: str) -> Catalogue:
    return Catalogue.load(written(folder, text), providers=PROVIDERS.profiles)


def test_a_model_is_added_with_its_price(tmp_path: Path) -> None:
    known = catalogue(tmp_path, HOUSE)

    house = known.find("house-7b-2026")
    assert house is not None
    assert (house.id, house.provider, house.created) == ("house-7b", "vllm", 0)
    assert house.capabilities == {Capability.CHAT, Capability.STREAM}
    assert known.cost_micro_usd("vllm", "house-7b", Usage(1_000_000, 1_000_000)) == 20_500_000
    assert resolve("house-7b", PROVIDERS, "openai", known) == Target("vllm", "house-7b")


def test_a_model_of_ours_is_replaced_whole_and_in_its_place(tmp_path: Path) -> None:
    before = [model.id for model in load_catalogue().models()]

    known = catalogue(tmp_path, HOUSE.replace("house-7b", "gpt-4o").replace('"vllm"', '"openai"'))

    assert [model.id for model in known.models()] == before
    assert known.cost_micro_usd("openai", "gpt-4o", Usage(1_000_000)) == 10_000_000


@pytest.mark.parametrize(
    ("prices", "for_minutes", "for_an_hour"),
    [
        ("prompt = 4", 4_000_000, 4_000_000),
        ("prompt = 4, cache_write = 5", 5_000_000, 8_000_000),
        ("prompt = 4, cache_write = 5, cache_write_1h = 6", 5_000_000, 6_000_000),
        ("prompt = 4, cache_write = 9", 9_000_000, 9_000_000),
        ("prompt = 4, cache_write = 0, cache_write_1h = 0", 0, 0),
    ],
)
def test_what_is_kept_has_prices_of_its_own_where_they_are_given(
    tmp_path: Path, prices: str, for_minutes: int, for_an_hour: int
) -> None:
    known = catalogue(tmp_path, HOUSE.replace(ONE_CENT_A_THOUSAND, f"usd_per_million = {{ {prices} }}\n"))
    million = 1_000_000

    def cost(for_an_hour: int) -> int:
        usage = Usage(million, cache_write_tokens=million, cache_write_1h_tokens=for_an_hour)
        return known.cost_micro_usd("vllm", "house-7b", usage)

    assert (cost(0), cost(million)) == (for_minutes, for_an_hour)


def test_a_price_left_out_is_not_known(tmp_path: Path) -> None:
    known = catalogue(tmp_path, HOUSE.replace(ONE_CENT_A_THOUSAND, ""))

    assert known.prices("vllm", "house-7b") is None
    assert known.cost_micro_usd("vllm", "house-7b", Usage(1_000, 1_000)) == 0


def test_a_call_in_a_batch_of_the_provider_costs_the_part_that_the_file_says(tmp_path: Path) -> None:
    known = catalogue(tmp_path, HOUSE.replace("capab", "batch_price_factor = 0.25\ncapab"))
    usage = Usage(1_001, 1)

    assert known.cost_micro_usd("vllm", "house-7b", usage) == 10_021
    assert known.batch_cost_micro_usd("vllm", "house-7b", usage) == 2_506
    assert catalogue(tmp_path, HOUSE).batch_cost_micro_usd("vllm", "house-7b", usage) == 10_021
    assert known.batch_cost_micro_usd("openai", "gpt-4o-mini", Usage(2_000_000, 0)) == 150_000


def test_an_alias_leads_where_it_says_whatever_else_has_its_name(tmp_path: Path) -> None:
    aliases = """
[[alias]]
name = "fast"
model = "openai/gpt-4o-mini"

[[alias]]
name = "gpt-4o"
model = "vllm/org/house"
"""

    known = catalogue(tmp_path, aliases)

    assert resolve("fast", PROVIDERS, "openai", known) == Target("openai", "gpt-4o-mini")
    assert resolve("gpt-4o", PROVIDERS, "openai", known) == Target("vllm", "org/house")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("not = toml = at all", "not TOML"),
        ("[model]\nid = 1", "model: "),
        ("[[models]]", "models: Extra inputs are not permitted"),
        (HOUSE.replace("32_768", "-1"), "model 'house-7b', context_tokens: "),
        (HOUSE.replace("4_096", "40_960"), "max_output_tokens is more than context_tokens"),
        (HOUSE.replace('"stream"', '"telepathy"'), "model 'house-7b', capabilities, "),
        (HOUSE.replace("prompt = 10", "prompt = -1"), "model 'house-7b', usd_per_million, prompt: "),
        (HOUSE.replace("prompt = 10", "prompt = nan"), "model 'house-7b', usd_per_million, prompt: "),
        (HOUSE.replace("prompt = 10,", ""), "model 'house-7b', usd_per_million, prompt: Field required"),
        (HOUSE.replace("[[model]]\n", "[[model]]\ncolour = 1\n"), "model 'house-7b', colour: "),
        (HOUSE.replace('id = "house-7b"', ""), "model number 1, id: Field required"),
        (HOUSE.replace('"vllm"', '"acme"'), "model 'house-7b', provider: there is no provider 'acme'"),
        (HOUSE + HOUSE, "the name 'house-7b' is used twice at vllm"),
        ('[[alias]]\nname = "fast"\nmodel = "gpt-4o"', "alias 'fast', model: "),
        ('[[alias]]\nname = "fast"\nmodel = "acme/x"', "alias 'fast', model: there is no provider 'acme'"),
        ('[[alias]]\nname = "two words"\nmodel = "openai/x"', "alias 'two words', name: "),
        (2 * '[[alias]]\nname = "fast"\nmodel = "openai/x"\n', "alias 'fast': this name is used twice"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_the_entry_and_the_field(
    tmp_path: Path, text: str, told: str
) -> None:
    with pytest.raises(CatalogueFileInvalid) as refused:
        catalogue(tmp_path, text)

    assert told in str(refused.value)
    assert str(tmp_path / "catalogue.toml") in str(refused.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CatalogueFileInvalid, match="No such file"):
        Catalogue.load(tmp_path / "catalogue.toml")


def listing(*names: tuple[str, str]) -> Catalogue:
    known = Catalogue.load()
    known.relist(ListedModel(name, provider) for provider, name in names)
    return known


def test_a_name_that_a_provider_lists_leads_there() -> None:
    known = listing(("openai", "gpt-nine"), ("vllm", "org/house"), ("vllm", "gpt-nine"))

    assert resolve("gpt-nine", PROVIDERS, "openai", known) == Target("openai", "gpt-nine")
    assert resolve("org/house", PROVIDERS, "openai", known) == Target("vllm", "org/house")


def test_what_the_default_provider_lists_goes_to_it() -> None:
    known = listing(("vllm", "gpt-4o"), ("vllm", "claude-haiku-4-5"))

    assert resolve("gpt-4o", PROVIDERS, "vllm", known) == Target("vllm", "gpt-4o")
    assert resolve("gpt-4o", PROVIDERS, "openai", known) == Target("openai", "gpt-4o")


def test_a_name_that_is_no_longer_listed_leads_nowhere() -> None:
    known = listing(("openai", "gpt-nine"))
    known.relist([])

    with pytest.raises(ModelNotFound):
        resolve("gpt-nine", PROVIDERS, "openai", known)


def test_only_names_of_served_providers_are_suggested() -> None:
    known = listing(("openai", "claude-impostor"))
    known.served = frozenset({"openai"})

    with pytest.raises(ModelNotFound) as missed:
        resolve("claude-haiku", PROVIDERS, "openai", known)

    assert missed.value.details["available_models"] == ["claude-impostor"]


def test_a_listed_price_is_charged_where_we_know_none() -> None:
    known = Catalogue.load()
    known.relist(
        [
            ListedModel("gpt-nine", "openai", price_prompt=2_000_000, price_completion=4_000_000),
            ListedModel("gpt-4o", "openai", price_prompt=1, price_completion=1),
        ]
    )

    assert known.cost_micro_usd("openai", "gpt-nine", Usage(1_000_000, 1_000_000)) == 6_000_000
    assert known.cost_micro_usd("openai", "gpt-4o", Usage(1_000_000)) == 2_500_000
