"""The refusal of what a provider, or a form, has no word for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shared.errors import InvalidRequest


def not_carried_over(param: str, reason: str) -> InvalidRequest:
    """A 400 that names the field. A caller may ask for such top-level fields to be left out instead."""
    error = InvalidRequest(f"{param}: {reason}", param=param)
    error.status, error.code = 400, "unsupported_parameter"
    return error


def says_something(request: Mapping[str, Any], name: str) -> bool:
    """Whether the parameter is there with a value that changes anything: clients send defaults as well."""
    value = request.get(name)
    if value is None or value is False or value in ([], {}):
        return False
    return (name, value) not in (("n", 1), ("modalities", ["text"]))
