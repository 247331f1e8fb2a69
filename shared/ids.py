"""Identifiers: typed, prefixed, unguessable where they are a capability."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from typing import Final, NewType

JobId = NewType("JobId", str)
AccountId = NewType("AccountId", str)
ApiKeyId = NewType("ApiKeyId", str)
RequestId = NewType("RequestId", str)
UserId = NewType("UserId", str)
CredentialId = NewType("CredentialId", str)
ConversationId = NewType("ConversationId", str)
FileId = NewType("FileId", str)
WebhookEndpointId = NewType("WebhookEndpointId", str)
WebhookId = NewType("WebhookId", str)
"""Of a delivery: the `webhook-id` that its receiver knows it by."""
BatchId = NewType("BatchId", str)

JOB_ID: Final = re.compile(r"job_[0-9a-f]{32}\Z")
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9_-]{8,64}\Z")


def new_job_id() -> JobId:
    """`job_` + 12 hex digits of milliseconds + 20 random ones: sorts by time, cannot be guessed."""
    return JobId(f"job_{int(time.time() * 1000):012x}{os.urandom(10).hex()}")


def new_job_id_in(shard: int, shard_of: Callable[[str], int]) -> JobId:
    """A new id whose job lies in `shard`, by `shard_of`."""
    while shard_of(job_id := new_job_id()) != shard:
        pass
    return job_id


def new_request_id() -> RequestId:
    return RequestId("req_" + os.urandom(12).hex())


def new_user_id() -> UserId:
    return UserId("usr_" + os.urandom(12).hex())


def new_account_id() -> AccountId:
    return AccountId("acc_" + os.urandom(12).hex())


def new_credential_id() -> CredentialId:
    """Longer than the id of an API key, which begins like it."""
    return CredentialId("key_" + os.urandom(12).hex())


def new_conversation_id() -> ConversationId:
    return ConversationId("conv_" + os.urandom(12).hex())


def new_file_id() -> FileId:
    return FileId("file-" + os.urandom(12).hex())


def new_webhook_endpoint_id() -> WebhookEndpointId:
    return WebhookEndpointId("wh_" + os.urandom(12).hex())


def new_batch_id() -> BatchId:
    """Sorts by time."""
    return BatchId(f"batch_{int(time.time() * 1000):012x}{os.urandom(10).hex()}")


def accept_request_id(offered: str | None) -> RequestId:
    """The caller's own request id when it is harmless in logs and headers, else a new one."""
    if offered is not None and _REQUEST_ID.match(offered):
        return RequestId(offered)
    return new_request_id()
