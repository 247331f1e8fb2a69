"""The release before, taken out of this repository's own history, to run beside today's code."""

from __future__ import annotations

import io
import re
import subprocess
import tarfile
from pathlib import Path
from typing import Final

COMMIT: Final = "acc4e52"
"""Where the release before ended; moves on with every release."""

_ROOT: Final = Path(__file__).parents[2]
_TAKEN: Final = ("api", "workers", "scheduler", "shared", "cli", ".env.example")


class HistoryMissing(Exception):
    def __init__(self, commit: str, said: str) -> None:
        super().__init__(
            f"Commit {commit} is not in this clone ({said.strip()}). Fetch it: git fetch --unshallow"
        )


def unpack(folder: Path, *, commit: str = COMMIT) -> Path:
    """Its packages in `folder`, for PYTHONPATH. Raises HistoryMissing."""
    archive = subprocess.run(
        ["git", "archive", "--format=tar", commit, *_TAKEN], cwd=_ROOT, capture_output=True, check=False
    )
    if archive.returncode:
        raise HistoryMissing(commit, archive.stderr.decode(errors="replace"))
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    return folder


def variables(folder: Path) -> set[str]:
    """Names of the settings that it knows."""
    text = (folder / ".env.example").read_text(encoding="utf-8")
    return set(re.findall(r"^#?([A-Z][A-Z0-9_]*)=", text, re.MULTILINE))
