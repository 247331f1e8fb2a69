"""Reference of the settings, made of .env.example, which a test holds to shared/settings.py."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

PAGE: Final = "reference/settings.md"
_SETTING: Final = re.compile(r"#([A-Z][A-Z0-9_]*)=(.*)")
_GROUP: Final = re.compile(r"# ([a-z]+)")
_GROUPED: Final = re.compile(r"HEADRACE_([A-Z]+)__[A-Z0-9_]+")
_PROVIDER: Final = re.compile(r"[A-Z_]+_(API_KEY|BASE_URL|MODEL|MAX_TOKENS)|HF_TOKEN")
_FIRST: Final = "The process and what it connects to"
_PROVIDERS: Final = "Providers"

_HEAD: Final = """# Settings

Set them in the environment or in a file `.env` in the working directory; the environment wins. Every process reads
them once, at its start, and a value that is no good ends it with exit code 78 and one line that names the variable.
[.env.example](../../.env.example) is the same list as a file to copy.
"""


@dataclass(frozen=True, slots=True)
class Setting:
    name: str
    default: str
    told: str


def settings(example: str) -> dict[str, list[Setting]]:
    """By group, in the order of the file. `example`: the text of .env.example."""
    found: dict[str, list[Setting]] = {}
    comment: list[str] = []
    for line in example.splitlines():
        if match := _SETTING.fullmatch(line):
            name, default = match.groups()
            found.setdefault(_group(name), []).append(Setting(name, default, " ".join(comment)))
            comment = []
        elif not line or _GROUP.fullmatch(line):
            comment = []
        else:
            comment.append(line.removeprefix("#").strip())
    return found


def page(example: str) -> str:
    lines = [_HEAD]
    for group, members in settings(example).items():
        lines += [f"## {group}", "", "| variable | default | |", "| --- | --- | --- |"]
        for one in members:
            default = f"`{one.default}`" if one.default else ""
            told = one.told.replace("|", "\\|").replace("<", "&lt;")
            lines.append(f"| `{one.name}`{{#{one.name.lower()}}} | {default} | {told} |")
        lines.append("")
    return "\n".join(lines)


def _group(name: str) -> str:
    if match := _GROUPED.fullmatch(name):
        return match[1].lower()
    return _PROVIDERS if _PROVIDER.fullmatch(name) else _FIRST
