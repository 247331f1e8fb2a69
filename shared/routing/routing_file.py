"""What a routing file (HEADRACE_ROUTING_FILE) may say.

[routes.house]
policy = "weighted"                     # failover, weighted, cheapest, fastest or least_loaded
targets = ["openai/gpt-4o-mini", { model = "anthropic/claude-haiku-4-5", weight = 3 }]
requires = ["tools", "vision"]          # refused at boot where a target is known not to
fallback_on = ["context_length"]        # failures of the request itself that another target may cure
max_targets = 2                         # how many of them a job carries

[fallbacks]                             # for requests that name a model directly
"openai/gpt-4o" = ["anthropic/claude-sonnet-4-5"]
"""

from __future__ import annotations

import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from shared.domain.job import FallbackOn
from shared.providers.profile import Capability

MAX_TARGETS: Final = 16
"""Of one route, and of one job's plan."""

REQUIREMENTS: Final = {
    "tools": Capability.FUNCTION_CALLING,
    "vision": Capability.VISION,
    "json_schema": Capability.STRUCTURED_OUTPUT,
    "stream": Capability.STREAM,
    "reasoning": Capability.REASONING,
    "embeddings": Capability.EMBEDDINGS,
    "rerank": Capability.RERANK,
}
"""The words of `requires`."""


class Policy(StrEnum):
    """What decides between the targets of a route."""

    FAILOVER = "failover"
    """Their order in the file."""
    WEIGHTED = "weighted"
    """Chance, by weight."""
    CHEAPEST = "cheapest"
    """The price of the request; unknown prices last."""
    FASTEST = "fastest"
    """How long each took of late; unknown ones last, and first now and then."""
    LEAST_LOADED = "least_loaded"
    """Jobs queued and in flight for each slot of the provider's workers."""


class RoutingFileInvalid(ValueError):
    """The routing file cannot be used; the sentence names the file, the entry and the field."""

    def __init__(self, path: Path, problems: list[str]) -> None:
        super().__init__(f"{path}: " + "; ".join(problems))
        self.problems = problems


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


Name = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[\x21-\x7e]+$")]
RouteName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$")]


class TargetEntry(_Entry):
    """`model`: as a caller would write it. `weight`: share of the requests under policy `weighted`."""

    model: Name
    weight: Annotated[float, Field(gt=0, le=1_000_000)] = 1.0


def _written_as_a_name(entry: Any) -> Any:
    return {"model": entry} if isinstance(entry, str) else entry


def _known_requirement(word: Any) -> Any:
    if word not in REQUIREMENTS:
        raise ValueError(f"must be one of {', '.join(REQUIREMENTS)}")
    return word


class RouteEntry(_Entry):
    policy: Policy = Policy.FAILOVER
    targets: Annotated[
        tuple[Annotated[TargetEntry, BeforeValidator(_written_as_a_name)], ...],
        Field(min_length=1, max_length=MAX_TARGETS),
    ]
    requires: frozenset[Annotated[str, BeforeValidator(_known_requirement)]] = frozenset()
    fallback_on: frozenset[FallbackOn] = frozenset()
    max_targets: Annotated[int, Field(ge=1, le=MAX_TARGETS)] = MAX_TARGETS


class RoutingFile(_Entry):
    routes: dict[RouteName, RouteEntry] = {}
    fallbacks: dict[Name, Annotated[tuple[Name, ...], Field(min_length=1, max_length=MAX_TARGETS - 1)]] = {}


def read_routing_file(path: Path) -> RoutingFile:
    """Raises RoutingFileInvalid, with every problem of its form."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise RoutingFileInvalid(path, [exc.strerror or "cannot be read"]) from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise RoutingFileInvalid(path, [f"not TOML: {exc}"]) from exc
    try:
        return RoutingFile.model_validate(document)
    except ValidationError as exc:
        problems = [
            f"{'.'.join(map(str, error['loc'])) or 'the file'}: {error['msg']}"
            for error in exc.errors(include_input=False)
        ]
        raise RoutingFileInvalid(path, problems) from None
