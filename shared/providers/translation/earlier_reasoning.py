"""Whether what a model thought in earlier turns can be said to it again."""

from __future__ import annotations

from typing import Final

from shared.providers.profile import ProviderProfile

_READ_IT: Final = frozenset({"deepseek", "litellm", "openrouter"})


def reads_reasoning(profile: ProviderProfile) -> bool:
    """Whether messages may have `reasoning_content`. OpenAI refuses it: there it is left out, as a hint."""
    return profile.self_hosted or profile.id in _READ_IT
