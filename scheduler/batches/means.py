"""What this process knows of models and providers, so that a line finds its way as a request does."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Final

from loguru import logger
from redis.exceptions import RedisError

from shared.providers.catalogue import Catalogue
from shared.providers.model_lists import ModelLists
from shared.providers.registry import Registry
from shared.queue.conditions import Conditions
from shared.queue.memory_watch import MemoryWatch
from shared.queue.presence import Presence
from shared.queue.redis_link import RedisLink
from shared.routing.router import Router
from shared.routing.watch import RoutingWatch
from shared.settings import Settings

_LOOK_SECONDS: Final = 1.0


class Means:
    """One a process; `is_ready` once it saw who serves what."""

    def __init__(self, link: RedisLink, settings: Settings, registry: Registry) -> None:
        self.settings = settings
        self.registry = registry
        self.catalogue = Catalogue.load(settings.catalogue_file, providers=registry.profiles)
        self.presence = Presence(link, settings.queue, registry.profiles)
        self.conditions = Conditions(link, self.presence.served, shards=settings.queue.shards)
        self.memory = MemoryWatch(link, settings.queue)
        self._lists = ModelLists(link, registry.profiles)
        self._routes = RoutingWatch(
            settings.routing_file, registry, self.catalogue, settings.default_provider
        )
        self.router = Router(
            self._routes,
            registry,
            self.catalogue,
            settings.default_provider,
            rng=Random(),  # noqa: S311 - shares of load, no secret
        )
        self.is_ready = False

    async def look(self) -> None:
        """Raises RedisError."""
        await self.presence.look()
        await self.conditions.look()
        await self.memory.look()
        if await self._lists.look():
            self.catalogue.relist(self._lists.models())
        served = [name for name in self.presence.served() if self.registry.has_address(name)]
        with_address = [name for name in self.registry.profiles if self.registry.has_address(name)]
        self.catalogue.served = frozenset(served or self.registry.configured() or with_address)
        self._routes.look()
        self.is_ready = True


async def keep_looking(means: Means) -> None:
    """For ever."""
    while True:
        try:
            await means.look()
        except (RedisError, OSError) as exc:
            logger.debug("state of providers not read", error=type(exc).__name__)
        await asyncio.sleep(_LOOK_SECONDS)
