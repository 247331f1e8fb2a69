"""How large and which run: CHAOS_JOBS, CHAOS_SEED; CHAOS_FIGURES names a file for the figures.

    CHAOS_JOBS=1000 CHAOS_FIGURES=figures.jsonl python -m pytest tests/chaos

Without them: small enough for every push, and a new seed each time, which is printed.
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Final

CI_JOBS: Final = 60


def jobs(*, ci: int = CI_JOBS) -> int:
    """How many jobs a test sends; `ci` unless CHAOS_JOBS says otherwise."""
    return int(os.environ.get("CHAOS_JOBS") or ci)


def is_full() -> bool:
    return jobs() >= 1000


def dice(test: str) -> random.Random:
    """The random source of one test, the same again for the same CHAOS_SEED. Prints its seed."""
    seed = os.environ.get("CHAOS_SEED") or str(random.SystemRandom().randrange(1_000_000))
    print(f"CHAOS_SEED={seed} CHAOS_JOBS={jobs()} ({test})")
    return random.Random(f"{seed} {test}")


def report(test: str, **figures: object) -> None:
    line = json.dumps({"test": test, **figures})
    print(line)
    if path := os.environ.get("CHAOS_FIGURES"):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(line + "\n")
