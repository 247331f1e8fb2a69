"""Code blocks of the README and of docs/, and which test runs each.

A comment in the page claims them:

    <!-- run by tests/shipping/test_snippets.py -->

on the line before a block, that block; anywhere else, all blocks of the page that nothing else
claims. What no test here can run is listed in blocks_not_run.toml, with the reason. A ```text block
right behind another one is what that one prints; `...` in it stands for anything.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
LANGUAGES: Final = frozenset(
    {"python", "py", "console", "sh", "bash", "shell", "javascript", "js", "mjs", "typescript", "ts"}
)
_FENCE: Final = re.compile(r"^( *)(`{3,}|~{3,})\s*([\w+-]*)(.*)$")
_MARKER: Final = re.compile(r"^\s*<!-- run by (\S+) -->\s*$")


@dataclass(frozen=True, slots=True)
class Block:
    """`page`: its path in the repository. `test`: what claims it. `output`: what it is shown to print."""

    page: str
    line: int
    language: str
    text: str
    test: str | None
    output: str | None = None

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True, slots=True)
class NotRun:
    page: str
    contains: str
    reason: str

    def is_about(self, block: Block) -> bool:
        return block.page == self.page and self.contains in block.text


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def documented_blocks() -> list[Block]:
    """Those in a language that can be run."""
    return [block for page in pages() for block in blocks_of(page) if block.language in LANGUAGES]


def not_run() -> list[NotRun]:
    text = (Path(__file__).parent / "blocks_not_run.toml").read_text(encoding="utf-8")
    return [NotRun(**entry) for entry in tomllib.loads(text)["block"]]


def blocks_of(page: Path) -> list[Block]:
    return blocks_in(page.read_text(encoding="utf-8"), page.relative_to(ROOT).as_posix())


def blocks_in(text: str, page: str) -> list[Block]:
    found: list[Block] = []
    of_page: str | None = None
    pending: str | None = None
    last_end = -1
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        line = lines[at]
        if marker := _MARKER.match(line):
            of_page = pending or of_page
            pending = marker[1]
        elif fence := _FENCE.match(line):
            indent, ticks, language, _ = fence.groups()
            end = _end_of(lines, at, ticks)
            body = [one.removeprefix(indent) for one in lines[at + 1 : end]]
            block = Block(page, at + 1, language, "\n".join(body) + "\n", pending)
            if language == "text" and found and not any(lines[last_end + 1 : at]):
                found[-1] = _with_output(found[-1], block.text)
            else:
                found.append(block)
            pending, last_end, at = None, end, end
        elif line.strip() and pending is not None:
            of_page, pending = pending, None
        at += 1
    of_page = pending or of_page
    return [block if block.test else _claimed(block, of_page) for block in found]


def _end_of(lines: list[str], start: int, ticks: str) -> int:
    for at in range(start + 1, len(lines)):
        if lines[at].strip().startswith(ticks) and not lines[at].strip().strip(ticks[0]):
            return at
    return len(lines)


def _with_output(block: Block, output: str) -> Block:
    return Block(block.page, block.line, block.language, block.text, block.test, output)


def _claimed(block: Block, test: str | None) -> Block:
    return Block(block.page, block.line, block.language, block.text, test, block.output)


def commands_of(console: str) -> Iterator[tuple[str, str]]:
    """Of a console block: each command behind `$ `, as a shell takes it, and what is shown below it."""
    command: list[str] = []
    output: list[str] = []
    goes_on = False
    for line in console.splitlines():
        if line.startswith("$ "):
            if command:
                yield "\n".join(command), "".join(f"{one}\n" for one in output)
            command, output = [line.removeprefix("$ ")], []
        elif goes_on:
            command.append(line)
        else:
            output.append(line)
        goes_on = line.endswith("\\") and not output
    if command:
        yield "\n".join(command), "".join(f"{one}\n" for one in output)


def is_as_shown(printed: str, shown: str) -> bool:
    """`...` in what is shown stands for anything, and JSON may be spaced as one likes."""
    if shown.startswith("{") and printed.startswith("{"):
        told, expected = json.loads(printed), json.loads(shown)
        return told.keys() == expected.keys() and all(
            is_as_shown(str(told[name]), str(value)) for name, value in expected.items()
        )
    pattern = ".*".join(re.escape(part) for part in shown.strip().split("..."))
    return re.fullmatch(pattern, printed.strip(), re.DOTALL) is not None
