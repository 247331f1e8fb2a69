"""Anthropic."""

from __future__ import annotations

from typing import Final

from shared.providers.batch_apis.anthropic import anthropic_batches
from shared.providers.dialects import languages
from shared.providers.profile import CHAT_MODEL, Capability, HeaderKey, ProviderProfile

PROFILE: Final = ProviderProfile(
    id="anthropic",
    name="Anthropic",
    base_url="https://api.anthropic.com",
    auth=HeaderKey("x-api-key"),
    dialect=languages.ANTHROPIC,
    capabilities=CHAT_MODEL | {Capability.VISION, Capability.REASONING, Capability.EFFORT},
    headers={"anthropic-version": "2023-06-01"},
    key_variables=("ANTHROPIC_API_KEY",),
    base_url_variable="ANTHROPIC_BASE_URL",
    models_path="/v1/models?limit=1000",  # 20 without it
    batches=anthropic_batches,
    docs="https://platform.claude.com/docs/en/api/messages",
)
