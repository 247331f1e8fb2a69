"""Where the documentation of the API is served, and where it is not."""

from __future__ import annotations

import httpx
import pytest

from api.main import create_app
from shared.settings import load_settings

PAGES = ("/docs", "/redoc", "/openapi.json")


@pytest.mark.parametrize(
    ("environment", "docs", "served"),
    [
        ("development", "auto", True),
        ("test", "auto", True),
        ("production", "auto", False),
        ("production", "public", True),
        ("production", "off", False),
        ("development", "off", False),
        ("development", "on", True),
    ],
)
async def test_documentation_is_closed_in_production_unless_it_is_public(
    environment: str, docs: str, served: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_ENVIRONMENT", environment)
    monkeypatch.setenv("HEADRACE_API__DOCS", docs)
    app, _ = create_app(load_settings(), "redis://127.0.0.1:1", b"p" * 48)
    transport = httpx.ASGITransport(app=app)

    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        statuses = {(await client.get(page)).status_code for page in PAGES}

    assert statuses == {200 if served else 404}
