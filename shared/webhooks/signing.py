"""Signatures of Standard Webhooks, under secrets that are derived and so stored nowhere."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from shared.db.repositories.webhooks import Claimed
from shared.ids import AccountId

ACCOUNT_VERSION: Final = 1
"""Of an account's own secret, which is not rotated."""
_PREFIX: Final = "whsec_"


class WebhookSecrets:
    """Each is HMAC-SHA256 of its owner and version under the pepper of the API keys.

    Whoever reads the database learns none, and a pepper that is changed changes them all.
    """

    def __init__(self, pepper: bytes) -> None:
        self._pepper = pepper

    def of_endpoint(self, endpoint_id: str, version: int) -> str:
        """`whsec_` and 32 bytes in base64, as receivers put it into their library."""
        return self._derived(endpoint_id, version)

    def signing(self, claimed: Claimed, *, now: datetime) -> list[str]:
        """What signs this delivery: the newest secret, and the one before while that is good."""
        delivery, version = claimed.delivery, claimed.secret_version
        if delivery.endpoint_id is None or version is None:
            return [self.of_account(delivery.account_id)]
        versions = [version]
        if claimed.previous_until is not None and now < claimed.previous_until:
            versions.append(version - 1)
        return [self.of_endpoint(delivery.endpoint_id, good) for good in versions]

    def of_account(self, account: AccountId) -> str:
        """For URLs that are named by a job or a batch: there is no endpoint to own it."""
        return self._derived(account, ACCOUNT_VERSION)

    def _derived(self, owner: str, version: int) -> str:
        key = hmac.digest(self._pepper, f"webhook\n{owner}\n{version}".encode(), "sha256")
        return _PREFIX + base64.b64encode(key).decode()


def signed_headers(secrets: Sequence[str], webhook_id: str, body: bytes, *, at: datetime) -> dict[str, str]:
    """What goes with a body that is sent `at` that time. A signature for each secret, all of them good:
    while a secret is rotated, receivers may know the old one or the new one.
    """
    timestamp = str(int(at.timestamp()))
    signed = b".".join((webhook_id.encode(), timestamp.encode(), body))
    return {
        "content-type": "application/json",
        "user-agent": "Headrace",
        "webhook-id": webhook_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(_signature(secret, signed) for secret in secrets),
    }


def _signature(secret: str, signed: bytes) -> str:
    key = base64.b64decode(secret.removeprefix(_PREFIX))
    return "v1," + base64.b64encode(hmac.digest(key, signed, "sha256")).decode()
