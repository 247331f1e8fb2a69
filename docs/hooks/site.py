"""The hooks by which MkDocs builds the site: pages that are made, the order of pages, links into the code.

Whatever is written twice is wrong once, so the home page is the README, and the reference is made of
what the broker says of itself: its OpenAPI document, settings, commands, errors and metrics.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from docs.hooks import (
    api_reference,
    command_reference,
    error_reference,
    metrics_reference,
    settings_reference,
)
from docs.hooks.links import PAGES, ROOT, rewritten
from docs.hooks.navigation import navigation

_DECISIONS: Final = "decisions/index.md"
_GUARDS: Final = "reference/index.md"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is made, then give every page its place."""
    for path, content in _made().items():
        files.append(File.generated(config, path, content=content))
    pages = [file.src_uri for file in files.documentation_pages()]
    config.nav = navigation(pages)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to files that are no pages to where they are shown."""
    if page.file.generated_by is not None:
        return markdown
    return rewritten(markdown, written_in=f"docs/{page.file.src_uri}", shown_as=page.file.src_uri)


def _made() -> dict[str, str]:
    made: dict[str, str] = {}
    for source, page in PAGES.items():
        made[page] = rewritten(_read(ROOT / source), written_in=source, shown_as=page)
    openapi = api_reference.document()
    made |= api_reference.pages(openapi)
    made["reference/openapi.json"] = json.dumps(openapi, indent=1)
    made[settings_reference.PAGE] = _within_reference(
        settings_reference.page(_read(ROOT / ".env.example")), settings_reference.PAGE
    )
    made[command_reference.PAGE] = command_reference.page()
    made[error_reference.PAGE] = error_reference.page()
    made[metrics_reference.PAGE] = metrics_reference.page()
    made[_GUARDS] = _REFERENCE
    made[_DECISIONS] = _decisions()
    return made


def _within_reference(markdown: str, page: str) -> str:
    return rewritten(markdown, written_in=f"docs/{page}", shown_as=page)


def _decisions() -> str:
    lines = [
        "# Decisions",
        "",
        "Choices that are costly to reverse, or that a newcomer would make differently.",
        "",
    ]
    for file in sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md")):
        title = _read(file).splitlines()[0].removeprefix("#").strip()
        lines.append(f"- [{title}]({file.name})")
    return "\n".join(lines) + "\n"


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


_REFERENCE: Final = """# Reference

All of it is made of the code when the site is built.

| | made of |
| --- | --- |
| [HTTP API](api/index.md), as [openapi.json](openapi.json) too | the broker's OpenAPI document |
| [Errors](errors.md) | the classes that are raised |
| [Settings](settings.md) | `.env.example`, which a test holds to the code |
| [Commands](commands.md) | the commands themselves |
| [Metrics](metrics.md) | the metrics that are declared |
"""
