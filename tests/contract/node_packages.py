"""What the tests in Node need, installed as its lock says."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent / "node"
_LOCKED: Final = FOLDER / "package-lock.json"
_DONE: Final = FOLDER / "node_modules" / ".done"


def missing_program() -> str | None:
    return next((program for program in ("node", "npm") if shutil.which(program) is None), None)


def install() -> None:
    """As `make test` does it, if nobody did."""
    with _LOCKED.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _DONE.exists() or _DONE.stat().st_mtime < _LOCKED.stat().st_mtime:
            subprocess.run(["npm", "ci", "--ignore-scripts"], cwd=FOLDER, check=True, timeout=240)
            _DONE.touch()
