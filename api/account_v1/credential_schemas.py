"""What the routes of an account's own provider keys take and answer."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Required

from pydantic import BaseModel, ConfigDict, StringConstraints, with_config
from typing_extensions import TypedDict

from api.unified_v1.schemas import Provider

ProviderKey = Annotated[str, StringConstraints(min_length=8, max_length=4096, pattern=r"^[\x21-\x7e]+$")]
"""What a header may carry. AWS keys are two, with a colon between."""
CredentialName = Annotated[
    str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")
]


@with_config(ConfigDict(extra="forbid", strict=True))
class CredentialIn(TypedDict, total=False):
    provider: Required[Provider]
    apiKey: Required[ProviderKey]
    name: Required[CredentialName]


class CredentialView(BaseModel):
    """Never the key itself: what is stored here gives it back to workers alone."""

    id: str
    provider: str
    name: str
    maskedKey: str  # noqa: N815 - the name that callers know
    origins: list[str]
    createdAt: datetime  # noqa: N815 - as above
    createdBy: str | None  # noqa: N815 - as above


class CredentialList(BaseModel):
    keys: list[CredentialView]
