"""The names a caller may ask for, and where each leads.

A model goes by the name that leads to it: bare where that is enough, else `provider/model`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from api.deps import Broker
from shared.domain.job import Target
from shared.errors import ModelNotFound
from shared.providers.catalogue import ListedModel, Model
from shared.providers.profile import ProviderProfile
from shared.providers.resolve import resolve
from shared.routing.table import Route

Known = Model | ListedModel | None
ROUTES_OWNER: Final = "headrace"
"""Of a name that leads to several providers."""


def names_in(via: Broker) -> Iterator[tuple[str, str, Known]]:
    """Every name to ask for, with the provider it leads to and what is known of the model."""
    for provider_id in via.providers():
        profile = via.registry.get(provider_id)
        for name, model in _models_of(profile, via):
            yield _asked_as(name, profile, model, via), provider_id, model


def names_of(profile: ProviderProfile, via: Broker) -> list[str]:
    return [_asked_as(name, profile, model, via) for name, model in _models_of(profile, via)]


def aliases(via: Broker) -> list[str]:
    """Those that lead to a provider that is served."""
    served = set(via.providers())
    return [name for name, model in via.catalogue.aliases.items() if model.partition("/")[0] in served]


def routes(via: Broker) -> list[Route]:
    """Those that lead to some provider that is served."""
    served = set(via.providers())
    return [
        route
        for route in via.router.table.routes.values()
        if any(target.provider in served for target in route.targets)
    ]


def _models_of(profile: ProviderProfile, via: Broker) -> Iterator[tuple[str, Known]]:
    """Of the catalogue, of its operator's configuration, of its own list; each once."""
    seen: set[str] = set()
    for model in via.catalogue.models():
        if model.provider == profile.id:
            seen.update((model.id, *model.aliases))
            yield model.id, model
    for name in profile.models:
        if name not in seen:
            seen.add(name)
            yield name, via.catalogue.lists(profile.id, name)
    for listed in via.catalogue.listed(profile.id):
        if listed.id not in seen:
            # One we took for retired is not, if it is listed.
            yield listed.id, via.catalogue.of_provider(profile.id, listed.id) or listed


def _asked_as(name: str, profile: ProviderProfile, model: Known, via: Broker) -> str:
    if name in via.router.table.routes or (name in profile.models and not isinstance(model, Model)):
        return f"{profile.id}/{name}"
    try:
        bare = resolve(name, via.registry, via.settings.default_provider, via.catalogue)
    except ModelNotFound:
        bare = None
    return name if bare == Target(profile.id, name) else f"{profile.id}/{name}"


def everything(via: Broker) -> Iterator[tuple[str, str, Known]]:
    """The same, and the presets, aliases and routes."""
    yield from names_in(via)
    served = set(via.providers())
    for preset in via.registry.presets.values():
        try:
            target = resolve(preset.model, via.registry, via.settings.default_provider, via.catalogue)
        except ModelNotFound:
            continue
        if target.provider in served:
            yield preset.name, target.provider, via.catalogue.of_provider(target.provider, target.model)
    for alias in aliases(via):
        provider, _, name = via.catalogue.aliases[alias].partition("/")
        known = via.catalogue.of_provider(provider, name) or via.catalogue.lists(provider, name)
        yield alias, provider, known
    for route in routes(via):
        yield route.name, ROUTES_OWNER, None
