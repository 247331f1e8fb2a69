"""A second pytest, with libraries that cannot live beside ours, against the broker of the first."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.contract.broker import BROKER_VARIABLE, BrokerUnderTest

ROOT: Final = Path(__file__).parents[2]
PIP: Final = ("-m", "pip", "--disable-pip-version-check", "--quiet", "install", "--require-hashes")
INSTALL_SECONDS: Final = 240


@contextmanager
def to_be_filled(folder: Path, locked: Path) -> Iterator[bool]:
    """Whether the folder is older than its lock file, while nobody else fills it."""
    folder.mkdir(exist_ok=True)
    done = folder / ".done"
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stale = not done.exists() or done.stat().st_mtime < locked.stat().st_mtime
        yield stale
        if stale:
            done.touch()


def folder_of_packages(name: str) -> Path:
    """`.venv-<name>`, to be put before everything else on the path; filled as `make test` fills it."""
    folder, locked = ROOT / f".venv-{name}", ROOT / "requirements" / f"{name}.txt"
    with to_be_filled(folder, locked) as stale:
        if stale:
            install(Path(sys.executable), locked, "--upgrade", "--target", str(folder))
    return folder


def environment_of_packages(name: str) -> Path:
    """The Python of the virtual environment `.venv-<name>`, filled as `make test` fills it."""
    folder, locked = ROOT / f".venv-{name}", ROOT / "requirements" / f"{name}.txt"
    python = folder / "bin" / "python"
    with to_be_filled(folder, locked) as stale:
        if stale:
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=INSTALL_SECONDS)
            install(python, locked)
    return python


def install(python: Path, locked: Path, *options: str) -> None:
    subprocess.run([str(python), *PIP, *options, "-r", str(locked)], check=True, timeout=INSTALL_SECONDS)


def passed_in_second_run(
    broker: BrokerUnderTest,
    tests: str,
    *options: str,
    python: Path = Path(sys.executable),
    path: Sequence[Path] = (),
    variables: Mapping[str, str] | None = None,
) -> int:
    """How many tests passed; fails if one did not."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {
        "PYTHONPATH": os.pathsep.join(map(str, [*path, ROOT])),
        BROKER_VARIABLE: broker.to_environment(),
        **(variables or {}),
    }

    run = subprocess.run(
        [str(python), "-m", "pytest", tests, "-q", "-p", "no:cacheprovider", *options],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )

    assert run.returncode == 0, run.stdout + run.stderr
    found = re.search(r"^(\d+) passed in ", run.stdout, re.MULTILINE)
    assert found is not None, run.stdout
    return int(found[1])
