"""Who calls: taken from the credential, never from the request."""

from __future__ import annotations

from dataclasses import dataclass

from shared.ids import AccountId, ApiKeyId


@dataclass(frozen=True, slots=True)
class Principal:
    account: AccountId
    api_key: ApiKeyId
