"""The inputs of an embeddings request, for providers that read text and no tokens."""

from __future__ import annotations

from typing import Any

from shared.providers.not_carried_over import not_carried_over
from shared.providers.profile import ProviderProfile


def texts_of(request: dict[str, Any], profile: ProviderProfile) -> list[str]:
    """Raises InvalidRequest (400) for inputs that are lists of tokens."""
    given = request.get("input")
    items: list[Any] = given if isinstance(given, list) else [given]
    texts = [item for item in items if isinstance(item, str)]
    if len(texts) < len(items):
        raise not_carried_over("input", f"{profile.name} takes text, not tokens.")
    return texts
