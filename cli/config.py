"""`headrace config`: what is wrong with the settings, and what they are."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Final

import typer
from pydantic import BaseModel, SecretStr

from cli.configuration import settings_or_exit
from cli.problems import (
    ProcessKind,
    all_problems,
    groups_of_settings,
    names_of,
    read_settings,
    unknown_variables,
)
from cli.table import print_table
from shared.settings import Settings, variables_set

app = typer.Typer(no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Whose = Annotated[
    ProcessKind | None,
    typer.Option("--process", help="Whose environment this is, where each kind of process has its own."),
]
_OTHER_NAMES: Final = {
    "HEADRACE_API__REQUEST_TIMEOUT_SECONDS": "AI_GATEWAY_REQUEST_TIMEOUT",
    "HEADRACE_QUEUE__MAX_ATTEMPTS": "AI_GATEWAY_MAX_RETRIES",
}
"""Of settings within groups; the name of the group wins."""


@dataclass(frozen=True, slots=True)
class Shown:
    """`source`: the variable that it came from and where that was set, or `default`."""

    variable: str
    value: Any
    source: str


@app.command("check")
def check_command(as_json: Json = False, process: Whose = None) -> None:
    """Tell all that is wrong with the settings and the files they name; exit code 78 where something is.

    Nothing is connected to: `headrace doctor` does that.
    """
    found = read_settings()
    settings = found if isinstance(found, Settings) else None
    problems = all_problems(found, process) if isinstance(found, Settings) else found
    lines = [line for problem in problems for line in problem.lines()]
    unknown = [typo(name, known) for name, known in unknown_variables(settings).items()]
    if as_json:
        typer.echo(json.dumps({"problems": lines, "warnings": unknown}))
    else:
        for line in lines:
            typer.echo(line, err=True)
        for line in unknown:
            typer.echo(f"{line} (a warning)", err=True)
        if not lines:
            typer.echo("The settings can be used.")
    if lines:
        raise typer.Exit(os.EX_CONFIG)


@app.command("show")
def show_command(
    as_json: Json = False,
    is_set: Annotated[bool, typer.Option("--set", help="Only what is not a default.")] = False,
) -> None:
    """Show every setting, and where its value came from. Secrets are masked."""
    settings = settings_or_exit()
    rows = [row for row in shown(settings) if not is_set or row.source != "default"]
    if as_json:
        typer.echo(json.dumps({row.variable: {"value": row.value, "from": row.source} for row in rows}))
    else:
        print_table(
            ("SETTING", "VALUE", "FROM"), [(row.variable, _as_text(row.value), row.source) for row in rows]
        )


def typo(name: str, known: str | None) -> str:
    meant = "" if known is None else f" Is {known} meant?"
    return f"{name}: no setting has this name, so nothing reads it.{meant}"


def shown(settings: Settings) -> Iterator[Shown]:
    """In the order of the settings."""
    groups = groups_of_settings()
    for field in Settings.model_fields:
        value = getattr(settings, field)
        if field not in groups:
            names = names_of(field)
            yield Shown(names[0], _masked(value), _source(names))
            continue
        whole = f"HEADRACE_{field}".upper()
        for inner in type(groups[field]).model_fields:
            name = f"{whole}__{inner.upper()}"
            names = [name, *((whole,) if inner in value.model_fields_set else ())]
            if name in _OTHER_NAMES:
                names.append(_OTHER_NAMES[name])
            yield Shown(name, _masked(getattr(value, inner)), _source(names))


def _source(names: list[str]) -> str:
    """The environment wins over `.env`, whatever the name is; of several names the first."""
    where = {name.upper(): place for name, place in variables_set().items()}
    for place in ("environment", ".env"):
        for name in names:
            if where.get(name.upper()) == place:
                return f"{name} ({place})"
    return "default"


def _masked(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return "********"
    if isinstance(value, BaseModel):
        return {name: _masked(inner) for name, inner in value}
    if isinstance(value, tuple):
        return [_masked(one) for one in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return str(value)


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)
