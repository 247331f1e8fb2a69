"""`headrace master-key`: what the accounts' own provider keys are sealed with."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from shared.crypto import new_master_key

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _commands() -> None:
    """A callback, so that the one command keeps its name."""


@app.command("new")
def new(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Print a new master key, both halves. It is stored nowhere: without its private half, nothing that
    the public one sealed can be opened again.
    """
    private, public = new_master_key()
    if as_json:
        typer.echo(json.dumps({"master_key": private, "master_public_key": public}))
        return
    typer.echo(f"HEADRACE_MASTER_KEY={private}\nHEADRACE_MASTER_PUBLIC_KEY={public}")
    typer.echo("The first is for workers alone, the second for the api.", err=True)
