"""What providers list themselves, and how they answered: one worker asks, everybody reads.

    worker: GET models_path ──> hr:models:<provider> ┐
                            └─> hr:health:<provider> ┴─ look, every 15 s ──> api, workers

The record of health says when its list was stored, so a list is read only when it is a new one.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import Any, Final, Protocol

import orjson

from shared import keyspace
from shared.money import MICRO_PER_USD, TOKENS_PER_PRICE
from shared.providers.catalogue import ListedModel

LIST_SECONDS: Final = 7_200
"""How long a list, and what is known of a provider's health, stands without being renewed."""
LOOK_SECONDS: Final = 15.0
MAX_MODELS: Final = 2_000
"""Of one provider; OpenRouter lists some 400."""
_NAME: Final = re.compile(r"[\x21-\x7e]{1,256}")
_MAX_TOKENS: Final = 10**9
_MAX_PRICE: Final = 10**12
"""Micro-dollars per million tokens: a dollar a token."""


class ProviderStatus(StrEnum):
    ONLINE = "online"
    DEGRADED = "degraded"
    """It answers, and refuses us or makes no sense."""
    OFFLINE = "offline"
    UNKNOWN = "unknown"
    """Nobody could ask: it has no list, or no worker has asked yet."""


@dataclass(frozen=True, slots=True)
class HealthRecord:
    """Times in seconds since the epoch. `error`: an error code, never a message."""

    status: ProviderStatus
    checked_at: float
    latency_ms: int | None = None
    error: str | None = None
    listed_at: float | None = None

    def to_wire(self) -> bytes:
        return orjson.dumps(self)

    @classmethod
    def from_wire(cls, wire: bytes) -> HealthRecord:
        """Another version's record is read as far as it is understood."""
        fields: dict[str, Any] = orjson.loads(wire)
        status = fields["status"]
        return cls(
            status=ProviderStatus(status) if status in set(ProviderStatus) else ProviderStatus.UNKNOWN,
            checked_at=fields["checked_at"],
            latency_ms=fields.get("latency_ms"),
            error=fields.get("error"),
            listed_at=fields.get("listed_at"),
        )


class Commands(Protocol):
    """Redis, as far as it is needed here."""

    async def execute_many(self, commands: list[tuple[str | bytes | int | float, ...]]) -> list[Any]:
        """All replies in order; a refused command appears as its exception instead of raising."""


class ModelLists:
    """`providers`: whose lists to read, in the order they are searched for a name."""

    def __init__(
        self, commands: Commands, providers: Iterable[str], clock: Callable[[], float] = time.time
    ) -> None:
        self._commands = commands
        self._providers = tuple(providers)
        self._clock = clock
        self._read: dict[str, tuple[float, list[ListedModel]]] = {}
        self.health: Mapping[str, HealthRecord] = {}

    async def look(self) -> bool:
        """Whether a list changed. Raises RedisError; what was read before then stands."""
        health = dict(zip(self._providers, await self._get(keyspace.health, self._providers), strict=True))
        self.health = {name: HealthRecord.from_wire(wire) for name, wire in health.items() if wire}
        oldest = self._clock() - LIST_SECONDS
        listed_at = {
            name: record.listed_at
            for name, record in self.health.items()
            if record.listed_at is not None and record.listed_at > oldest
        }
        gone = self._read.keys() - listed_at.keys()
        new = [name for name, at in listed_at.items() if name not in self._read or self._read[name][0] != at]
        for name, wire in zip(new, await self._get(keyspace.models, new), strict=True):
            self._read[name] = (listed_at[name], list_from_wire(wire, name) if wire else [])
        for name in gone:
            del self._read[name]
        return bool(gone or new)

    def models(self) -> list[ListedModel]:
        return [model for name in self._providers if name in self._read for model in self._read[name][1]]

    async def _get(self, key: Callable[[str], str], names: Iterable[str]) -> list[bytes | None]:
        answers = await self._commands.execute_many([("GET", key(name)) for name in names])
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return answers


