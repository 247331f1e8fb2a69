"""The Procfile: each of its lines starts a process that there is."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
import yaml

ROOT: Final = Path(__file__).parents[2]
LINES: Final = dict(
    line.split(": ", 1) for line in (ROOT / "Procfile").read_text(encoding="utf-8").splitlines() if line
)


def test_the_processes_are_those_that_compose_starts() -> None:
    composed = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]

    assert {name: shlex.split(command) for name, command in LINES.items()} == {
        name: ["headrace", *composed[name]["command"]] for name in ("api", "worker", "scheduler")
    }


@pytest.mark.parametrize("name", LINES)
def test_each_command_is_one(name: str) -> None:
    program, *words = shlex.split(LINES[name])
    done = subprocess.run(
        [Path(sys.prefix) / "bin" / program, *words, "--help"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert f"Run one {name} process" in done.stdout
