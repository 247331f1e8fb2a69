"""Text of a caller on its way into a header of a provider's request."""

from __future__ import annotations

import re
from typing import Final

from shared.providers.not_carried_over import not_carried_over

_PRINTABLE: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,253}[\x21-\x7e])?\Z")


def header_text(value: object, param: str) -> str:
    """Raises InvalidRequest (400) unless it is printable ASCII, 255 characters at most."""
    if not isinstance(value, str) or not _PRINTABLE.match(value):
        raise not_carried_over(param, "must be 1 to 255 printable ASCII characters.")
    return value
