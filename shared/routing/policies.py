"""The order of a route's targets, best first. All of them stay: what is behind is fallen back to."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from shared.domain.conditions import UNKNOWN, ProviderCondition
from shared.domain.job import Target
from shared.providers.catalogue import Catalogue
from shared.routing.needs import Needs
from shared.routing.routing_file import Policy

EXPLORE_SHARE: Final = 0.05
"""Of the requests under policy `fastest`, how many try another target than the fastest one known."""
ASSUMED_ANSWER_TOKENS: Final = 500
"""Of a request that does not say how long its answer may be, where prices are compared."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """What policies look at."""

    needs: Needs
    catalogue: Catalogue
    conditions: Mapping[str, ProviderCondition]
    weights: Mapping[Target, float]
    rng: Random

    def condition(self, target: Target) -> ProviderCondition:
        return self.conditions.get(target.provider, UNKNOWN)


def order(policy: Policy, targets: Sequence[Target], outlook: Outlook) -> list[Target]:
    return _POLICIES[policy](targets, outlook) if len(targets) > 1 else list(targets)


def _failover(targets: Sequence[Target], _: Outlook) -> list[Target]:
    return list(targets)


def _weighted(targets: Sequence[Target], outlook: Outlook) -> list[Target]:
    """Drawn one after another without putting back, each time by weight.

    Source: P. S. Efraimidis, P. G. Spirakis, "Weighted random sampling with a reservoir", 2006.
    """

    def draw(target: Target) -> float:
        return math.log(1.0 - outlook.rng.random()) / outlook.weights[target]

    return sorted(targets, key=draw, reverse=True)


def _cheapest(targets: Sequence[Target], outlook: Outlook) -> list[Target]:
    prompt = outlook.needs.rough_prompt_tokens
    answer = outlook.needs.answer_tokens or ASSUMED_ANSWER_TOKENS

    def price(target: Target) -> float:
        prices = outlook.catalogue.prices(target.provider, target.model)
        return math.inf if prices is None else prompt * prices.prompt + answer * prices.completion

    return sorted(targets, key=price)


def _fastest(targets: Sequence[Target], outlook: Outlook) -> list[Target]:
    def latency(target: Target) -> float:
        return outlook.condition(target).latency_seconds.get(target.model, math.inf)

    ordered = sorted(targets, key=latency)
    # Always drawn, so that what was chosen before has no bearing on what a seed gives next.
    explores, chosen = outlook.rng.random() < EXPLORE_SHARE, outlook.rng.random()
    if explores:
        # A target that is never asked would be unknown, or slow of old, for ever.
        others = [target for target in ordered if latency(target) == math.inf] or ordered[1:]
        tried = others[int(chosen * len(others))]
        ordered.remove(tried)
        ordered.insert(0, tried)
    return ordered


def _least_loaded(targets: Sequence[Target], outlook: Outlook) -> list[Target]:
    def load(target: Target) -> tuple[float, float]:
        condition = outlook.condition(target)
        # Chance among equals: conditions are a second old, and all would go to the same one meanwhile.
        return (condition.queued + condition.in_flight) / max(condition.slots, 1), outlook.rng.random()

    return sorted(targets, key=load)


_POLICIES: Final[Mapping[Policy, Callable[[Sequence[Target], Outlook], list[Target]]]] = {
    Policy.FAILOVER: _failover,
    Policy.WEIGHTED: _weighted,
    Policy.CHEAPEST: _cheapest,
    Policy.FASTEST: _fastest,
    Policy.LEAST_LOADED: _least_loaded,
}
