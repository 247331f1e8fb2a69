"""`headrace health`: whether the process that serves here says that it is well.

For probes where there is no curl, such as a container's. It loads little, as it is run every few
seconds: cli/__main__.py does without all other commands for it.
"""

from __future__ import annotations

import ipaddress
import os
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Annotated, Final
from urllib.parse import SplitResult, urlsplit

import typer
from pydantic import ValidationError
from pydantic_settings import SettingsError

from shared.settings import load_settings

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

_SHOWN_CHARS: Final = 300


@app.callback()
def _commands() -> None:
    """A callback, so that the one command keeps its name."""


@app.command("health")
def health_command(
    url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="The process to ask. Default: whichever listens here, an api on PORT or a worker or "
            "scheduler on HEADRACE_METRICS_PORT.",
        ),
    ] = None,
    ready: Annotated[
        bool, typer.Option("--ready", help="Ask whether it may get work, not only whether it is alive.")
    ] = False,
    timeout: Annotated[float, typer.Option(min=0.1, max=60, help="Seconds it may take to answer.")] = 3.0,
) -> None:
    """Ask a process whether it is well. Exits 0 when it says so, else 1."""
    places = [_place_or_exit(url)] if url else _places_here_or_exit()
    path = "/health/ready" if ready else "/health/live"
    for place in places:
        try:
            status, said = _ask(place, path, timeout)
        except ConnectionRefusedError:
            continue  # of the two places here, one is another kind of process's
        except (OSError, HTTPException) as exc:
            typer.echo(f"{place.geturl()}{path}: {type(exc).__name__}", err=True)
            raise typer.Exit(1) from None
        typer.echo(f"{place.geturl()}{path}: {status} {said}", err=status != 200)
        raise typer.Exit(0 if status == 200 else 1)
    typer.echo(f"Nothing listens on {' or '.join(place.geturl() for place in places)}.", err=True)
    raise typer.Exit(1)


def main() -> None:
    app()


def _places_here_or_exit() -> list[SplitResult]:
    try:
        settings = load_settings()
    except (ValidationError, SettingsError) as invalid:
        # Nothing that reads the same settings can have started.
        typer.echo(f"The settings are not valid ({type(invalid).__name__}).", err=True)
        raise typer.Exit(1) from None
    host = _reachable(settings.host)
    ports = [settings.port] if settings.metrics_port is None else [settings.port, settings.metrics_port]
    return [urlsplit(f"http://{host}:{port}") for port in ports]


def _reachable(host: str) -> str:
    """What listens everywhere also listens on the loopback address."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.is_unspecified:
        return "127.0.0.1" if address.version == 4 else "[::1]"
    return host if address.version == 4 else f"[{host}]"


def _place_or_exit(url: str) -> SplitResult:
    try:
        place = urlsplit(url.rstrip("/"))
        usable = place.scheme in {"http", "https"} and place.hostname and place.port != 0
    except ValueError:
        usable = False
    if not usable or place.path or place.query or place.fragment or "@" in place.netloc:
        typer.echo("--url: takes http:// or https://, a host and perhaps a port.", err=True)
        raise typer.Exit(os.EX_USAGE)
    return place


def _ask(place: SplitResult, path: str, timeout: float) -> tuple[int, str]:
    """The status and the beginning of the answer, as a terminal may show it."""
    kind = HTTPSConnection if place.scheme == "https" else HTTPConnection
    connection = kind(place.hostname or "", place.port, timeout=timeout)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        said = answer.read(_SHOWN_CHARS).decode("utf-8", errors="replace")
    finally:
        connection.close()
    return answer.status, "".join(c if c.isprintable() else " " for c in said)
