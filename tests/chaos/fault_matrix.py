"""The fault matrix: its cells, whether their tests are there, and the page made of them.

python -m tests.chaos.fault_matrix      writes docs/fault-matrix.md
"""

from __future__ import annotations

import ast
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "fault-matrix.md"
_CELLS: Final = Path(__file__).with_name("fault_matrix.toml")
_HEAD: Final = """\
# Faults, what is promised, and the test that shows it

Made of tests/chaos/fault_matrix.toml by `python -m tests.chaos.fault_matrix`; change it there.
`make chaos` ends with what is not tested.
"""


@dataclass(frozen=True, slots=True)
class Cell:
    component: str
    fault: str
    expect: str
    test: tuple[str, ...] = ()
    """Node ids of pytest."""
    untested: str = ""
    """Why there is none, or what none of them shows."""

    @property
    def name(self) -> str:
        return f"{self.component}: {self.fault}"


def cells() -> list[Cell]:
    rows = tomllib.loads(_CELLS.read_text(encoding="utf-8"))["cell"]
    return [Cell(**{**row, "test": tuple(row.get("test", ()))}) for row in rows]


def is_there(node_id: str) -> bool:
    """Whether that test exists: by the syntax of its file, since importing all of them takes seconds."""
    file, _, rest = node_id.partition("::")
    return rest.partition("[")[0] in _tests_in(ROOT / file)


@cache
def _tests_in(file: Path) -> frozenset[str]:
    if not file.is_file():
        return frozenset()
    module = ast.parse(file.read_text(encoding="utf-8"))
    functions = (node for node in module.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(function.name for function in functions if function.name.startswith("test_"))


def page() -> str:
    lines = [_HEAD]
    component = ""
    for cell in cells():
        if cell.component != component:
            heading = ["", f"## {cell.component}"] if component else [f"## {cell.component}"]
            lines += [*heading, "", "| fault | promise | shown by |", "| --- | --- | --- |"]
            component = cell.component
        shown = [*cell.test, *([f"not tested: {cell.untested}"] if cell.untested else [])]
        lines.append(f"| {cell.fault} | {cell.expect} | {', '.join(shown)} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
