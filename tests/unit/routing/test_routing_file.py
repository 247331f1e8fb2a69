"""A routing file: what it says, and how it is refused."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from loguru import logger

from shared.domain.job import FallbackOn
from shared.providers.catalogue import Catalogue
from shared.providers.profile import Capability
from shared.routing.routing_file import Policy, RoutingFileInvalid
from shared.routing.watch import RoutingWatch
from tests.unit.routing.support import GPT, HAIKU, MINI, PROVIDERS, Routed

HOUSE_FILE = """
[routes.house]
policy = "weighted"
targets = ["openai/gpt-4o-mini", { model = "claude-haiku-4-5", weight = 3 }]
requires = ["tools", "vision"]
fallback_on = ["context_length", "content_filter"]
max_targets = 1

[fallbacks]
"gpt-4o" = ["anthropic/claude-haiku-4-5", "openai/gpt-4o-mini"]
"""


@pytest.fixture
def told() -> Iterator[list[str]]:
    """Warnings of the routing file, as they are logged."""
    lines: list[str] = []
    sink = logger.add(lambda message: lines.append(message.record["extra"]["problem"]), level="WARNING")
    yield lines
    logger.remove(sink)


def rewrite(folder: Path, text: str) -> None:
    """As an editor does: a new file in the place of the old one."""
    fresh = folder / "routing.toml.new"
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(folder / "routing.toml")


def test_a_route_is_what_the_file_says(tmp_path: Path) -> None:
    table = Routed(tmp_path, HOUSE_FILE).watch.table

    route = table.routes["house"]
    assert (route.policy, route.max_targets) == (Policy.WEIGHTED, 1)
    assert route.targets == (MINI, HAIKU)
    assert route.weights == {MINI: 1, HAIKU: 3}
    assert route.requires == {Capability.FUNCTION_CALLING, Capability.VISION}
    assert route.fallback_on == set(FallbackOn)
    assert table.fallbacks == {GPT: (HAIKU, MINI)}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("not = toml = at all", "not TOML"),
        ("[route.a]", "route: Extra inputs are not permitted"),
        ("[routes.a]\n", "routes.a.targets: Field required"),
        ("[routes.a]\ntargets = []", "routes.a.targets: "),
        ('[routes.a]\ntargets = ["gpt-4o"]\ncolour = 1', "routes.a.colour: "),
        ('[routes.a]\ntargets = ["gpt-4o"]\npolicy = "best"', "routes.a.policy: "),
        ('[routes.a]\ntargets = ["gpt-4o"]\nmax_targets = 0', "routes.a.max_targets: "),
        ('[routes.a]\ntargets = ["gpt-4o"]\nfallback_on = ["rain"]', "routes.a.fallback_on"),
        ('[routes.a]\ntargets = ["gpt-4o"]\nrequires = ["telepathy"]', "must be one of tools, vision"),
        ('[routes.a]\ntargets = [{ model = "gpt-4o", weight = 0 }]', "routes.a.targets.0.weight: "),
        ('[routes.a]\ntargets = [{ model = "gpt-4o", weight = nan }]', "routes.a.targets.0.weight: "),
        ('[routes.a]\ntargets = ["gpt-4o", "openai/gpt-4o"]', "'openai/gpt-4o' stands there twice"),
        ('[routes.a]\ntargets = ["opnai/gpt-4o-mini"]', "no provider here serves 'opnai/gpt-4o-mini'"),
        ('[routes.a]\ntargets = ["opnai/gpt-4o-mini"]', "there are gpt-4o-mini"),
        ('[routes."a/b"]\ntargets = ["gpt-4o"]', "routes.a/b"),
        ('[routes.auto]\ntargets = ["gpt-4o"]', "routes.auto: this name stands for the preference"),
        (
            '[routes.a]\ntargets = ["text-embedding-3-small"]\nrequires = ["tools"]',
            "routes.a.targets: openai/text-embedding-3-small has no tools",
        ),
        ('[fallbacks]\n"gpt-4o" = []', "fallbacks.gpt-4o"),
        ('[fallbacks]\n"gpt-4o" = ["openai/gpt-4o"]', "stands there twice"),
        ('[fallbacks]\n"nobody-s" = ["gpt-4o"]', "no provider here serves 'nobody-s'"),
        ('[fallbacks]\n"gpt-4o" = ["gpt-4o-mini"]\n"openai/gpt-4o" = ["o3"]', "under another name already"),
    ],
)
def test_what_cannot_be_used_is_told_with_its_place(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(RoutingFileInvalid) as refused:
        Routed(tmp_path, text)

    assert str(tmp_path / "routing.toml") in str(refused.value)
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


def test_every_problem_of_a_file_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(RoutingFileInvalid) as refused:
        Routed(tmp_path, '[routes.a]\ntargets = ["x"]\n[routes.b]\ntargets = ["y"]\n')

    assert len(refused.value.problems) == 2


def test_a_route_takes_no_name_that_leads_elsewhere(tmp_path: Path) -> None:
    aliases = Catalogue([], {"fast": "openai/gpt-4o-mini"})

    with pytest.raises(RoutingFileInvalid, match=r"routes\.fast: this is the name of an alias"):
        Routed(tmp_path, '[routes.fast]\ntargets = ["openai/gpt-4o"]', catalogue=aliases)


def test_a_route_may_take_the_name_of_a_model(tmp_path: Path) -> None:
    routed = Routed(tmp_path, '[routes."gpt-4o"]\ntargets = ["claude-haiku-4-5", "gpt-4o"]')

    assert routed.targets("gpt-4o") == (HAIKU, GPT)
    assert routed.targets("openai/gpt-4o") == (GPT,)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RoutingFileInvalid, match="No such file"):
        RoutingWatch(tmp_path / "none.toml", PROVIDERS, Catalogue([]), "openai")


def test_a_changed_file_is_read_again_and_one_that_did_not_change_is_not(tmp_path: Path) -> None:
    watch = Routed(tmp_path, HOUSE_FILE).watch
    before = watch.table
    assert not watch.look()
    assert watch.table is before

    rewrite(tmp_path, '[routes.other]\ntargets = ["gpt-4o"]')

    assert watch.look()
    assert list(watch.table.routes) == ["other"]
    assert not watch.look()


def test_a_change_that_keeps_time_and_size_is_seen(tmp_path: Path) -> None:
    watch = Routed(tmp_path, '[routes.one]\ntargets = ["gpt-4o"]').watch
    found = (tmp_path / "routing.toml").stat()

    rewrite(tmp_path, '[routes.two]\ntargets = ["gpt-4o"]')
    os.utime(tmp_path / "routing.toml", ns=(found.st_atime_ns, found.st_mtime_ns))

    assert watch.look()
    assert list(watch.table.routes) == ["two"]


def test_a_bad_version_is_told_once_and_the_one_before_it_stays(tmp_path: Path, told: list[str]) -> None:
    watch = Routed(tmp_path, HOUSE_FILE).watch

    rewrite(tmp_path, "[routes.house]\ntargets = 7")
    looks = [watch.look() for _ in range(3)]

    assert looks == [False] * 3
    assert list(watch.table.routes) == ["house"]
    assert len(told) == 1
    assert "routes.house.targets" in told[0]

    rewrite(tmp_path, '[routes.mended]\ntargets = ["gpt-4o"]')

    assert watch.look()
    assert list(watch.table.routes) == ["mended"]


def test_a_file_that_vanished_is_told_once_and_heard_of_again_when_it_is_back(
    tmp_path: Path, told: list[str]
) -> None:
    watch = Routed(tmp_path, HOUSE_FILE).watch

    (tmp_path / "routing.toml").unlink()
    looks = [watch.look() for _ in range(3)]

    assert looks == [False] * 3
    assert list(watch.table.routes) == ["house"]
    assert len(told) == 1

    rewrite(tmp_path, HOUSE_FILE.replace("routes.house", "routes.back"))

    assert watch.look()
    assert list(watch.table.routes) == ["back"]


def test_without_a_file_there_is_nothing_to_look_at() -> None:
    watch = RoutingWatch(None, PROVIDERS, Catalogue([]), "openai")

    assert not watch.look()
    assert not watch.table.routes
    assert not watch.table.fallbacks
