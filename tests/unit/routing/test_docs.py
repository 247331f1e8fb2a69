"""docs/routing.md says what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from shared.domain.job import FallbackOn
from shared.providers.catalogue import load_catalogue
from shared.providers.registry import BUILT_IN, Registry
from shared.routing.routing_file import MAX_TARGETS, REQUIREMENTS, Policy, RouteEntry
from shared.routing.watch import RoutingWatch

PAGE = (Path(__file__).parents[3] / "docs" / "routing.md").read_text(encoding="utf-8")


def test_the_example_is_a_routing_file(tmp_path: Path) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    file = tmp_path / "routing.toml"
    file.write_text(example, encoding="utf-8")

    table = RoutingWatch(file, Registry(BUILT_IN.values()), load_catalogue(), "openai").table

    assert set(table.routes) == {"house", "canary"}
    assert {route.policy for route in table.routes.values()} == {Policy.CHEAPEST, Policy.WEIGHTED}
    assert len(table.fallbacks) == 1
    # Prices are what it is about, so all must be known.
    house = table.routes["house"]
    assert all(load_catalogue().prices(t.provider, t.model) for t in house.targets)


@pytest.mark.parametrize(
    "words", [list(Policy), list(REQUIREMENTS), list(FallbackOn), list(RouteEntry.model_fields)]
)
def test_every_word_of_the_file_is_explained(words: list[str]) -> None:
    assert [word for word in words if f"`{word}`" not in PAGE] == []


def test_the_limits_are_those_of_the_code() -> None:
    assert f"up to {MAX_TARGETS} models" in PAGE
