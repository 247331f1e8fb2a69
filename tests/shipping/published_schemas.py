"""Files held to the schemas that their readers publish, as check-jsonschema carries them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def assert_fits(schema: str, file: Path) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
