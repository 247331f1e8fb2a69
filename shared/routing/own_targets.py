"""HOT PATH. What of a plan a caller may use, and with whose credentials."""

from __future__ import annotations

from dataclasses import replace

from shared.domain.job import Target
from shared.domain.principal import Principal
from shared.errors import ModelNotFound


def targets_for(plan: tuple[Target, ...], principal: Principal) -> tuple[Target, ...]:
    """The same tuple where nothing changes. Raises ModelNotFound where nothing is left."""
    if principal.models is not None or principal.providers is not None:
        plan = tuple(target for target in plan if principal.may_use(target.provider, target.model))
        if not plan:
            raise ModelNotFound("This credential may not use this model.", param="model")
    if principal.credentials:
        own = dict(principal.credentials)
        plan = tuple(
            replace(target, credential=own[target.provider]) if target.provider in own else target
            for target in plan
        )
    return plan
