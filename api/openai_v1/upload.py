"""One uploaded file on its way from the socket to the storage. Its fields may come in any order."""

from __future__ import annotations

import re
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request

from api.incoming import Counted
from api.multipart import PartBegins, PartData, read_parts
from api.request_body import too_large
from shared.errors import BadRequest
from shared.settings import StorageSettings
from shared.storage.objects import Storage, Writer, new_key

PURPOSES: Final = ("batch", "user_data", "assistants", "fine-tune", "vision", "evals")
_FIELDS: Final = frozenset({"purpose", "expires_after[anchor]", "expires_after[seconds]"})
_FORM_BYTES: Final = 64 * 1024
"""What a form may take besides the file."""
_FIELD_BYTES: Final = 256
_FILENAME: Final = re.compile(r"[^\x00-\x1f\x7f-\x9f/\\\ud800-\udfff]{1,255}\Z")
_SHORTEST: Final = 3_600
_LONGEST: Final = 2_592_000


@dataclass(frozen=True, slots=True)
class Upload:
    """Durable under `key`, and nobody's yet."""

    key: str
    filename: str
    purpose: str
    size_bytes: int
    expires_after_seconds: int | None


def told_bytes(request: Request) -> int:
    """How large the file will be at least, by the length of the whole form; 0 where that is not told."""
    return max(0, int(request.headers.get("content-length", 0)) - _FORM_BYTES)


async def receive_upload(
    request: Request, boundary: bytes, storage: Storage, settings: StorageSettings, counted: Counted
) -> Upload:
    """Raises BadRequest, PayloadTooLarge, StorageUnavailable, ClientDisconnect;
    nothing is left behind then.
    """
    limit = settings.max_file_bytes + _FORM_BYTES
    key = new_key()
    async with storage.open_writer(key) as writer:
        form = _Form(settings, writer, counted)
        async with aclosing(read_parts(request.receive, boundary, limit=limit)) as parts:
            async for event in parts:
                if isinstance(event, PartBegins):
                    form.begin(event)
                elif isinstance(event, PartData):
                    await form.take(event.data)
                else:
                    form.end()
        return form.checked(key)


class _Form:
    """What is known of the form so far."""

    def __init__(self, settings: StorageSettings, writer: Writer, counted: Counted) -> None:
        self._settings = settings
        self._writer = writer
        self._counted = counted
        self._max_bytes = settings.max_file_bytes
        self._filename: str | None = None
        self._fields: dict[str, str] = {}
        self._name = ""
        self._value = b""

    def begin(self, part: PartBegins) -> None:
        self._name, self._value = part.name, b""
        if part.name == "file":
            if self._filename is not None:
                raise BadRequest("There can be only one file.", param="file")
            if part.filename is None:
                raise BadRequest("This must be a file: a part with a filename.", param="file")
            self._filename = _checked_filename(part.filename)
        elif part.name not in _FIELDS:
            raise BadRequest("The form has a field that is not known here.", param=part.name[:64])
        elif part.name in self._fields or part.filename is not None:
            raise BadRequest("This must be one field, and no file.", param=part.name)

    async def take(self, data: bytes) -> None:
        if self._name != "file":
            self._value += data
            if len(self._value) > _FIELD_BYTES:
                raise BadRequest("This is too long.", param=self._name)
            return
        self._counted.add(len(data))
        self._check_size()
        await self._writer.write(data)

    def end(self) -> None:
        if self._name == "file":
            return
        self._fields[self._name] = self._value.decode("utf-8", "replace")
        if self._name == "purpose":
            self._read_purpose()

    def checked(self, key: str) -> Upload:
        """Once all has come."""
        if self._filename is None:
            raise BadRequest("The form has no file.", param="file")
        purpose = self._fields.get("purpose")
        if purpose is None:
            raise BadRequest("The form does not say for what purpose the file is.", param="purpose")
        if not self._counted.size:
            raise BadRequest("The file is empty.", param="file")
        return Upload(key, self._filename, purpose, self._counted.size, self._expiry(purpose))

    def _read_purpose(self) -> None:
        purpose = self._fields["purpose"]
        if purpose not in PURPOSES:
            raise BadRequest(f"This must be one of {', '.join(PURPOSES)}.", param="purpose")
        if purpose == "batch":
            self._max_bytes = min(self._max_bytes, self._settings.max_batch_input_bytes)
        # The file may have come before.
        self._check_size()

    def _check_size(self) -> None:
        if self._counted.size > self._max_bytes:
            raise too_large(self._max_bytes)

    def _expiry(self, purpose: str) -> int | None:
        anchor = self._fields.get("expires_after[anchor]")
        seconds = self._fields.get("expires_after[seconds]")
        if anchor is None and seconds is None:
            return self._settings.batch_retain_seconds if purpose == "batch" else None
        if anchor != "created_at":
            raise BadRequest("This must be created_at.", param="expires_after[anchor]")
        if seconds is None or not re.fullmatch(r"[0-9]{1,9}", seconds, re.ASCII):
            raise BadRequest("This must be a whole number.", param="expires_after[seconds]")
        if not _SHORTEST <= int(seconds) <= _LONGEST:
            raise BadRequest(
                f"This must be between {_SHORTEST} and {_LONGEST}.", param="expires_after[seconds]"
            )
        return int(seconds)


def _checked_filename(filename: str) -> str:
    """It is only ever shown; but somebody may save the file under it."""
    if not _FILENAME.match(filename) or filename in {".", ".."}:
        raise BadRequest("This must have a plain filename, of up to 255 characters.", param="file")
    return filename
