"""Models we know: what they hold, what they can, what they cost. Read once from catalogue.toml.

A model missing here can still be called; it costs 0 and is sent where its name says.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, Final

from shared.domain.usage import Usage
from shared.money import MICRO_PER_USD, TOKENS_PER_PRICE
from shared.providers.profile import Capability

_FILE: Final = Path(__file__).with_name("catalogue.toml")


@dataclass(frozen=True, slots=True)
class Model:
    """
    aliases: other names the provider knows it by, such as dated snapshots
    created: seconds since the epoch, as in OpenAI's list of models
    source, read: where the numbers were read, and when
    verified: read on the vendor's own page
    """

    id: str
    provider: str
    context_tokens: int
    max_output_tokens: int
    prompt_micro_usd_per_million: int
    cached_prompt_micro_usd_per_million: int
    completion_micro_usd_per_million: int
    capabilities: frozenset[Capability]
    created: int
    source: str
    read: date
    verified: bool
    aliases: tuple[str, ...] = ()
    retired: date | None = None

    def cost_micro_usd(self, usage: Usage) -> int:
        """Rounded up once, so that a call never costs less than it should."""
        cached = min(usage.cached_tokens, usage.prompt_tokens)
        total = (
            (usage.prompt_tokens - cached) * self.prompt_micro_usd_per_million
            + cached * self.cached_prompt_micro_usd_per_million
            + usage.completion_tokens * self.completion_micro_usd_per_million
        )
        return -(-total // TOKENS_PER_PRICE)


class Catalogue:
    def __init__(self, models: Iterable[Model]) -> None:
        self._models = tuple(models)
        self._by_name = {name: model for model in self._models for name in (model.id, *model.aliases)}

    @classmethod
    def load(cls) -> Catalogue:
        document = tomllib.loads(_FILE.read_text(encoding="utf-8"), parse_float=Decimal)
        return cls(_model(entry) for entry in document["model"])

    def models(self) -> list[Model]:
        """Those still served, in the order of the file."""
        return [model for model in self._models if model.retired is None]

    def find(self, name: str) -> Model | None:
        """By id or alias, bare or as `provider/name`; retired ones too."""
        model = self._by_name.get(name)
        if model is None and "/" in name:
            provider, _, bare = name.partition("/")
            model = self._by_name.get(bare)
            if model is not None and model.provider != provider:
                return None
        return model

    def cost_micro_usd(self, provider: str, model: str, usage: Usage) -> int:
        """0 for a model we know no price of."""
        known = self._by_name.get(model)
        return known.cost_micro_usd(usage) if known is not None and known.provider == provider else 0


@cache
def load_catalogue() -> Catalogue:
    """The catalogue of this process, read at the first call."""
    return Catalogue.load()


def _model(entry: dict[str, Any]) -> Model:
    prices = {name: int(usd * MICRO_PER_USD) for name, usd in entry["usd_per_million"].items()}
    return Model(
        id=entry["id"],
        provider=entry["provider"],
        context_tokens=entry["context_tokens"],
        max_output_tokens=entry["max_output_tokens"],
        prompt_micro_usd_per_million=prices["prompt"],
        cached_prompt_micro_usd_per_million=prices["cached_prompt"],
        completion_micro_usd_per_million=prices["completion"],
        capabilities=frozenset(Capability(name) for name in entry["capabilities"]),
        created=int(datetime.combine(entry["created"], time(), UTC).timestamp()),
        source=entry["source"],
        read=entry["read"],
        verified=entry["verified"],
        aliases=tuple(entry.get("aliases", ())),
        retired=entry.get("retired"),
    )
