"""OpenAI's batches: a file of requests, uploaded first, and one or two files of results.

Requests of one batch go to one endpoint and name one model. A batch keeps what we call it in its metadata.
developers.openai.com/api/reference, batches and files, read 2026-11.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping
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
from shared.providers.profile import ProviderProfile

_MARK: Final = "headrace_batch"
_KEPT_SECONDS: Final = 7 * 86_400
"""Of what is uploaded and of what comes out: long after it was fetched."""
_PAGE: Final = 100
_ENDED: Final = frozenset({"completed", "expired", "cancelled"})
_RUNNING: Final = frozenset({"validating", "in_progress", "finalizing", "cancelling"})
_NEVER_RAN: Final[Mapping[str, LineState]] = {
    "batch_expired": LineState.EXPIRED,
    "batch_cancelled": LineState.CANCELLED,
}
_MESSAGE_CHARS: Final = 500


class OpenAiBatches:
    """See `BatchApi`."""

    max_requests = 50_000
    max_bytes = 200_000_000
    head = b""
    between = b"\n"
    tail = b"\n"
    marks = True

    def endpoint(self, path: str) -> str | None:
        return _ENDPOINTS.get(path)

    def group(self, endpoint: str, model: str, headers: Mapping[str, str]) -> Hashable:
        return endpoint, model, *sorted(headers.items())

    def weight(self, endpoint: str, document: Mapping[str, Any]) -> int:
        """Of embeddings the inputs are counted: 50,000 in all requests together."""
        asked = document.get("input")
        if endpoint != "/v1/embeddings" or type(asked) is not list or not asked or type(asked[0]) is int:
            return 1
        return len(asked)

    def request(self, line: str, endpoint: str, body: bytes) -> bytes:
        head = b'{"custom_id":%s,"method":"POST","url":%s,"body":' % (
            orjson.dumps(line),
            orjson.dumps(endpoint),
        )
        return head + body + b"}"

    def upload(self, filename: str) -> UploadForm | None:
        boundary = f"headrace-{os.urandom(12).hex()}"
        fields = {
            "purpose": "batch",
            "expires_after[anchor]": "created_at",
            "expires_after[seconds]": str(_KEPT_SECONDS),
        }
        parts = [
            f'--{boundary}\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in fields.items()
        ]
        parts.append(
            f'--{boundary}\r\ncontent-disposition: form-data; name="file"; filename="{filename}"\r\n'
            "content-type: application/jsonl\r\n\r\n"
        )
        return UploadForm(
            content_type=f"multipart/form-data; boundary={boundary}",
            head="".join(parts).encode(),
            tail=f"\r\n--{boundary}--\r\n".encode(),
        )

    def files_path(self, profile: ProviderProfile) -> str:
        return "/files"

    def read_file(self, body: bytes) -> str:
        return text(parsed(body).get("id"))

    def create(self, file: str, endpoint: str, mark: str) -> bytes:
        return orjson.dumps(
            {
                "input_file_id": file,
                "endpoint": endpoint,
                "completion_window": "24h",
                "metadata": {_MARK: mark},
                "output_expires_after": {"anchor": "created_at", "seconds": _KEPT_SECONDS},
            }
        )

    def batches_path(self, profile: ProviderProfile) -> str:
        return "/batches"

    def list_path(self, profile: ProviderProfile, after: str | None = None) -> str:
        onward = "" if after is None else f"&after={quote(after, safe='')}"
        return f"/batches?limit={_PAGE}{onward}"

    def read_page(self, profile: ProviderProfile, body: bytes) -> Page:
        said = parsed(body)
        if type(said.get("data")) is not list:
            raise ValueError("no list")
        found = tuple(_told(one) for one in said["data"])
        has_more = said.get("has_more") is True and found
        return Page(found, self.list_path(profile, found[-1].id) if has_more else None)

    def read_batch(self, profile: ProviderProfile, body: bytes) -> Told:
        return _told(parsed(body))

    def read_result(self, line: bytes) -> Answered | NotAnswered:
        said = parsed(line)
        name = text(said.get("custom_id"))
        response = said.get("response")
        if type(response) is dict and type(response.get("status_code")) is int:
            return Answered(name, response["status_code"], orjson.dumps(response.get("body")))
        error = said.get("error")
        if type(error) is not dict:
            raise ValueError("neither an answer nor an error")
        code, message = str(error.get("code") or "failed"), str(error.get("message") or "")
        state = _NEVER_RAN.get(code, LineState.FAILED)
        return NotAnswered(name, state, code[:64], message[:_MESSAGE_CHARS])


_ENDPOINTS: Final[Mapping[str, str]] = {
    path: f"/v1{path}" for path in ("/chat/completions", "/completions", "/embeddings", "/responses")
}


def _told(said: object) -> Told:
    if type(said) is not dict:
        raise ValueError("no batch")
    status = said.get("status")
    if status in _ENDED:
        state = BatchState.ENDED
    elif status in _RUNNING:
        state = BatchState.RUNNING
    elif status == "failed":
        state = BatchState.FAILED
    else:
        raise ValueError("no status")
    notes, counts, created = said.get("metadata"), said.get("request_counts"), said.get("created_at")
    total = counts.get("total") if type(counts) is dict else None
    files = [file for file in (said.get("output_file_id"), said.get("error_file_id")) if type(file) is str]
    return Told(
        id=text(said.get("id")),
        state=state,
        created_at=created if type(created) is int else 0,
        mark=notes.get(_MARK) if type(notes) is dict else None,
        # 0 until it was looked through.
        total=total if type(total) is int and total > 0 else None,
        results=tuple(f"/files/{quote(file, safe='')}/content" for file in files),
        problem=_problem(said.get("errors")),
    )


def _problem(errors: object) -> str | None:
    found = errors.get("data") if type(errors) is dict else None
    if type(found) is not list or not found or type(found[0]) is not dict:
        return None
    return str(found[0].get("message") or found[0].get("code") or "")[:_MESSAGE_CHARS] or None


openai_batches: Final = OpenAiBatches()
