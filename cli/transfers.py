"""Files to a broker and from it, of any size, never whole in memory."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import quote

import httpx

from cli.broker import PATIENCE_SECONDS, USAGE, Broker, Pauses, Refused, Unreachable
from cli.configuration import fail
from cli.progress import Progress

_PATH: Final = "/v1/files"
_QUIET_SECONDS: Final = 60.0
_PAGE: Final = 1_000
_MIB: Final = 1 << 20
REUSE_SECONDS: Final = 86_400
"""How long an Idempotency-Key stands for its batch, which is that of one uploaded file."""


class Counted:
    """A file that tells how much of it was read; httpx asks of it what is here."""

    def __init__(self, file: BufferedReader, progress: Progress) -> None:
        self._file, self._progress = file, progress
        self._total = os.fstat(file.fileno()).st_size

    def fileno(self) -> int:
        return self._file.fileno()

    def seek(self, place: int) -> int:
        return self._file.seek(place)

    def read(self, size: int = -1) -> bytes:
        part = self._file.read(size)
        done = self._file.tell()
        self._progress.show(
            done, self._total, f"{done / _MIB:.1f} of {self._total / _MIB:.1f} MiB", last=not part
        )
        return part


def digest_of(file: BufferedReader) -> str:
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()


def upload(broker: Broker, file: BufferedReader, digest: str) -> str:
    """The id of the file's upload: that of an earlier one of these very bytes where there is one."""
    size = os.fstat(file.fileno()).st_size
    # The digest is its name: so that it is found again when the answer to the upload was lost.
    name = f"{digest}.jsonl"
    earlier = _find(broker, name, size)
    if earlier is not None:
        return earlier
    body = Counted(file, Progress("uploading"))
    file_id: str = broker.post_file(_PATH, {"purpose": "batch"}, (name, body)).json()["id"]
    return file_id


def _find(broker: Broker, name: str, size: int) -> str | None:
    after: dict[str, Any] = {}
    while True:
        page = broker.get(_PATH, purpose="batch", order="desc", limit=_PAGE, **after).json()
        for file in page["data"]:
            if file["created_at"] < time.time() - REUSE_SECONDS:
                return None
            if file["filename"] == name and file["bytes"] == size:
                return str(file["id"])
        if not page["has_more"]:
            return None
        after = {"after": page["data"][-1]["id"]}


def download(broker: Broker, file_id: str, target: Path) -> None:
    """Whole or not at all: it has its name once all of it is there."""
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as file:
            copy(broker, file_id, file)
            os.fsync(file.fileno())
        part.replace(target)
    except OSError as exc:
        fail(f"{target}: {exc.strerror}.", USAGE)
    finally:
        part.unlink(missing_ok=True)


def check_or_exit(*targets: Path | None) -> None:
    """Before anything is waited for."""
    for target in targets:
        if target is not None and (target.is_dir() or not target.parent.is_dir()):
            fail(f"{target}: is no place for a file.", USAGE)


def copy(broker: Broker, file_id: str, target: IO[bytes]) -> None:
    for piece in _content(broker, file_id):
        target.write(piece)
    target.flush()


def _content(broker: Broker, file_id: str) -> Iterator[bytes]:
    """Goes on where a connection broke."""
    path, done, pauses = f"{_PATH}/{quote(file_id, safe='')}/content", 0, Pauses(PATIENCE_SECONDS)
    while True:
        headers = {"Range": f"bytes={done}-"} if done else {}
        try:
            with broker.stream(path, headers, quiet_seconds=_QUIET_SECONDS) as answer:
                skip = done if done and answer.status_code != httpx.codes.PARTIAL_CONTENT else 0
                for piece in answer.iter_bytes(_MIB):
                    kept, skip = piece[skip:], max(0, skip - len(piece))
                    if kept:
                        done += len(kept)
                        yield kept
                    pauses = Pauses(PATIENCE_SECONDS)
                return
        except (Unreachable, Refused) as trouble:
            if not (trouble.may_pass and pauses.has_patience):
                raise
        pauses.pause()


@contextlib.contextmanager
def opened_or_exit(path: Path) -> Iterator[BufferedReader]:
    try:
        file = path.open("rb")
    except OSError as exc:
        fail(f"{path}: {exc.strerror}.", USAGE)
    with file:
        if os.fstat(file.fileno()).st_size == 0:
            fail(f"{path}: is empty.", USAGE)
        yield file
