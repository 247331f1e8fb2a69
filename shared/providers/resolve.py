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


def resolve(
    name: str, providers: Registry, default_provider: str, catalogue: Catalogue | None = None
) -> Target:
    """The target for `name`. Raises ModelNotFound, with the closest names we do serve.

    1. `provider/model`, where a provider has that id: as it says
    2. a name the default provider's operator listed
    3. a name of the catalogue: the provider it belongs to
    4. a name another endpoint's operator listed
    5. any other name: the default provider, if it serves models of its operator's choosing

    Providers whose address nobody configured count as not there.
    """
    catalogue = catalogue or load_catalogue()
    if len(name) <= MAX_NAME_CHARS:
        provider, slash, model = name.partition("/")
        if slash and model and providers.has_address(provider):
            return Target(provider, model)
        default = providers.profiles.get(default_provider)
        if default is not None and name in default.models:
            return Target(default.id, name)
        known = catalogue.find(name) if not slash else None
        if known is not None and providers.has_address(known.provider):
            return Target(known.provider, name)
        for profile in providers.profiles.values():
            if name in profile.models:
                return Target(profile.id, name)
        if default is not None and default.self_hosted and default.base_url and name:
            return Target(default.id, name)
    raise _not_found(name[:MAX_NAME_CHARS], providers, catalogue)


def _not_found(name: str, providers: Registry, catalogue: Catalogue) -> ModelNotFound:
    served = [model.id for model in catalogue.models() if providers.has_address(model.provider)]
    served += [model for profile in providers.profiles.values() for model in profile.models]
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
