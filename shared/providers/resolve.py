"""From the model name a caller wrote to the target that serves it."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Final

from shared.domain.job import Target
from shared.errors import ModelNotFound
from shared.providers.catalogue import Catalogue, load_catalogue
from shared.providers.registry import Registry

MAX_NAME_CHARS: Final = 256
MAX_SUGGESTIONS: Final = 5
MAX_COMPARED: Final = 1_000


def resolve(
    name: str, providers: Registry, default_provider: str, catalogue: Catalogue | None = None
) -> Target:
    """The target for `name`. Raises ModelNotFound, with the closest names we do serve.

    0. an alias: what it stands for
    1. `provider/model`, where a provider has that id: as it says
    2. a name the default provider's operator listed, or that provider itself
    3. a name of the catalogue, which may hold slashes: the provider it belongs to
    4. a name another endpoint's operator listed, or another provider itself
    5. any other name: the default provider, if it serves models of its operator's choosing

    Providers whose address nobody configured count as not there.
    """
    catalogue = catalogue or load_catalogue()
    if len(name) <= MAX_NAME_CHARS:
        wanted = catalogue.aliases.get(name, name)
        provider, slash, model = wanted.partition("/")
        if slash and model and providers.has_address(provider):
            return Target(provider, model)
        default = providers.profiles.get(default_provider)
        if default is not None and (
            wanted in default.models or (default.base_url and catalogue.lists(default.id, wanted))
        ):
            return Target(default.id, wanted)
        known = catalogue.find(wanted)
        if known is not None and providers.has_address(known.provider):
            return Target(known.provider, wanted)
        for profile in providers.profiles.values():
            if wanted in profile.models:
                return Target(profile.id, wanted)
        lister = catalogue.lister_of(wanted)
        if lister is not None and providers.has_address(lister):
            return Target(lister, wanted)
        if default is not None and default.self_hosted and default.base_url and wanted:
            return Target(default.id, wanted)
    raise _not_found(name[:MAX_NAME_CHARS], providers, catalogue)


def _not_found(name: str, providers: Registry, catalogue: Catalogue) -> ModelNotFound:
    served = _served_names(providers, catalogue)
    # Someone who wrote `opnai/gpt-4o` means the second half.
    wanted = {name.lower(), name.rpartition("/")[2].lower()}
    close = [
        match
        for spelling in sorted(wanted)
        for match in get_close_matches(spelling, served, n=MAX_SUGGESTIONS, cutoff=0.4)
    ]
    return ModelNotFound(
        f"The model {name!r} does not exist here.",
        param="model",
        details={"available_models": list(dict.fromkeys(close))[:MAX_SUGGESTIONS]},
    )


def _served_names(providers: Registry, catalogue: Catalogue) -> list[str]:
    """Not more than difflib compares in a few milliseconds: our own before those that providers list."""

    def may_ask(provider: str) -> bool:
        return provider in catalogue.served if catalogue.served else providers.has_address(provider)

    names = [model.id for model in catalogue.models() if may_ask(model.provider)]
    names += [name for profile in providers.profiles.values() for name in profile.models]
    names += [name for name, model in catalogue.aliases.items() if may_ask(model.partition("/")[0])]
    names += [model.id for model in catalogue.listed() if may_ask(model.provider)]
    return names[:MAX_COMPARED]
