"""The listener for operators, beside the one for everybody, in one process."""

from __future__ import annotations

import httpx

from tests.fakes.server_process import free_port
from tests.fixtures.stack import FreshStack

TOKEN = "operators-only-" + "t" * 32


async def test_an_api_with_an_admin_port_serves_operators_there_and_stops_as_one(
    fresh_stack: FreshStack,
) -> None:
    port = free_port()
    settings = {"HEADRACE_ADMIN_PORT": str(port), "HEADRACE_ADMIN_TOKEN": TOKEN}
    stack = await fresh_stack(schedulers=0, workers=0, settings=settings)
    allowed = {"authorization": f"Bearer {TOKEN}"}

    async with (
        stack.client() as public,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as operators,
    ):
        for path in ("/metrics", "/health", "/api/v1/admin/dead-letters"):
            assert (await public.get(path, headers=allowed)).status_code == 404, path
        assert (await public.get("/health/ready")).status_code == 200
        assert (await public.get("/v1/models")).status_code == 200

        page = await operators.get("/metrics")
        assert (page.status_code, "gateway_queue_depth" in page.text) == (200, True)
        assert (await operators.get("/health")).json()["redis"] == "connected"
        assert (await operators.get("/v1/models", headers=stack.headers)).status_code == 404
        assert (await operators.get("/api/v1/admin/dead-letters")).status_code == 401
        assert (await operators.get("/api/v1/admin/dead-letters", headers=allowed)).status_code == 200

        # Both hold connections open that nobody uses any more.
        assert await stack.sigterm(stack.apis[0]) == 0

        try:
            await operators.get("/health/live")
        except httpx.ConnectError:
            pass
        else:
            raise AssertionError("the admin port outlived the api")


async def test_an_admin_port_that_is_taken_ends_the_process(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack(schedulers=0, workers=0)
    taken = str(stack.apis[0].port)

    second = stack.spawn_api(HEADRACE_ADMIN_PORT=taken)

    assert await second.has_ended() != 0
    assert stack.apis[0].is_running
