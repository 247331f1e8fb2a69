from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.integration.http_edge.support import Serve, Server, running
from tests.unit.observability.log_lines import LogLines, captured


@pytest.fixture
def lines() -> Any:
    with captured() as lines:
        yield lines


@pytest.fixture
async def serve(lines: LogLines) -> AsyncIterator[Serve]:
    async with AsyncExitStack() as stack:

        async def start(**overrides: Any) -> Server:
            return await stack.enter_async_context(running(**overrides))

        yield start


@pytest.fixture
async def server(serve: Serve) -> Server:
    return await serve()
