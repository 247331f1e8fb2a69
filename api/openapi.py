"""The OpenAPI document: FastAPI's own, with the credential that all routes but some ask for."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi


def describe(app: FastAPI, open_paths: Collection[str]) -> dict[str, Any]:
    """Made once, at the first request for it. `open_paths`: those that ask for no credential."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
        # The routes read the header themselves: FastAPI's own security classes cost CPU on the hot path.
        document.setdefault("components", {})["securitySchemes"] = {
            "ApiKey": {"type": "http", "scheme": "bearer", "description": "An API key, gw_live_..."}
        }
        for path, operations in document["paths"].items():
            if path not in open_paths:
                for operation in operations.values():
                    operation["security"] = [{"ApiKey": []}]
        app.openapi_schema = document
    return app.openapi_schema
