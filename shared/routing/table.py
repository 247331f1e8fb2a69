"""A routing file whose names lead somewhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from shared.domain.job import FallbackOn, Target
from shared.errors import ModelNotFound
from shared.providers.catalogue import Catalogue
from shared.providers.profile import Capability
from shared.providers.registry import Registry
from shared.providers.resolve import resolve
from shared.routing.routing_file import (
    REQUIREMENTS,
    Policy,
    RouteEntry,
    RoutingFile,
    RoutingFileInvalid,
    read_routing_file,
)

CALLERS_CHOICE: Final = frozenset({"auto", "default"})
"""What a caller writes as `model` who leaves it to its account's preference."""


@dataclass(frozen=True, slots=True)
class Route:
    """`weights`: of `targets`, which stand in the order of the file."""

    name: str
    policy: Policy
    targets: tuple[Target, ...]
    weights: Mapping[Target, float]
    requires: frozenset[Capability]
    fallback_on: frozenset[FallbackOn]
    max_targets: int


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """`fallbacks`: where to go on when a model fails that was named directly."""

    routes: Mapping[str, Route] = field(default_factory=dict)
    fallbacks: Mapping[Target, tuple[Target, ...]] = field(default_factory=dict)


def read_table(path: Path, registry: Registry, catalogue: Catalogue, default_provider: str) -> RoutingTable:
    """Raises RoutingFileInvalid, with every problem found."""
    return _Reader(path, registry, catalogue, default_provider).read(read_routing_file(path))


class _Reader:
    def __init__(self, path: Path, registry: Registry, catalogue: Catalogue, default_provider: str) -> None:
        self._path = path
        self._registry = registry
        self._catalogue = catalogue
        self._default_provider = default_provider
        self._problems: list[str] = []

    def read(self, file: RoutingFile) -> RoutingTable:
        routes = {name: self._route(name, entry) for name, entry in file.routes.items()}
        fallbacks: dict[Target, tuple[Target, ...]] = {}
        for name, models in file.fallbacks.items():
            place = f"fallbacks.{name!r}"
            for model in self._targets([name], place):
                if model in fallbacks:
                    self._problems.append(f"{place}: stands there under another name already")
                fallbacks[model] = tuple(self._targets(models, place, beside={model}))
        if self._problems:
            raise RoutingFileInvalid(self._path, self._problems)
        return RoutingTable(routes, fallbacks)

    def _route(self, name: str, entry: RouteEntry) -> Route:
        place = f"routes.{name}"
        if name in CALLERS_CHOICE:
            self._problems.append(f"{place}: this name stands for the preference of an account")
        if name in self._registry.presets or name in self._catalogue.aliases:
            kind = "a preset" if name in self._registry.presets else "an alias"
            self._problems.append(f"{place}: this is the name of {kind}")
        targets = tuple(self._targets([target.model for target in entry.targets], f"{place}.targets"))
        requires = frozenset(REQUIREMENTS[word] for word in entry.requires)
        for target in targets:
            lacking = requires - capabilities_of(target, self._registry, self._catalogue)
            if lacking:
                told = ", ".join(word for word, need in REQUIREMENTS.items() if need in lacking)
                self._problems.append(f"{place}.targets: {written(target)} has no {told}")
        weights = dict(zip(targets, (target.weight for target in entry.targets), strict=False))
        return Route(name, entry.policy, targets, weights, requires, entry.fallback_on, entry.max_targets)

    def _targets(
        self, names: Iterable[str], place: str, *, beside: Iterable[Target] = ()
    ) -> Iterator[Target]:
        seen = set(beside)
        for name in names:
            try:
                target = resolve(name, self._registry, self._default_provider, self._catalogue)
            except ModelNotFound as missing:
                close = ", ".join(missing.details["available_models"])
                told = f"; there are {close}" if close else ""
                self._problems.append(f"{place}: no provider here serves {name!r}{told}")
                continue
            if target in seen:
                self._problems.append(f"{place}: {name!r} stands there twice")
                continue
            seen.add(target)
            yield target


def capabilities_of(target: Target, registry: Registry, catalogue: Catalogue) -> frozenset[Capability]:
    """Of the model as the catalogue knows it, else of its provider."""
    known = catalogue.of_provider(target.provider, target.model)
    return registry.profiles[target.provider].capabilities if known is None else known.capabilities


def written(target: Target) -> str:
    return f"{target.provider}/{target.model}"
