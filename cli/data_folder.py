"""The data folder of the embedded default: its owner's alone, one broker at a time, files whole or absent."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Final

_LOCK: Final = "lock"
_REDIS_URL: Final = "redis-url"


def prepare(folder: Path) -> None:
    """Make the folder and its database, readable by their owner alone. Harmless again."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    database = folder / "headrace.db"
    # Before SQLite would, for everybody; its -wal and -shm files take over this mode.
    database.touch(mode=0o600)
    database.chmod(0o600)


def lock(folder: Path) -> int | None:
    """A descriptor that holds the folder until it is closed in all processes that have it. None: taken."""
    held = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        return None
    return held


def _random_text() -> str:
    return secrets.token_urlsafe(48)


def kept_secret(path: Path, make: Callable[[], str] = _random_text) -> str:
    """Made once, readable by its owner alone."""
    kept = path.read_text(encoding="ascii").strip() if path.exists() else ""
    if not kept:
        kept = make()
        write_private(path, kept)
    return kept


def write_private(path: Path, text: str) -> None:
    """All of it or nothing, whenever the process dies; readable by its owner alone."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def announce_redis(folder: Path, url: str) -> None:
    write_private(folder / _REDIS_URL, url)


def withdraw_redis(folder: Path) -> None:
    (folder / _REDIS_URL).unlink(missing_ok=True)


def running_redis(folder: Path) -> str | None:
    """The URL of the Redis of the broker that runs on this folder; None when none does."""
    file = folder / _REDIS_URL
    if not file.is_file():
        return None
    free = lock(folder)
    if free is not None:  # left by a broker that was killed
        os.close(free)
        return None
    return file.read_text(encoding="ascii").strip()
