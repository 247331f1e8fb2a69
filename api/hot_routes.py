"""HOT PATH. The busiest routes, reached without a framework in between.

FastAPI's middlewares, routing and dependency solving cost 60 us of CPU a request, a fifth
of what the api spends on one. These routes read nothing from it: they take the raw
request, and the edge around them tells their errors. FastAPI has them as well, so that
they are documented, and answers for their other methods.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class HotRoute:
    """`path` is where `scope["route"]` readers (logs, metrics) find the template."""

    path: str
    endpoint: Endpoint


class HotRoutes:
    """`posts`: endpoints of POST requests by exact path; everything else goes to `app`."""

    def __init__(self, app: FastAPI, posts: Mapping[str, Endpoint]) -> None:
        self._app = app
        self._posts = {path: HotRoute(path, endpoint) for path, endpoint in posts.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._posts.get(scope["path"]) if scope.get("method") == "POST" else None
        if route is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = route
        scope["app"] = self._app
        response = await route.endpoint(Request(scope, receive))
        await response(scope, receive, send)
