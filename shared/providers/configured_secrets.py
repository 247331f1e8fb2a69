"""Which secret the settings name for which provider.

Workers use the secrets; `Registry` only asks which providers have one.
"""

from __future__ import annotations

from pydantic import SecretStr

from shared.providers.custom import ProvidersFile
from shared.settings import Settings, environment_variable


def configured_secrets(settings: Settings, file: ProvidersFile) -> dict[str, SecretStr]:
    """By provider id; providers without a secret, or with an empty one, are left out."""
    found: dict[str, SecretStr | None] = {
        "openai": settings.openai_api_key,
        "anthropic": settings.anthropic_api_key,
        "vllm": settings.vllm_api_key,
    }
    for endpoint in file.endpoint:
        if endpoint.api_key_env is not None:
            found[endpoint.id] = SecretStr(environment_variable(endpoint.api_key_env) or "")
        else:
            found[endpoint.id] = endpoint.api_key
    stripped = {
        provider: SecretStr(secret.get_secret_value().strip())
        for provider, secret in found.items()
        if secret is not None
    }
    return {provider: secret for provider, secret in stripped.items() if secret.get_secret_value()}
