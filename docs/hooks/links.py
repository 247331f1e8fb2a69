"""Links of a page, from where it is in the repository to where they lead on the site."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Final

ROOT: Final = Path(__file__).parents[2]
SOURCE: Final = "https://github.com/headrace/headrace/blob/main/"
"""Where files are shown that are no pages."""

PAGES: Final = {"README.md": "index.md", "CHANGELOG.md": "changelog.md"}
"""Files outside docs/ that are pages."""

_FENCE: Final = re.compile(r"^ *(```|~~~)")
_LINK: Final = re.compile(r"\]\(([^)\s#]+)(#[^)\s]*)?\)")
_FOREIGN: Final = re.compile(r"[a-z]+:|/")


def rewritten(markdown: str, *, written_in: str, shown_as: str) -> str:
    """The page `written_in` (a path in the repository) as it links when it is `shown_as` (one in docs/).

    What leads to no file stays as it is, so that the strict build names it.
    """
    here = (ROOT / written_in).parent

    def lead(match: re.Match[str]) -> str:
        target, anchor = match[1], match[2] or ""
        if _FOREIGN.match(target):
            return match[0]
        path = (here / target).resolve()
        if not path.exists() or not path.is_relative_to(ROOT):
            return match[0]
        return f"]({_address(path, shown_as)}{anchor})"

    lines, in_code = [], False
    for line in markdown.splitlines():
        if _FENCE.match(line):
            in_code = not in_code
        lines.append(line if in_code else _LINK.sub(lead, line))
    return "\n".join(lines) + "\n"


def _address(path: Path, shown_as: str) -> str:
    name = path.relative_to(ROOT).as_posix()
    if name in PAGES:
        return _relative(PAGES[name], shown_as)
    if not name.startswith("docs/"):
        return SOURCE + name
    name = name.removeprefix("docs/")
    if path.is_dir():
        return _relative(f"{name}/index.md", shown_as)
    return _relative(name, shown_as)


def _relative(page: str, shown_as: str) -> str:
    up = len(PurePosixPath(shown_as).parts) - 1
    return "../" * up + page
