"""Run Python blocks, page by page, in whatever environment has their libraries.

Reads `[[block, ...], ...]`, pages of source texts, from stdin; the blocks of a page share their names.
Writes the same shape to stdout: of each block what it printed, and the traceback that ended it.
"""

from __future__ import annotations

import io
import json
import sys
import traceback
from contextlib import redirect_stdout
from typing import Any


def main() -> None:
    told = [_run(page) for page in json.load(sys.stdin)]
    json.dump(told, sys.stdout)


def _run(page: list[str]) -> list[dict[str, str]]:
    names: dict[str, Any] = {"__name__": "__main__"}
    told = []
    for block in page:
        printed, ended_by = io.StringIO(), ""
        try:
            with redirect_stdout(printed):
                exec(compile(block, "<block>", "exec"), names)  # noqa: S102 - what readers will run
        except Exception:
            ended_by = traceback.format_exc()
        told.append({"printed": printed.getvalue(), "ended_by": ended_by})
    return told


if __name__ == "__main__":
    main()
