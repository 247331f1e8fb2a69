"""Anthropic's message batches: created by one body that holds all requests.

A batch keeps nothing that we could know it by, but for what we call its requests, which its results alone
say. platform.claude.com/docs/en/api/messages/batches, read 2026-11.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote

import orjson

from shared.domain.batch import LineState
from shared.providers.batch_apis import (
    Answered,
    BatchState,
    NotAnswered,
    Page,
    Told,
    UploadForm,
    parsed,
    text,
)
from shared.providers.dialects.anthropic.paths import messages_path
from shared.providers.profile import ProviderProfile, origin_of

_PAGE: Final = 100
_STATES: Final[Mapping[str, BatchState]] = {
    "in_progress": BatchState.RUNNING,
    "canceling": BatchState.RUNNING,
    "ended": BatchState.ENDED,
}
_STATUS_OF: Final[Mapping[str, int]] = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""What each error is answered with where a request is sent by itself."""


class AnthropicBatches:
    """See `BatchApi`."""

    max_requests = 100_000
    max_bytes = 256_000_000
    head = b'{"requests":['
    between = b",\n"
    tail = b"]}"
    marks = False

    def endpoint(self, path: str) -> str | None:
        return "/v1/messages" if path in {"/v1/messages", "/messages"} else None

    def group(self, endpoint: str, model: str, headers: Mapping[str, str]) -> Hashable:
        return endpoint, *sorted(headers.items())

    def weight(self, endpoint: str, document: Mapping[str, Any]) -> int:
        return 1

    def request(self, line: str, endpoint: str, body: bytes) -> bytes:
        return b'{"custom_id":%s,"params":' % orjson.dumps(line) + body + b"}"

    def upload(self, filename: str) -> UploadForm | None:
        return None

    def files_path(self, profile: ProviderProfile) -> str:
        raise NotImplementedError("requests are not uploaded as a file")

    def read_file(self, body: bytes) -> str:
        raise NotImplementedError("requests are not uploaded as a file")

    def create(self, file: str, endpoint: str, mark: str) -> bytes:
        raise NotImplementedError("the file of requests is the body itself")

    def batches_path(self, profile: ProviderProfile) -> str:
        return f"{messages_path(profile)}/batches"

    def list_path(self, profile: ProviderProfile, after: str | None = None) -> str:
        onward = "" if after is None else f"&after_id={quote(after, safe='')}"
        return f"{self.batches_path(profile)}?limit={_PAGE}{onward}"

    def read_page(self, profile: ProviderProfile, body: bytes) -> Page:
        said = parsed(body)
        if type(said.get("data")) is not list:
            raise ValueError("no list")
        found = tuple(self._told(profile, one) for one in said["data"])
        has_more = said.get("has_more") is True and found
        return Page(found, self.list_path(profile, found[-1].id) if has_more else None)

    def read_batch(self, profile: ProviderProfile, body: bytes) -> Told:
        return self._told(profile, parsed(body))

    def read_result(self, line: bytes) -> Answered | NotAnswered:
        said = parsed(line)
        name, result = text(said.get("custom_id")), said.get("result")
        if type(result) is not dict:
            raise ValueError("no result")
        match result.get("type"):
            case "succeeded":
                return Answered(name, 200, orjson.dumps(result.get("message")))
            case "errored":
                error = result.get("error")
                return Answered(name, _STATUS_OF.get(_type_of(error), 500), orjson.dumps(error))
            case "expired":
                return NotAnswered(name, LineState.EXPIRED, "batch_expired", "")
            case "canceled":
                return NotAnswered(name, LineState.CANCELLED, "batch_cancelled", "")
        raise ValueError("no result that is known")

    def _told(self, profile: ProviderProfile, said: object) -> Told:
        if type(said) is not dict:
            raise ValueError("no batch")
        state = _STATES.get(str(said.get("processing_status")))
        if state is None:
            raise ValueError("no status")
        name, counts = text(said.get("id")), said.get("request_counts")
        numbers = [n for n in counts.values() if type(n) is int] if type(counts) is dict else []
        where = said.get("results_url")
        if type(where) is not str or origin_of(where) != profile.origin:
            # Behind a proxy it names an address that our key does not belong to.
            where = f"{self.batches_path(profile)}/{quote(name, safe='')}/results"
        return Told(
            id=name,
            state=state,
            created_at=_unix(said.get("created_at")),
            total=sum(numbers) or None,
            results=(where,) if state is BatchState.ENDED else (),
        )


def _type_of(error: object) -> str:
    """`{"type": "error", "error": {"type": ...}}`, or what is within alone."""
    within = error.get("error") if type(error) is dict else None
    told = within if type(within) is dict else error
    return str(told.get("type")) if type(told) is dict else ""


def _unix(moment: object) -> int:
    try:
        return int(datetime.fromisoformat(str(moment)).timestamp())
    except ValueError:
        return 0


anthropic_batches: Final = AnthropicBatches()
