"""What a catalogue file may say: our own catalogue.toml, and an operator's HEADRACE_CATALOGUE_FILE.

[[model]]
id = "house-model-7b"
provider = "vllm"
context_tokens = 32_768
max_output_tokens = 4_096                          # 0 where nothing is generated: embeddings
usd_per_million = { prompt = 0.10, completion = 0.30 }  # left out: the price is not known
# within: cached_prompt, cache_write and cache_write_1h, of input that a cache takes part in
capabilities = ["chat", "stream"]
batch_price_factor = 0.5                           # of the price, in the provider's own batches; left out: 1

[[alias]]
name = "fast"
model = "openai/gpt-4o-mini"                       # provider/model
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from shared.providers.profile import Capability

Name = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[\x21-\x7e]+$")]
Usd = Annotated[Decimal, Field(ge=0, le=1_000_000, decimal_places=6)]


class CatalogueFileInvalid(ValueError):
    """The catalogue file cannot be used; the sentence names the file, the entry and the field."""

    def __init__(self, path: Path, problems: list[str]) -> None:
        super().__init__(f"{path}: " + "; ".join(problems))
        self.problems = problems


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PricesEntry(_Entry):
    prompt: Usd
    cached_prompt: Usd | None = None
    cache_write: Usd | None = None
    cache_write_1h: Usd | None = None
    completion: Usd | None = None


class ModelEntry(_Entry):
    id: Name
    provider: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
    name: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    aliases: tuple[Name, ...] = ()
    context_tokens: Annotated[int, Field(gt=0)]
    max_output_tokens: Annotated[int, Field(ge=0)] = 0
    usd_per_million: PricesEntry | None = None
    note: str | None = None
    capabilities: Annotated[frozenset[Capability], Field(min_length=1)]
    batch_price_factor: Annotated[Decimal, Field(ge=0, le=1, decimal_places=2)] = Decimal(1)
    created: date | None = None
    source: str = "the operator's catalogue file"
    read: date = Field(default_factory=lambda: datetime.now(UTC).date())
    verified: bool = False
    retired: date | None = None

    @model_validator(mode="after")
    def _room_for_the_answer(self) -> ModelEntry:
        if self.max_output_tokens > self.context_tokens:
            raise ValueError("max_output_tokens is more than context_tokens")
        return self


class AliasEntry(_Entry):
    name: Name
    model: Annotated[str, Field(min_length=3, max_length=256, pattern=r"^[a-z][a-z0-9_]{0,31}/[\x21-\x7e]+$")]


class CatalogueFile(_Entry):
    model: tuple[ModelEntry, ...] = ()
    alias: tuple[AliasEntry, ...] = ()


def read_catalogue_file(path: Path, *, providers: Collection[str] | None = None) -> CatalogueFile:
    """`providers`: ids that entries may name, if they are known here.

    Raises CatalogueFileInvalid, with every problem found.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)
    except OSError as exc:
        raise CatalogueFileInvalid(path, [exc.strerror or "cannot be read"]) from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise CatalogueFileInvalid(path, [f"not TOML: {exc}"]) from exc
    try:
        file = CatalogueFile.model_validate(document)
    except ValidationError as exc:
        raise CatalogueFileInvalid(
            path,
            [
                f"{_entry_name(document, error['loc'])}: {error['msg']}"
                for error in exc.errors(include_input=False)
            ],
        ) from None
    if problems := _clashes(file, providers):
        raise CatalogueFileInvalid(path, problems)
    return file


def _entry_name(document: dict[str, Any], location: tuple[int | str, ...]) -> str:
    """`model 'house-model-7b', context_tokens` rather than `model.0.context_tokens`."""
    steps = [str(step) for step in location]
    if len(location) >= 2 and isinstance(location[1], int):
        entries = document.get(steps[0])
        entry = entries[location[1]] if isinstance(entries, list) else None
        name = entry.get("id", entry.get("name")) if isinstance(entry, dict) else None
        told = repr(name) if isinstance(name, str) else f"number {location[1] + 1}"
        steps[:2] = [f"{steps[0]} {told}"]
    return ", ".join(steps) or "the file"


def _clashes(file: CatalogueFile, providers: Collection[str] | None) -> list[str]:
    problems = []
    seen: set[tuple[str, str]] = set()
    for model in file.model:
        if providers is not None and model.provider not in providers:
            problems.append(
                f"model {model.id!r}, provider: there is no provider {model.provider!r}; "
                f"there are {', '.join(sorted(providers))}"
            )
        for name in (model.id, *model.aliases):
            if (model.provider, name) in seen:
                problems.append(f"model {model.id!r}: the name {name!r} is used twice at {model.provider}")
            seen.add((model.provider, name))
    names: set[str] = set()
    for alias in file.alias:
        if alias.name in names:
            problems.append(f"alias {alias.name!r}: this name is used twice")
        names.add(alias.name)
        provider = alias.model.partition("/")[0]
        if providers is not None and provider not in providers:
            problems.append(f"alias {alias.name!r}, model: there is no provider {provider!r}")
    return problems
