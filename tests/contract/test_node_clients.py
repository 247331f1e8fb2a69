"""The official clients for Node and the AI SDK, in Node's own test runner against the broker."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.contract.broker import BROKER_VARIABLE, BrokerUnderTest

pytestmark = pytest.mark.xdist_group("contract")

_FOLDER: Final = Path(__file__).parent / "node"
_LOCKED: Final = _FOLDER / "package-lock.json"
_DONE: Final = _FOLDER / "node_modules" / ".done"


@pytest.mark.timeout(420)
def test_the_clients_for_node_work(
    broker: BrokerUnderTest, record_property: Callable[[str, object], None]
) -> None:
    missing = [program for program in ("node", "npm") if shutil.which(program) is None]
    if missing:
        record_property("left_out", f"{missing[0]} is not installed: the Node clients were not run")
        return
    _install()

    run = subprocess.run(
        ["node", "--test", "--test-reporter=tap"],
        cwd=_FOLDER,
        env={**os.environ, BROKER_VARIABLE: broker.to_environment()},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert run.returncode == 0, run.stdout + run.stderr
    passed = re.search(r"^# pass (\d+)$", run.stdout, re.MULTILINE)
    assert passed is not None, run.stdout
    assert int(passed[1]) >= 49


def _install() -> None:
    """As `make test` does it, if nobody did."""
    with _LOCKED.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _DONE.exists() or _DONE.stat().st_mtime < _LOCKED.stat().st_mtime:
            subprocess.run(["npm", "ci", "--ignore-scripts"], cwd=_FOLDER, check=True, timeout=240)
            _DONE.touch()
