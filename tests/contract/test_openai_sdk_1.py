"""The scenarios of `openai_sdk/` once more, with the last 1.x release of the client.

Both generations are in wide use. The older one lives in a folder of its own, put before
the virtual environment on the path of a second pytest, which talks to the same broker.
"""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.contract.broker import BROKER_VARIABLE, BrokerUnderTest
from tests.contract.openai_sdk.test_version import MAJOR_VARIABLE

pytestmark = pytest.mark.xdist_group("contract")

_ROOT: Final = Path(__file__).parents[2]
_FOLDER: Final = _ROOT / ".venv-openai-1"
_DONE: Final = _FOLDER / ".done"
_LOCKED: Final = _ROOT / "requirements" / "openai-1.txt"


@pytest.fixture(scope="session")
def openai_1() -> Path:
    """The folder, filled as `make test` fills it if nobody did."""
    _FOLDER.mkdir(exist_ok=True)
    with (_FOLDER / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _DONE.exists() or _DONE.stat().st_mtime < _LOCKED.stat().st_mtime:
            command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
            command += ["--require-hashes", "--upgrade", "--target", str(_FOLDER), "-r", str(_LOCKED)]
            subprocess.run(command, check=True, timeout=240)
            _DONE.touch()
    return _FOLDER


@pytest.mark.timeout(420)
def test_every_scenario_holds_for_the_last_1_x_client(openai_1: Path, broker: BrokerUnderTest) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(openai_1), str(_ROOT)]),
        BROKER_VARIABLE: broker.to_environment(),
        MAJOR_VARIABLE: "1",
    }
    for inherited in [name for name in environment if name.startswith("PYTEST_")]:
        del environment[inherited]

    run = subprocess.run(
        [sys.executable, "-m", "pytest", "tests/contract/openai_sdk", "-q", "-p", "no:cacheprovider"],
        cwd=_ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )

    assert run.returncode == 0, run.stdout + run.stderr
    assert re.search(r"^\d{3,} passed in ", run.stdout, re.MULTILINE), run.stdout
