"""Where a provider that speaks Anthropic has its messages."""

from __future__ import annotations

from shared.domain.job import JobKind
from shared.providers.profile import ProviderProfile


def messages_path(profile: ProviderProfile, kind: JobKind = JobKind.CHAT) -> str:
    """Both forms of base URL are in use: the SDK's without /v1, and the OpenAI-like one with it."""
    base = profile.bases.get(kind, profile.base_url)
    return "/messages" if base.endswith("/v1") else "/v1/messages"
