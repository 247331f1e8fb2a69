from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.fault_matrix import cells
from tests.chaos.leases import SHORT
from tests.fakes.stack import Stack, start_apart


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says which faults nothing shows, so that nobody takes them for held."""
    open_cells = [cell for cell in cells() if cell.untested]
    if open_cells:
        terminalreporter.section("faults that are not tested")
    for cell in open_cells:
        terminalreporter.write_line(f"{cell.name} ({cell.untested})", yellow=True)


@pytest.fixture(scope="module")
def broker(sqlite_template: Path) -> Iterator[Stack]:
    """Api and scheduler; the tests of a module bring workers of their own, and take them away."""
    stack = Stack(workers=0, database_template=sqlite_template, settings=SHORT)
    start_apart(stack)
    yield stack
    stack.end_now()
