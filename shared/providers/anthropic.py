"""Anthropic."""

from __future__ import annotations

from typing import Final

from shared.providers.dialects.anthropic import anthropic_messages
from shared.providers.profile import Capability, HeaderKey, ProviderProfile

PROFILE: Final = ProviderProfile(
    id="anthropic",
    name="Anthropic",
    base_url="https://api.anthropic.com",
    auth=HeaderKey("x-api-key"),
    dialect=anthropic_messages,
    capabilities=frozenset(Capability),
    headers={"anthropic-version": "2023-06-01"},
    docs="https://platform.claude.com/docs/en/api/messages",
)
