"""What a Dockerfile says, and what its builder is sent: enough of both to run its steps without a builder."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Instruction:
    name: str
    said: str


def instructions(text: str) -> list[Instruction]:
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    whole = re.sub(r"\\\n\s*", "", "\n".join(lines))
    parts = [line.strip().split(maxsplit=1) for line in whole.splitlines() if line.strip()]
    return [Instruction(name.upper(), said) for name, said in parts]


def stages(text: str) -> list[list[Instruction]]:
    """From each FROM to the next; what stands before the first belongs to none."""
    found: list[list[Instruction]] = []
    for instruction in instructions(text):
        if instruction.name == "FROM":
            found.append([])
        if found:
            found[-1].append(instruction)
    return found


def environment(stage: list[Instruction]) -> dict[str, str]:
    said = " ".join(one.said for one in stage if one.name == "ENV")
    return dict(word.split("=", 1) for word in said.split())


def words(said: str) -> list[str]:
    """Of an instruction in JSON form."""
    found: list[str] = json.loads(said)
    return found


def sent(root: Path) -> Iterator[Path]:
    """Files below `root` that its .dockerignore lets through, as paths from there."""
    text = (root / ".dockerignore").read_text(encoding="utf-8")
    rules = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    tops = {rule[1:].split("/")[0] for rule in rules if rule.startswith("!")}
    for path in (file for top in sorted(tops) for file in _files(root / top)):
        relative = path.relative_to(root)
        # The last rule that fits a file, or a folder it is in, decides.
        fitting = [rule for rule in rules if _fits(rule.removeprefix("!"), relative)]
        if not fitting or fitting[-1].startswith("!"):
            yield relative


def _files(place: Path) -> Iterator[Path]:
    if place.is_dir():
        yield from sorted(path for path in place.rglob("*") if path.is_file())
    elif place.exists():
        yield place


def _fits(rule: str, path: Path) -> bool:
    upwards = (path, *path.parents[:-1])
    if rule.startswith("**/"):
        return any(fnmatchcase(part.name, rule[3:]) for part in upwards)
    return any(
        len(part.parts) == rule.count("/") + 1 and fnmatchcase(part.as_posix(), rule) for part in upwards
    )


def copy(said: str, context: Path, workdir: Path) -> None:
    """COPY from the builder's context: files into a folder, or the content of one folder into another."""
    *sources, target = said.split()
    for source in sources:
        place = context / source
        into = workdir / target
        if place.is_dir():
            shutil.copytree(place, into, dirs_exist_ok=True)
        else:
            into.mkdir(parents=True, exist_ok=True)
            shutil.copy(place, into)
