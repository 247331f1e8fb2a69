"""The refusal of what a provider, or a form, has no word for."""

from __future__ import annotations

from shared.errors import InvalidRequest


def not_carried_over(param: str, reason: str) -> InvalidRequest:
    """A 400 that names the field. A caller may ask for such top-level fields to be left out instead."""
    error = InvalidRequest(f"{param}: {reason}", param=param)
    error.status, error.code = 400, "unsupported_parameter"
    return error
