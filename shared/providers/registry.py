"""Every provider of this process, by id: the built-in ones and those of the providers file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from shared.errors import NotFound
from shared.providers import (
    anthropic,
    deepseek,
    huggingface,
    litellm,
    nvidia_nim,
    openai,
    openrouter,
    perplexity,
    vllm,
    xai,
)
from shared.providers.configured_secrets import configured_secrets
from shared.providers.custom import BuiltInOverride, ProvidersFile, check_base_url, read_providers_file
from shared.providers.presets import Preset
from shared.providers.profile import ProviderProfile
from shared.settings import Settings

BUILT_IN: Final[Mapping[str, ProviderProfile]] = MappingProxyType(
    {
        module.PROFILE.id: module.PROFILE
        for module in (
            openai,
            anthropic,
            deepseek,
            xai,
            openrouter,
            litellm,
            nvidia_nim,
            perplexity,
            huggingface,
            vllm,
        )
    }
)


class Registry:
    """`profiles` is read-only, in the order providers are listed to people."""

    def __init__(
        self,
        profiles: Iterable[ProviderProfile],
        *,
        with_credential: Iterable[str] = (),
        presets: Iterable[Preset] = (),
    ) -> None:
        self.profiles: Mapping[str, ProviderProfile] = MappingProxyType(
            {profile.id: profile for profile in profiles}
        )
        self.presets: Mapping[str, Preset] = MappingProxyType({preset.name: preset for preset in presets})
        self._with_credential = frozenset(with_credential)

    @classmethod
    def from_settings(cls, settings: Settings) -> Registry:
        """Raises ProvidersFileInvalid, or ValueError naming a base URL that is none."""
        file = providers_file(settings)
        profiles = [*_built_in(settings, file), *(endpoint.profile() for endpoint in file.endpoint)]
        keyed = configured_secrets(settings, file, BUILT_IN.values()).keys()
        return cls(profiles, with_credential=keyed, presets=file.preset)

    def get(self, provider_id: str) -> ProviderProfile:
        """Raises NotFound."""
        profile = self.profiles.get(provider_id)
        if profile is None:
            raise NotFound(
                f"There is no provider {provider_id!r}.", details={"available": list(self.profiles)}
            )
        return profile

    def has_address(self, provider_id: str) -> bool:
        """Whether there is such a provider and its base URL is known."""
        profile = self.profiles.get(provider_id)
        return profile is not None and bool(profile.base_url)

    def configured(self) -> list[str]:
        """Ids of providers that could be called: an address, and a credential where one is required.

        What this process was told; an api process may know fewer credentials than the workers.
        """
        return [
            profile.id
            for profile in self.profiles.values()
            if profile.base_url and (profile.id in self._with_credential or not profile.credential_required)
        ]


def providers_file(settings: Settings) -> ProvidersFile:
    """The providers file of these settings; an empty one when there is none."""
    if settings.providers_file is None:
        return ProvidersFile()
    return read_providers_file(settings.providers_file, built_in=BUILT_IN.keys())


def _built_in(settings: Settings, file: ProvidersFile) -> Iterable[ProviderProfile]:
    for built_in in BUILT_IN.values():
        override = file.providers.get(built_in.id, BuiltInOverride())
        profile = replace(built_in, limits=override.limits.of_account())
        url = settings.provider_base_url(profile.base_url_variable)
        if url:
            try:
                yield profile.with_base_url(check_base_url(url))
            except ValueError as exc:
                raise ValueError(f"{profile.base_url_variable} {exc}") from exc
        elif override.base_url is not None:
            yield profile.with_base_url(override.base_url)
        else:
            yield profile
