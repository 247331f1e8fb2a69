"""HOT PATH. The plan of a request: where its job may run, best first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from random import Random
from typing import Any, Final

from shared.domain.conditions import UNKNOWN, ProviderCondition
from shared.domain.job import FallbackOn, JobKind, Target
from shared.errors import ModelNotFound, NoFittingTarget
from shared.providers.catalogue import Catalogue
from shared.providers.profile import not_served
from shared.providers.registry import Registry
from shared.providers.resolve import MAX_SUGGESTIONS, resolve
from shared.routing.needs import CONTEXT_LENGTH, Needs
from shared.routing.policies import Outlook, order
from shared.routing.routing_file import MAX_TARGETS
from shared.routing.table import Route, RoutingTable, written
from shared.routing.watch import RoutingWatch

_NOTHING: Final[frozenset[FallbackOn]] = frozenset()


@dataclass(frozen=True, slots=True)
class Wish:
    """What the caller wrote.

    fallbacks: models or routes to go on to; None where it did not say, () for none at all
    fallback_on: None where it did not say
    """

    model: str
    fallbacks: tuple[str, ...] | None = None
    fallback_on: frozenset[FallbackOn] | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """
    targets: best first, never empty, none twice
    fallback_on: failures beyond those of a provider that move the job on; empty with one target
    asked: what of it the caller asked for, the same however conditions change
    rewritten: whether the request no longer says what its bytes said
    """

    targets: tuple[Target, ...]
    fallback_on: frozenset[FallbackOn]
    asked: tuple[str, ...]
    rewritten: bool = False


class Router:
    """`rng`: chance, for policies that need it."""

    def __init__(
        self,
        watch: RoutingWatch,
        registry: Registry,
        catalogue: Catalogue,
        default_provider: str,
        *,
        rng: Random,
    ) -> None:
        self._watch = watch
        self._registry = registry
        self._catalogue = catalogue
        self._default_provider = default_provider
        self._rng = rng

    @property
    def table(self) -> RoutingTable:
        return self._watch.table

    def only_plan(self, name: str) -> Plan | None:
        """The plan of a request that says nothing of fallbacks, where there is nothing to choose.

        Raises ModelNotFound.
        """
        table = self._watch.table
        if name in table.routes:
            return None
        target = self._resolve(name)
        if table.fallbacks and target in table.fallbacks:
            return None
        return Plan((target,), _NOTHING, (target.provider,))

    def plan(
        self,
        wish: Wish,
        kind: JobKind,
        document: Mapping[str, Any],
        *,
        conditions: Mapping[str, ProviderCondition],
        serves: Callable[[str], bool],
    ) -> Plan:
        """The plan of a checked request. `serves`: whether some worker serves a provider.

        Where there is one target only it is not judged: the provider says what it cannot do.

        Raises ModelNotFound, NoFittingTarget, or InvalidRequest when no target serves `kind`.
        """
        table = self._watch.table
        route = table.routes.get(wish.model)
        if route is None:
            target = self._resolve(wish.model)
            if not wish.fallbacks and (wish.fallbacks is not None or target not in table.fallbacks):
                return Plan((target,), _NOTHING, (target.provider,))
            groups: list[Route | tuple[Target, ...]] = [(target,)]
            asked = target.provider
        else:
            groups, asked = [route], route.name
        if wish.fallbacks is not None:
            groups += [
                table.routes.get(name) or (self._resolve(name, param="fallback_models"),)
                for name in wish.fallbacks
            ]
        elif route is None:
            groups.append(table.fallbacks[target])
        targets = self._choose(wish.model, groups, kind, document, conditions, serves)
        fallback_on = wish.fallback_on
        if fallback_on is None:
            fallback_on = _NOTHING if route is None else route.fallback_on
        return Plan(
            targets,
            fallback_on if len(targets) > 1 else _NOTHING,
            (asked, *(wish.fallbacks or ())),
        )

    def passes_on(self, name: str, parameter: str) -> bool:
        """Whether `name` is a model whose provider has a word of its own for this parameter of ours."""
        if name in self._watch.table.routes:
            return False
        return parameter in self._registry.profiles[self._resolve(name).provider].renames

    def leads_to(self, name: str, *, param: str = "model") -> tuple[Target, ...]:
        """Every target of this name, as nothing but the routing file orders them. Raises ModelNotFound."""
        route = self._watch.table.routes.get(name)
        return (self._resolve(name, param=param),) if route is None else route.targets

    def _choose(
        self,
        name: str,
        groups: Iterable[Route | tuple[Target, ...]],
        kind: JobKind,
        document: Mapping[str, Any],
        conditions: Mapping[str, ProviderCondition],
        serves: Callable[[str], bool],
    ) -> tuple[Target, ...]:
        everyone = dict.fromkeys(target for group in groups for target in _targets_of(group))
        if len(everyone) == 1:
            return tuple(everyone)
        needs = Needs(kind, document)
        able = self._able(name, list(everyone), kind, needs)
        served = {target for target in able if serves(target.provider)} or set(able)

        def is_usable(target: Target) -> bool:
            return conditions.get(target.provider, UNKNOWN).is_usable

        chosen: dict[Target, None] = {}
        for group in groups:
            left = [target for target in _targets_of(group) if target in served and target not in chosen]
            if isinstance(group, Route):
                outlook = Outlook(needs, self._catalogue, conditions, group.weights, self._rng)
                # Apart, so that none is tried out that cannot be used now.
                usable = order(group.policy, [target for target in left if is_usable(target)], outlook)
                others = order(group.policy, [target for target in left if not is_usable(target)], outlook)
                left = [*usable, *others][: group.max_targets]
            chosen.update(dict.fromkeys(left))
        return tuple(sorted(chosen, key=is_usable, reverse=True)[:MAX_TARGETS])

    def _able(self, name: str, targets: Sequence[Target], kind: JobKind, needs: Needs) -> list[Target]:
        """Those that serve `kind` and can take the request."""
        profiles = self._registry.profiles
        serving = [target for target in targets if profiles[target.provider].serves(kind)]
        if not serving:
            raise not_served(profiles[targets[0].provider], kind)
        lacking = {target: needs.lacks(target, self._registry, self._catalogue) for target in serving}
        able = [target for target in serving if not lacking[target]]
        if not able:
            raise NoFittingTarget(
                name,
                {written(target): lacks for target, lacks in lacking.items()},
                too_long=all(lacks == [CONTEXT_LENGTH] for lacks in lacking.values()),
            )
        return able

    def _resolve(self, name: str, *, param: str = "model") -> Target:
        try:
            return resolve(name, self._registry, self._default_provider, self._catalogue)
        except ModelNotFound as missing:
            close = get_close_matches(name, self._watch.table.routes, n=MAX_SUGGESTIONS, cutoff=0.4)
            found = [*close, *missing.details["available_models"]]
            missing.details["available_models"] = list(dict.fromkeys(found))[:MAX_SUGGESTIONS]
            missing.param = param
            raise


def _targets_of(group: Route | tuple[Target, ...]) -> tuple[Target, ...]:
    return group.targets if isinstance(group, Route) else group
