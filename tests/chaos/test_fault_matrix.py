"""Every fault of the matrix has a test that exists, or says why it has none."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.chaos.fault_matrix import PAGE, Cell, cells, is_there, page


@pytest.mark.parametrize("cell", cells(), ids=lambda cell: cell.name)
def test_a_cell_names_tests_that_are_there_or_says_why_not(cell: Cell) -> None:
    assert cell.test or cell.untested
    assert [node_id for node_id in cell.test if not is_there(node_id)] == []


def test_no_cell_is_there_twice() -> None:
    assert [name for name, times in Counter(cell.name for cell in cells()).items() if times > 1] == []


@pytest.mark.parametrize(
    "node_id",
    [
        "tests/chaos/test_poison.py::test_that_nobody_wrote",
        "tests/chaos/test_of_nothing.py::test_a_thing",
        "tests/chaos/test_poison.py",
        "tests/chaos/checker.py::nobody",
    ],
)
def test_a_test_that_is_not_there_is_missed(node_id: str) -> None:
    assert not is_there(node_id)


def test_the_page_is_made_of_the_matrix() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "python -m tests.chaos.fault_matrix writes it anew"
