"""Which secret the settings name for which provider.

Workers use the secrets; `Registry` only asks which providers have one.
"""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import SecretStr

from shared.providers.custom import ProvidersFile
from shared.providers.profile import ProviderProfile
from shared.settings import Settings


def configured_secrets(
    settings: Settings, file: ProvidersFile, built_in: Iterable[ProviderProfile]
) -> dict[str, SecretStr]:
    """By provider id; providers without a secret, or with an empty one, are left out."""
    found: dict[str, SecretStr | None] = {}
    for profile in built_in:
        for variable in profile.key_variables:
            secret = settings.provider_key(variable)
            if secret is not None and secret.get_secret_value().strip():
                found[profile.id] = secret
                break
    for endpoint in file.endpoint:
        found[endpoint.id] = endpoint.secret()
    stripped = {
        provider: SecretStr(secret.get_secret_value().strip())
        for provider, secret in found.items()
        if secret is not None
    }
    return {provider: secret for provider, secret in stripped.items() if secret.get_secret_value()}
