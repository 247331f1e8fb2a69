"""`x-headrace-drop-params: true`: what the provider has no word for is left out, and said so.

Without the header it is a 400 that names the field. Only whole top-level parameters can be
left out; a message that cannot be carried over stays an error.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from shared.domain.job import JobKind, Target
from shared.errors import InvalidRequest
from shared.providers.dialect import Call
from shared.providers.profile import ProviderProfile

ASKED: Final = "x-headrace-drop-params"
TOLD: Final = b"x-headrace-dropped-params"
_NEEDED: Final = frozenset({"model", "messages", "input", "query", "documents"})
_LITTLE: Final[dict[str, Any]] = {
    "messages": [{"role": "user", "content": "."}],
    "input": ".",
    "prompt": ".",
    "documents": ["."],
    "instructions": ".",
    "system": ".",
}
"""In place of what can be large."""


def drop_params(
    document: dict[str, Any], *, kind: JobKind, target: Target, profile: ProviderProfile, stream: bool
) -> list[str]:
    """Takes out of `document` what `profile` cannot be asked; the names, in order.

    Raises InvalidRequest for what cannot be left out. The request is encoded for it once more
    than it would be: only callers that ask pay for that. Each parameter costs another round, but
    most are found in a small copy, whatever the size of the whole.
    """
    codec = profile.codec(kind)
    needed = _NEEDED | {"prompt"} if kind is JobKind.COMPLETION else _NEEDED

    def refusal_of(asked: dict[str, Any]) -> InvalidRequest | None:
        call = Call(orjson.dumps({**asked, "model": target.model}), target, profile, stream=stream)
        try:
            codec.encode(call)
        except InvalidRequest as refusal:
            return refusal
        return None

    dropped: list[str] = []
    for asked in (
        {name: _LITTLE.get(name, value) if value else value for name, value in document.items()},
        document,
    ):
        while (refusal := refusal_of(asked)) is not None:
            # A part of a parameter (`text.format`) goes with the whole of it.
            name = (refusal.param or "").partition(".")[0]
            if refusal.code != "unsupported_parameter" or name not in asked or name in needed:
                if asked is document:
                    raise refusal
                break  # the copy may say what the whole does not
            asked.pop(name)
            document.pop(name, None)
            dropped.append(name)
    return dropped
