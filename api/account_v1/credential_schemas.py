"""What the routes of an account's own provider keys take and answer. No answer holds a key."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Required

from pydantic import BaseModel, ConfigDict, StringConstraints, with_config
from typing_extensions import TypedDict

from api.account_v1.auth_schemas import DisplayName

_STRICT = ConfigDict(extra="forbid", strict=True)
MAX_KEY_CHARS = 4096
"""Temporary credentials of signed requests are the longest, at some 1,500."""
ProviderId = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[\x21-\x7e]+$")]
ProviderKey = Annotated[
    str, StringConstraints(min_length=1, max_length=MAX_KEY_CHARS, pattern=r"^[\x21-\x7e]+$")
]
"""Printable ASCII without spaces: all that may stand in a header."""


@with_config(_STRICT)
class CredentialIn(TypedDict, total=False):
    provider: Required[ProviderId]
    apiKey: Required[ProviderKey]
    name: Required[DisplayName]


@with_config(_STRICT)
class Candidate(TypedDict, total=False):
    provider: Required[ProviderId]
    apiKey: Required[ProviderKey]


class CredentialView(BaseModel):
    """`maskedKey`: to recognise it by."""

    id: str
    provider: str
    name: str
    maskedKey: str  # noqa: N815 - the name that callers know
    createdAt: datetime  # noqa: N815 - as above


class CredentialList(BaseModel):
    data: list[CredentialView]


class CheckDetails(BaseModel):
    """`hasAccess`: whether the provider serves anybody on it; a key without credit is valid and has none."""

    hasAccess: bool  # noqa: N815 - the name that callers know
    models: list[str]


class CheckView(BaseModel):
    valid: bool
    provider: str
    details: CheckDetails
