"""Which API of Anthropic a caller wants: headers of its request, carried inside the body of a job.

    anthropic-version: 2023-06-01       anthropic_version: "2023-06-01"
    anthropic-beta: a-2025-01-01, b     anthropic_beta: ["a-2025-01-01", "b"]

No form of Anthropic's own has these fields, so codecs take them out again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from shared.providers.not_carried_over import not_carried_over

VERSION: Final = "anthropic_version"
BETA: Final = "anthropic_beta"

_WORD: Final = re.compile(r"[0-9A-Za-z._-]{1,64}\Z")


def carry(headers: Mapping[str, str], document: dict[str, Any]) -> bool:
    """What `headers` (names in lower case) want, put into `document`; whether that changed it."""
    version, beta = headers.get("anthropic-version"), headers.get("anthropic-beta")
    if version:
        document[VERSION] = version
    if beta:
        document[BETA] = [word.strip() for word in beta.split(",") if word.strip()]
    return bool(version or beta)


def take_headers(request: dict[str, Any]) -> dict[str, str]:
    """The headers for what `request` wants, which is taken out of it. Raises InvalidRequest (400)."""
    headers: dict[str, str] = {}
    version, beta = request.pop(VERSION, None), request.pop(BETA, None)
    if version is not None:
        if not _is_word(version):
            raise not_carried_over(VERSION, "must be a version such as 2023-06-01.")
        headers["anthropic-version"] = version
    if beta:
        words = beta.split(",") if isinstance(beta, str) else beta
        if not isinstance(words, list) or not all(map(_is_word, words)):
            raise not_carried_over(BETA, "must be a list of names such as files-api-2025-04-14.")
        headers["anthropic-beta"] = ",".join(words)
    return headers


def _is_word(value: object) -> bool:
    return isinstance(value, str) and _WORD.match(value) is not None
