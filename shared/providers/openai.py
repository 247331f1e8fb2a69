"""OpenAI."""

from __future__ import annotations

from typing import Final

from shared.providers.dialects.openai_chat import openai_chat
from shared.providers.profile import Bearer, Capability, ProviderProfile

PROFILE: Final = ProviderProfile(
    id="openai",
    name="OpenAI",
    base_url="https://api.openai.com/v1",
    auth=Bearer(),
    dialect=openai_chat,
    capabilities=frozenset(Capability),
    docs="https://platform.openai.com/docs/api-reference/chat",
)
