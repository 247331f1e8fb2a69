"""What choosing a plan takes; whichever process chooses has these by the same names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from shared.domain.conditions import ProviderCondition
from shared.providers.catalogue import Catalogue
from shared.providers.registry import Registry
from shared.queue.presence import Presence
from shared.routing.router import Router
from shared.settings import Settings

RawHeaders = list[tuple[bytes, bytes]]
"""Of a request, names in lower case; none of a request that did not come by HTTP."""


class RoutingMeans(Protocol):
    """`conditions`: how providers do, by id."""

    @property
    def settings(self) -> Settings: ...

    @property
    def registry(self) -> Registry: ...

    @property
    def catalogue(self) -> Catalogue: ...

    @property
    def router(self) -> Router: ...

    @property
    def presence(self) -> Presence: ...

    @property
    def conditions(self) -> Mapping[str, ProviderCondition]: ...
