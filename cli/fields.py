"""One object, a line a field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import typer

from cli.broker import shown


def print_fields(fields: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(fields))
        return
    width = max(map(len, fields))
    for name, value in fields.items():
        text = json.dumps(value) if isinstance(value, dict | list) else value
        typer.echo(f"{name.ljust(width)}  {shown(text, width=1_000)}".rstrip())
