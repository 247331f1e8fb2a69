"""`headrace doctor`, as it is typed and as it answers."""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Sequence

import typer
from loguru import logger

from cli.configuration import fail
from cli.doctor.examine import SUBJECTS, examine, is_known
from cli.doctor.findings import Level, Told
from cli.problems import ProcessKind
from cli.table import print_table


def run(
    *,
    only: Sequence[str],
    seconds: float,
    strict: bool,
    as_json: bool,
    process: ProcessKind | None = None,
) -> int:
    """The exit code: 0, 1 where something failed, 2 where `strict` and there are warnings."""
    for one in only:
        if not is_known(one):
            fail(f"--only: there is no check {one!r}; subjects are {', '.join(SUBJECTS)}.", os.EX_USAGE)
    # What the parts log on the way is told by the findings.
    logger.remove()
    told = asyncio.run(examine(only=only, seconds=seconds, process=process))
    counts = Counter(one.finding.level for one in told)
    code = 1 if counts[Level.FAIL] else 2 if strict and counts[Level.WARN] else 0
    if as_json:
        typer.echo(json.dumps(_view(told, counts, is_well=code == 0)))
    else:
        _print(told, counts)
    return code


def _view(told: Sequence[Told], counts: Counter[Level], *, is_well: bool) -> dict[str, object]:
    return {
        "ok": is_well,
        "counts": {level.value: counts[level] for level in Level},
        "findings": [
            {
                "check": one.check,
                "level": one.finding.level,
                "message": one.finding.told,
                "fix": one.finding.fix or None,
            }
            for one in told
        ],
    }


def _print(told: Sequence[Told], counts: Counter[Level]) -> None:
    rows = []
    for one in told:
        rows.append((one.finding.level.value, one.check, one.finding.told))
        if one.finding.fix:
            rows.append(("", "", f"fix: {one.finding.fix}"))
    print_table(("STATE", "CHECK", "WHAT"), rows)
    typer.echo()
    typer.echo(", ".join(f"{counts[level]} {level.value}" for level in Level))
