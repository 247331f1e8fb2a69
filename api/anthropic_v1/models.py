"""`GET /v1/models` for clients that speak Anthropic: its form of the list, in pages.

Source: docs.anthropic.com, Models API; an unknown date is the epoch there too.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Final, Literal

from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from starlette.datastructures import QueryParams

from shared.errors import InvalidRequest
from shared.requests.problems import from_pydantic


class ModelInfo(BaseModel):
    type: Literal["model"] = "model"
    id: str
    display_name: str
    created_at: str
    max_input_tokens: int | None = None
    max_tokens: int | None = None


class ModelPage(BaseModel):
    data: list[ModelInfo]
    has_more: bool
    first_id: str | None
    last_id: str | None


class _Query(BaseModel):
    limit: Annotated[int, Field(ge=1, le=1000)] = 20
    before_id: str | None = None
    after_id: str | None = None


_QUERY: Final = TypeAdapter(_Query)


def moment(created: int) -> str:
    return datetime.fromtimestamp(created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def page_of(models: Sequence[ModelInfo], query: QueryParams) -> ModelPage:
    """Raises InvalidRequest (400 in Anthropic's form)."""
    try:
        asked = _QUERY.validate_python(dict(query))
    except ValidationError as exc:
        raise from_pydantic(exc) from None
    if asked.before_id is not None and asked.after_id is not None:
        raise InvalidRequest("before_id: goes not together with after_id", param="before_id")
    places = {model.id: at for at, model in enumerate(models)}
    for name, cursor in (("after_id", asked.after_id), ("before_id", asked.before_id)):
        if cursor is not None and cursor not in places:
            raise InvalidRequest(f"{name}: no model has this id", param=name)
    if asked.before_id is not None:
        end = places[asked.before_id]
        start = max(0, end - asked.limit)
        more = start > 0
    else:
        start = 0 if asked.after_id is None else places[asked.after_id] + 1
        end = start + asked.limit
        more = end < len(models)
    data = list(models[start:end])
    return ModelPage(
        data=data,
        has_more=more,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
    )
