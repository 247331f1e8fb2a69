"""Single flight: requests of one account that must get the same answer, at the same time, run once.

Only such whose answer does not depend on chance: temperature 0, or a kind that generates nothing.
A caller may ask for it (`x-headrace-single-flight: true`) or refuse it (`false`). One that leaves
takes nothing from the others: a job is stopped when its last reader is gone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import orjson

from shared.domain.job import FallbackOn, JobKind, Lane, Surface, Target
from shared.domain.principal import Principal

ASKED: Final = "x-headrace-single-flight"
_WITHOUT_CHANCE: Final = frozenset({JobKind.EMBEDDINGS, JobKind.RERANK, JobKind.COUNT_TOKENS})


def are_possible(kind: JobKind, document: dict[str, Any], headers: Mapping[str, str]) -> bool:
    wish = headers.get(ASKED)
    if wish is not None:
        return wish.lower() == "true"
    return kind in _WITHOUT_CHANCE or document.get("temperature") == 0


def digest_of(
    kind: JobKind,
    document: dict[str, Any],
    *,
    principal: Principal,
    surface: Surface,
    plan: Sequence[Target],
    fallback_on: Collection[FallbackOn],
    lane: Lane,
    include_usage: bool,
) -> str:
    """Equal for requests of one account, and of no two accounts, that are the same in all they say.

    In headers too: one that is urgent must not wait where another chose to.
    """
    where = [(target.provider, target.model, target.credential) for target in plan]
    asked = [principal.account, kind, surface, where, sorted(fallback_on), lane, include_usage, document]
    return hashlib.sha256(orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)).hexdigest()
