from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.stack import Stack, start_apart


@pytest.fixture(scope="module")
def broker(sqlite_template: Path) -> Iterator[Stack]:
    """Api and scheduler; the tests of a module bring workers of their own, and take them away."""
    stack = Stack(workers=0, database_template=sqlite_template)
    start_apart(stack)
    yield stack
    stack.end_now()
