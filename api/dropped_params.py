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
_NEEDED: Final = frozenset({"model", "messages", "input", "prompt", "query", "documents"})


def drop_params(
    document: dict[str, Any], *, kind: JobKind, target: Target, profile: ProviderProfile, stream: bool
) -> list[str]:
    """Takes out of `document` what `profile` cannot be asked; the names, in order.

    Raises InvalidRequest for what cannot be left out. The request is encoded for it once more
    than it would be: only callers that ask pay for that.
    """
    dropped: list[str] = []
    codec = profile.codec(kind)
    while True:
        call = Call(orjson.dumps({**document, "model": target.model}), target, profile, stream=stream)
        try:
            codec.encode(call)
        except InvalidRequest as refusal:
            # A part of a parameter (`text.format`) goes with the whole of it.
            name = (refusal.param or "").partition(".")[0]
            if refusal.code != "unsupported_parameter" or name not in document or name in _NEEDED:
                raise
            del document[name]
            dropped.append(name)
        else:
            return dropped
