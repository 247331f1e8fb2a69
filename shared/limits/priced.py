"""HOT PATH. What of a plan a budget of money can be held to.

What a model without a price costs nobody here knows: nothing is reserved for it and nothing is counted,
so no budget ever ends. Where the operator wants them refused, such targets are left out for callers with a
budget. Not those of providers of the operator's own, where what a token costs is the operator's to know.
"""

from __future__ import annotations

from typing import Final

from shared.domain.job import JobKind, Target
from shared.errors import ModelUnpriced
from shared.limits.rules import Rule
from shared.providers.catalogue import Catalogue
from shared.providers.registry import Registry

_FREE: Final = frozenset({JobKind.COUNT_TOKENS, JobKind.CREDENTIAL_CHECK})
"""Kinds that no provider charges for, whatever the model."""


def priced_targets(
    plan: tuple[Target, ...], kind: JobKind, budget: Rule, catalogue: Catalogue, registry: Registry
) -> tuple[Target, ...]:
    """The same tuple where nothing changes. Raises ModelUnpriced where nothing is left."""
    if kind in _FREE:
        return plan
    unpriced = [
        target
        for target in plan
        if catalogue.prices(target.provider, target.model) is None
        and not registry.get(target.provider).self_hosted
    ]
    if not unpriced:
        return plan
    left = tuple(target for target in plan if target not in unpriced)
    if not left:
        names = [f"{target.provider}/{target.model}" for target in unpriced]
        raise ModelUnpriced(names, scope=budget.scope.value)
    return left