def list_to_wire(models: Iterable[ListedModel]) -> bytes:
    return orjson.dumps(
        [
            {field: value for field, value in asdict(model).items() if field != "provider" and value}
            for model in models
        ]
    )


def list_from_wire(wire: bytes, provider: str) -> list[ListedModel]:
    known = set(ListedModel.__slots__)
    return [
        ListedModel(provider=provider, **{name: value for name, value in fields.items() if name in known})
        for fields in orjson.loads(wire)
    ]


def read_list(body: bytes, provider: str) -> list[ListedModel]:
    """A provider's answer to GET models_path, in OpenAI's form or Anthropic's, with others' extras.

    Raises ValueError when it is no list of models; entries that make no sense are left out.
    """
    document = orjson.loads(body)
    entries = document.get("data", document.get("models")) if isinstance(document, dict) else document
    if not isinstance(entries, list):
        raise ValueError("there is no list of models in it")  # noqa: TRY004 - one kind of wrong body
    found: dict[str, ListedModel] = {}
    for entry in entries:
        name = entry.get("id") if isinstance(entry, dict) else None
        if isinstance(name, str) and _NAME.fullmatch(name) and name not in found:
            found[name] = _listed(entry, name, provider)
        if len(found) == MAX_MODELS:
            break
    return list(found.values())


def _listed(entry: Mapping[str, Any], name: str, provider: str) -> ListedModel:
    """Extras: OpenRouter and Hugging Face in their documentation of /models, vLLM's max_model_len."""
    top = _object(entry.get("top_provider"))
    behind = [item for item in _items(entry.get("providers")) if item.get("status") in {None, "live"}]
    prompt, completion = _prices(entry, behind)
    return ListedModel(
        id=name,
        provider=provider,
        created=_created(entry),
        name=_text(entry.get("name")) or _text(entry.get("display_name")),
        context_tokens=_tokens(
            entry.get("context_length"),
            entry.get("max_model_len"),
            entry.get("max_input_tokens"),
            entry.get("context_window"),
            *(item.get("context_length") for item in behind),
        ),
        max_output_tokens=_tokens(
            entry.get("max_output_tokens"), top.get("max_completion_tokens"), entry.get("max_tokens")
        ),
        price_prompt=prompt,
        price_completion=completion,
    )


def _prices(entry: Mapping[str, Any], behind: list[dict[str, Any]]) -> tuple[int | None, int | None]:
    """OpenRouter: dollars a token, as text. Hugging Face: dollars a million tokens at each provider
    behind it; which one serves a call is not known before, so the dearest.
    """
    pricing = _object(entry.get("pricing"))
    if pricing:
        per_token = MICRO_PER_USD * TOKENS_PER_PRICE
        return _price(pricing.get("prompt"), per_token), _price(pricing.get("completion"), per_token)
    offers = [_object(item.get("pricing")) for item in behind]
    known = [
        (prompt, completion)
        for offer in offers
        if (prompt := _price(offer.get("input"), MICRO_PER_USD)) is not None
        and (completion := _price(offer.get("output"), MICRO_PER_USD)) is not None
    ]
    return max(known, key=sum) if known else (None, None)


def _price(value: Any, micro: int) -> int | None:
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        return None
    try:
        price = Decimal(str(value)) * micro
    except InvalidOperation:
        return None
    return round(price) if price.is_finite() and 0 <= price <= _MAX_PRICE else None


def _created(entry: Mapping[str, Any]) -> int:
    created, at = entry.get("created"), entry.get("created_at")
    if type(created) is int and 0 <= created < 2**40:
        return created
    if isinstance(at, str):
        try:
            return max(0, int(datetime.fromisoformat(at).timestamp()))
        except (ValueError, OverflowError):
            return 0
    return 0


def _tokens(*candidates: Any) -> int | None:
    return next((n for n in candidates if type(n) is int and 0 < n <= _MAX_TOKENS), None)


def _text(value: Any) -> str | None:
    return value[:100] if isinstance(value, str) and value.strip() else None


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _items(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
