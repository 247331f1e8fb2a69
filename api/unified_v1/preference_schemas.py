"""What an account prefers, in and out."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, Required

from pydantic import BaseModel, ConfigDict, Field, with_config
from typing_extensions import TypedDict

from shared.domain.job import FallbackOn
from shared.requests.chat import Model
from shared.routing.fallbacks import FallbackModels


@with_config(ConfigDict(extra="forbid", strict=True))
class PreferenceIn(TypedDict, total=False):
    model: Required[Model]
    fallback_models: FallbackModels
    fallback_on: Annotated[list[Literal["context_length", "content_filter"]], Field(max_length=8)]


class PreferenceOut(BaseModel):
    """`fallback_on`: failures of the request itself after which the next model is tried."""

    model: str
    fallback_models: list[str]
    fallback_on: list[FallbackOn]
    updated_at: datetime
