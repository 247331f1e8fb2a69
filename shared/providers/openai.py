"""OpenAI."""

from __future__ import annotations

from typing import Final

from shared.providers.batch_apis.openai import openai_batches
from shared.providers.dialects import languages
from shared.providers.profile import CHAT_MODEL, Bearer, Capability, ProviderProfile

PROFILE: Final = ProviderProfile(
    id="openai",
    name="OpenAI",
    base_url="https://api.openai.com/v1",
    auth=Bearer(),
    dialect=languages.OPENAI,
    capabilities=CHAT_MODEL
    | {
        Capability.VISION,
        Capability.REASONING,
        Capability.EFFORT,
        Capability.COMPLETION,
        Capability.EMBEDDINGS,
    },
    key_variables=("OPENAI_API_KEY",),
    base_url_variable="OPENAI_BASE_URL",
    batches=openai_batches,
    docs="https://platform.openai.com/docs/api-reference/chat",
)
