"""The order of the pages.

A section is a list of pages and patterns; a pattern takes what no line before it took, in the
order of names. So a new page of a folder is in the navigation as soon as it is there, and one
that fits nowhere is under `More` until somebody gives it a place here.
"""

from __future__ import annotations

from collections.abc import Collection
from fnmatch import fnmatchcase
from typing import Any, Final

Nav = list[Any]

SECTIONS: Final[dict[str, tuple[str, ...]]] = {
    "Home": ("index.md", "quickstart.md", "onboarding.md"),
    "Concepts": ("concepts.md", "fault-matrix.md"),
    "Guides": (
        "guides/index.md",
        "guides/openai-python.md",
        "guides/openai-node.md",
        "guides/anthropic-python.md",
        "guides/anthropic-node.md",
        "guides/ai-sdk.md",
        "guides/langchain.md",
        "guides/pydantic-ai.md",
        "guides/instructor.md",
        "guides/cohere.md",
        "guides/curl.md",
        "guides/*",
        "moving.md",
    ),
    "Features": (
        "api.md",
        "providers.md",
        "routing.md",
        "jobs.md",
        "batches.md",
        "responses.md",
        "webhooks.md",
        "idempotency.md",
        "files.md",
        "conversations.md",
        "accounts.md",
        "credentials.md",
        "limits.md",
        "usage.md",
    ),
    "Operations": (
        "operations/index.md",
        "operations/containers.md",
        "operations/kubernetes.md",
        "autoscaling.md",
        "operations/capacity.md",
        "redis.md",
        "security.md",
        "operations/doctor.md",
        "operations/dashboard.md",
        "operations/metrics.md",
        "operations/tracing.md",
        "dead-letters.md",
        "operations/backup.md",
        "operations/upgrade.md",
        "operations/secrets.md",
        "operations/balancers.md",
        "operations/regions.md",
        "operations/clouds.md",
        "performance.md",
        "operations/alerts/index.md",
        "operations/alerts/*",
        "operations/*",
    ),
    "Reference": (
        "reference/index.md",
        "reference/api/index.md",
        "reference/api/*",
        "reference/errors.md",
        "reference/settings.md",
        "reference/commands.md",
        "cli.md",
        "reference/metrics.md",
        "reference/*",
    ),
    "Project": ("changelog.md", "requirements.md", "decisions/index.md", "decisions/*"),
    "More": ("*",),
}

_FOLDERS: Final = {
    "reference/api/": "API",
    "operations/alerts/": "Alerts",
    "decisions/": "Decisions",
}
"""What is a section of its own within its section."""


def navigation(pages: Collection[str]) -> Nav:
    """Of these pages (paths within docs/), each of them once."""
    left = sorted(pages)
    nav: Nav = []
    for section, patterns in SECTIONS.items():
        taken: list[str] = []
        for pattern in patterns:
            found = [page for page in left if fnmatchcase(page, pattern)]
            taken += found
            left = [page for page in left if page not in found]
        if taken:
            nav.append({section: _in_folders(taken)})
    return nav


def _in_folders(pages: list[str]) -> Nav:
    items: Nav = []
    folders: dict[str, Nav] = {}
    for page in pages:
        prefix = next((prefix for prefix in _FOLDERS if page.startswith(prefix)), None)
        if prefix is None:
            items.append(page)
        elif prefix in folders:
            folders[prefix].append(page)
        else:
            folders[prefix] = [page]
            items.append({_FOLDERS[prefix]: folders[prefix]})
    return items
