"""docs/security.md tells what is refused, as it is refused."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
VARIABLE = re.compile(r"\b(?:HEADRACE_[A-Z_]+|JWT_SECRET|REDIS_URL|FAULTPOINTS)\b")


def test_every_variable_that_production_refuses_is_on_the_page() -> None:
    refused = set(VARIABLE.findall((ROOT / "cli" / "production.py").read_text(encoding="utf-8")))

    assert len(refused) > 10
    assert refused <= set(VARIABLE.findall(PAGE))


def test_every_variable_on_the_page_is_a_setting() -> None:
    settings = (ROOT / ".env.example").read_text(encoding="utf-8")
    told = set(VARIABLE.findall(PAGE))

    # HEADRACE_ENVIRONMENT and its like; APP_ENV and NODE_ENV are said to be other names there.
    assert {name for name in told if f"#{name}=" not in settings} == set()
