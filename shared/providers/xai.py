"""xAI. Its limits are per second: a sixtieth of what is written as requests per minute."""

from __future__ import annotations

from typing import Final

from shared.providers.dialects import languages
from shared.providers.profile import CHAT_MODEL, Bearer, Capability, ProviderProfile

PROFILE: Final = ProviderProfile(
    id="xai",
    name="xAI",
    base_url="https://api.x.ai/v1",
    auth=Bearer(),
    dialect=languages.OPENAI,
    capabilities=CHAT_MODEL | {Capability.VISION, Capability.REASONING, Capability.EFFORT},
    refuses=frozenset({"audio", "modalities", "logit_bias"}),
    key_variables=("XAI_API_KEY",),
    base_url_variable="XAI_BASE_URL",
    docs="https://docs.x.ai/docs/api-reference",
)
