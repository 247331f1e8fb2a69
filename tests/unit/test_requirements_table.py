"""The table of requirements names tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_NAMED = re.compile(r"(tests/[\w/]+(?:\.py)?)(?:::(test_\w+))?")


def test_every_test_that_the_table_names_is_there() -> None:
    table = (_ROOT / "docs" / "requirements.md").read_text(encoding="utf-8")
    named = _NAMED.findall(table)

    assert len(named) > 40
    for file, function in named:
        path = _ROOT / file
        assert path.exists(), file
        if function:
            assert re.search(rf"def {function}\b", path.read_text(encoding="utf-8")), f"{file}::{function}"
