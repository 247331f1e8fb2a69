"""Reference of the command line, made of the commands themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from typer.main import get_command

from cli.main import app

PAGE: Final = "reference/commands.md"

_HEAD: Final = """# Commands

Everything that `headrace` can be asked, made of the commands themselves; `headrace COMMAND --help` says the same.
How [jobs and batches](../cli.md) of any broker are handled from a terminal is a page of its own.
"""


def page() -> str:
    lines = [_HEAD, "| command | what |", "| --- | --- |"]
    found = list(_commands(get_command(app), "headrace"))
    lines += [f"| [`{name}`](#{_anchor(name)}) | {_one_line(command)} |" for name, command in found]
    for name, command in found:
        lines += ["", f"## `{name}` {{#{_anchor(name)}}}", "", _paragraphs(command.help), ""]
        lines += _parameters(command)
    return "\n".join(lines) + "\n"


def _commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Typer brings its own copy of click, which has no types to name here."""
    below = getattr(command, "commands", None)
    if below is None:
        yield name, command
        return
    for word, one in below.items():
        if not one.hidden:
            yield from _commands(one, f"{name} {word}")


def _parameters(command: Any) -> list[str]:
    shown = [one for one in command.params if not getattr(one, "hidden", False)]
    if not shown:
        return []
    lines = ["| | | default |", "| --- | --- | --- |"]
    for one in shown:
        is_argument = not one.opts[0].startswith("-")
        metavar = one.metavar or one.name.upper()
        words = [metavar] if is_argument else [*one.opts, *one.secondary_opts]
        name = ", ".join(f"`{word}`" for word in words)
        if not is_argument and not one.is_flag:
            name += f" `{metavar}`"
        name += " (required)" if one.required else " (repeatable)" if one.multiple else ""
        default = "" if one.default in (None, False, ()) or callable(one.default) else f"`{one.default}`"
        lines.append(f"| {name} | {_cell(one.help or '')} | {default} |")
    return lines


def _one_line(command: Any) -> str:
    return _cell((command.help or "").split("\n\n")[0])


def _paragraphs(text: str | None) -> str:
    return (text or "").replace("\b", "").strip()


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _anchor(name: str) -> str:
    return name.replace(" ", "-")
