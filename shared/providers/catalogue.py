"""Models we know: what they hold, what they can, what they cost.

    catalogue.toml ──> an operator's file adds and replaces ──> providers' own lists add names

A model missing here can still be called; it costs 0 and is sent where its name says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Final

from shared.domain.usage import Usage
from shared.money import MICRO_PER_USD, TOKENS_PER_PRICE
from shared.providers.catalogue_file import CatalogueFile, ModelEntry, PricesEntry, read_catalogue_file
from shared.providers.profile import Capability

_FILE: Final = Path(__file__).with_name("catalogue.toml")


@dataclass(frozen=True, slots=True)
class Prices:
    """Micro-dollars per million tokens.

    cache_write: of the prompt, what the provider keeps for minutes; None where keeping it costs nothing more
    cache_write_1h: what it keeps for an hour; None where that costs what minutes do
    """

    prompt: int
    cached_prompt: int
    completion: int
    cache_write: int | None = None
    cache_write_1h: int | None = None

    def cost_micro_usd(self, usage: Usage) -> int:
        """Rounded up once, so that a call never costs less than it should."""
        cached = min(usage.cached_tokens, usage.prompt_tokens)
        total = (
            (usage.prompt_tokens - cached) * self.prompt
            + cached * self.cached_prompt
            + usage.completion_tokens * self.completion
        )
        if usage.cache_write_tokens and self.cache_write is not None:
            written = min(usage.cache_write_tokens, usage.prompt_tokens - cached)
            for_an_hour = min(usage.cache_write_1h_tokens, written)
            total += written * (self.cache_write - self.prompt)
            if self.cache_write_1h is not None:
                total += for_an_hour * (self.cache_write_1h - self.cache_write)
        return -(-total // TOKENS_PER_PRICE)


@dataclass(frozen=True, slots=True)
class Model:
    """
    aliases: other names the provider knows it by, such as dated snapshots
    max_output_tokens: 0 where nothing is generated
    prices: None when nobody could read them
    note: what the prices leave out
    created: seconds since the epoch, as in OpenAI's list of models; 0 when nobody knows
    source, read: where the numbers were read, and when
    verified: read on the vendor's own page
    batch_percent: of its prices, what a call costs in a batch of the provider's own
    """

    id: str
    provider: str
    name: str
    context_tokens: int
    max_output_tokens: int
    prices: Prices | None
    capabilities: frozenset[Capability]
    created: int
    source: str
    read: date
    verified: bool
    aliases: tuple[str, ...] = ()
    note: str | None = None
    retired: date | None = None
    batch_percent: int = 100


@dataclass(frozen=True, slots=True)
class ListedModel:
    """A model of a provider's own list; None where the list does not say.

    `price_*`: micro-dollars per million tokens.
    """

    id: str
    provider: str
    created: int = 0
    name: str | None = None
    context_tokens: int | None = None
    max_output_tokens: int | None = None
    price_prompt: int | None = None
    price_completion: int | None = None

    @property
    def prices(self) -> Prices | None:
        if self.price_prompt is None or self.price_completion is None:
            return None
        return Prices(self.price_prompt, self.price_prompt, self.price_completion)


class Catalogue:
    """
    aliases: names of ours, each for a `provider/model`
    served: providers that can be asked now, as far as anybody told; empty when nobody did
    """

    def __init__(self, models: Iterable[Model], aliases: Mapping[str, str] | None = None) -> None:
        self._models = tuple(models)
        self.aliases: Mapping[str, str] = dict(aliases or {})
        self._by_name: dict[str, Model] = {}
        self._of_provider: dict[tuple[str, str], Model] = {}
        for model in self._models:
            for name in (model.id, *model.aliases):
                self._by_name.setdefault(name, model)
                self._of_provider[model.provider, name] = model
        self.served: frozenset[str] = frozenset()
        self._listed: dict[tuple[str, str], ListedModel] = {}
        self._listed_at: dict[str, str] = {}

    @classmethod
    def load(cls, override: Path | None = None, *, providers: Iterable[str] | None = None) -> Catalogue:
        """Raises CatalogueFileInvalid. `providers`: ids that the override may name, if known here."""
        files = [read_catalogue_file(_FILE)]
        if override is not None:
            known = None if providers is None else frozenset(providers)
            files.append(read_catalogue_file(override, providers=known))
        return cls(_merged(files), {alias.name: alias.model for file in files for alias in file.alias})

    def models(self) -> list[Model]:
        """Those still served, in the order of the file."""
        return [model for model in self._models if model.retired is None]

    def find(self, name: str) -> Model | None:
        """By id or alias, bare or as `provider/name`; retired ones too."""
        provider, slash, bare = name.partition("/")
        if slash and (model := self._of_provider.get((provider, bare))) is not None:
            return model
        return self._by_name.get(name)

    def of_provider(self, provider: str, name: str) -> Model | None:
        return self._of_provider.get((provider, name))

    def relist(self, models: Iterable[ListedModel]) -> None:
        """What providers list now, in place of what they listed before."""
        listed = {(model.provider, model.id): model for model in models}
        owners: dict[str, str] = {}
        for provider, name in listed:
            owners.setdefault(name, provider)
        self._listed, self._listed_at = listed, owners

    def listed(self, provider: str | None = None) -> list[ListedModel]:
        return [model for model in self._listed.values() if provider in {None, model.provider}]

    def lists(self, provider: str, name: str) -> ListedModel | None:
        return self._listed.get((provider, name))

    def lister_of(self, name: str) -> str | None:
        """The first provider that lists this name."""
        return self._listed_at.get(name)

    def prices(self, provider: str, model: str) -> Prices | None:
        """Ours first, then what the provider's list says."""
        known = self._of_provider.get((provider, model)) or self._listed.get((provider, model))
        return known.prices if known is not None else None

    def cost_micro_usd(self, provider: str, model: str, usage: Usage) -> int:
        """0 for a model we know no price of."""
        prices = self.prices(provider, model)
        return 0 if prices is None else prices.cost_micro_usd(usage)

    def batch_cost_micro_usd(self, provider: str, model: str, usage: Usage) -> int:
        """The same in a batch of the provider's own."""
        known = self._of_provider.get((provider, model))
        percent = 100 if known is None else known.batch_percent
        return -(-self.cost_micro_usd(provider, model, usage) * percent // 100)


_in_use: Catalogue | None = None


def load_catalogue() -> Catalogue:
    """The one of this process: what `use_catalogue` was given, else our own, read at the first call."""
    return _in_use or _own_catalogue()


def use_catalogue(catalogue: Catalogue) -> None:
    """For codecs, which are pure and are handed nothing: what they read of a model's limits."""
    global _in_use  # noqa: PLW0603 - set once, at boot
    _in_use = catalogue


@cache
def _own_catalogue() -> Catalogue:
    return Catalogue.load()


def _merged(files: Iterable[CatalogueFile]) -> Iterable[Model]:
    """A later entry stands in the place of one with the same provider and id."""
    entries = {(entry.provider, entry.id): entry for file in files for entry in file.model}
    return map(_model, entries.values())


def _model(entry: ModelEntry) -> Model:
    return Model(
        id=entry.id,
        provider=entry.provider,
        name=entry.name or entry.id,
        context_tokens=entry.context_tokens,
        max_output_tokens=entry.max_output_tokens,
        prices=None if entry.usd_per_million is None else _prices(entry.usd_per_million),
        capabilities=entry.capabilities,
        created=0 if entry.created is None else int(datetime.combine(entry.created, time(), UTC).timestamp()),
        source=entry.source,
        read=entry.read,
        verified=entry.verified,
        aliases=entry.aliases,
        note=entry.note,
        retired=entry.retired,
        batch_percent=int(entry.batch_price_factor * 100),
    )


def _prices(entry: PricesEntry) -> Prices:
    """Input that is read from a cache or written to one costs what other input does where no price is given;
    nothing generated costs nothing. An hour is twice the input at Anthropic, the only one to offer it.
    """
    hour = entry.cache_write_1h
    if hour is None and entry.cache_write is not None:
        hour = max(2 * entry.prompt, entry.cache_write)
    return Prices(
        prompt=_micro(entry.prompt),
        cached_prompt=_micro(entry.prompt if entry.cached_prompt is None else entry.cached_prompt),
        completion=_micro(entry.completion or Decimal(0)),
        cache_write=None if entry.cache_write is None else _micro(entry.cache_write),
        cache_write_1h=None if hour is None else _micro(hour),
    )


def _micro(usd: Decimal) -> int:
    return int(usd * MICRO_PER_USD)
