"""A model's name as a part of the path of a provider's request."""

from __future__ import annotations

from urllib.parse import quote

from shared.providers.not_carried_over import not_carried_over


def model_path(model: str) -> str:
    """Raises InvalidRequest (400) for one that would lead to another place of that origin, key in hand."""
    if not {"", ".", ".."}.isdisjoint(model.split("/")):
        raise not_carried_over("model", "is not the name of a model.")
    return quote(model, safe="/")
