"""The dashboard: how its files are served, and its pages in jsdom, of a broker with real traffic."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from api.dashboard.files import FILES, FOLDER
from shared.domain.roles import Permission, Role
from shared.ids import AccountId
from tests.acceptance.people import (
    ADMIN_TOKEN,
    PASSWORD,
    SETTINGS,
    a_member,
    a_person,
    an_operator,
    client_with,
)
from tests.contract import node_packages
from tests.fakes.eventually import eventually
from tests.fakes.server_process import free_port
from tests.fakes.stack import Stack, start_apart
from tests.fixtures.stack import FreshStack

pytestmark = [pytest.mark.xdist_group("dashboard"), pytest.mark.timeout(240)]

CHAT: Final = "/v1/chat/completions"
HOSTILE: Final = "<img src=x onerror=struck=1><b>"
HOSTILE_WORD: Final = "<img/src=x/onerror=struck=1>"
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_MARKUP_OF_TEXT: Final = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|Function\("
CACHED: Final = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-4o",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
    "usage": {
        "prompt_tokens": 1_000,
        "completion_tokens": 5,
        "total_tokens": 1_005,
        "prompt_tokens_details": {"cached_tokens": 600},
    },
}


def chat(text: str = "Hello", *, model: str = "gpt-4o-mini", **cue: Any) -> dict[str, Any]:
    content = f"!script {json.dumps(cue)}\n{text}" if cue else text
    return {"model": model, "messages": [{"role": "user", "content": content}], "max_tokens": 50}


class Watched:
    """A broker with traffic of every kind that the pages show. `given`: what their tests know of it."""

    def __init__(self, template: Path) -> None:
        settings = {**SETTINGS, "HEADRACE_QUEUE__MAX_DELIVERIES": "1"}
        self.stack = Stack(database_template=template, settings=settings)
        self.given: dict[str, str] = {}

    async def start(self) -> None:
        await self.stack.start()
        operator, ada = await an_operator(self.stack), await a_person(self.stack)
        viewer = await a_member(ada, "viewer")
        dead_job = await self._a_dead_letter()
        await self.stack.start_worker()
        async with ada.client() as hers, operator.client() as others:
            for model in ("gpt-4o-mini", "anthropic/claude-haiku-4-5", f"openai/{HOSTILE_WORD}"):
                for _ in range(18):
                    assert (await hers.post(CHAT, json=chat(model=model))).status_code == 200
            cached = await hers.post(CHAT, json=chat(model="gpt-4o", body=json.dumps(CACHED)))
            refused = await hers.post(CHAT, json=chat(status=400))
            for _ in range(2):
                await others.post(CHAT, json=chat("twice"), headers={"idempotency-key": "twice"})
            named = await hers.post("/api/v1/api-keys", json={"name": HOSTILE})
            assert (cached.status_code, refused.status_code, named.status_code) == (200, 400, 201)
            await eventually(lambda: self._used(hers, 56), "requests in the ledger")
            await eventually(lambda: self._used(others, 1), "requests in the ledger")
        self._hanging = await self._a_job_that_runs()
        self.given = {
            **{"url": self.stack.url, "password": PASSWORD, "admin_token": ADMIN_TOKEN},
            **{"operator": operator.email, "member": ada.email, "viewer": viewer.email},
            **{"account": ada.account, "dead_job": dead_job},
            **{"hostile": HOSTILE, "hostile_word": HOSTILE_WORD},
            "usage_key": await self.stack.new_api_key(
                AccountId(ada.account), role=Role.VIEWER, scopes=(Permission.USAGE_READ.value,)
            ),
        }

    async def _a_dead_letter(self) -> str:
        """Of a job that ended the only worker there was."""
        await self.stack.sigterm(self.stack.workers[0])
        doomed = await self.stack.start_worker(faultpoints="W2@1")
        async with self.stack.client() as client:
            asking = asyncio.create_task(client.post(CHAT, json=chat("poison")))
            await doomed.has_ended()
            self.stack.forget(doomed)
            await self.stack.start_worker()
            answer = await asking
        assert answer.json()["error"]["code"] == "poison"
        await self.stack.sigterm(self.stack.workers[0])
        async with client_with(self.stack, ADMIN_TOKEN) as client:
            [letter] = (await client.get("/api/v1/admin/dead-letters")).json()["data"]
        return str(letter["job_id"])

    async def _a_job_that_runs(self) -> str:
        """Until its provider answers, which it never does: nobody waits for it, so that nobody may leave."""
        async with client_with(self.stack, await self.stack.new_api_key(AccountId("acc_waits"))) as client:
            body = {"endpoint": CHAT, "body": chat(hang="before_headers")}
            answer = await client.post("/api/v1/jobs", json=body)
            assert answer.status_code == 202, answer.text
        await eventually(lambda: any(call.is_open for call in self.stack.calls()), "a call that is open")
        return str(answer.json()["id"])

    @staticmethod
    async def _used(client: httpx.AsyncClient, jobs: int) -> bool:
        return bool((await client.get("/api/v1/usage")).json()["total"]["jobs"] == jobs)


@pytest.fixture(scope="module")
def watched(sqlite_template: Path) -> Iterator[Watched]:
    broker = Watched(sqlite_template)
    try:
        start_apart(broker)
        yield broker
    finally:
        broker.stack.end_now()


def test_its_pages_show_what_went_through(
    watched: Watched, record_property: Callable[[str, object], None]
) -> None:
    if (missing := node_packages.missing_program()) is not None:
        record_property("left_out", f"{missing} is not installed: the pages of the dashboard were not run")
        return
    node_packages.install()

    run = subprocess.run(
        [
            *("node", "--no-warnings", "--experimental-vm-modules", "--test", "--test-reporter=tap"),
            "dashboard/pages.mjs",
        ],
        cwd=node_packages.FOLDER,
        env={**os.environ, "HEADRACE_TEST_DASHBOARD": json.dumps(watched.given)},
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )

    assert run.returncode == 0, run.stdout + run.stderr
    passed = re.search(r"^# pass (\d+)$", run.stdout, re.MULTILINE)
    assert passed is not None, run.stdout
    assert int(passed[1]) >= 22


async def test_every_file_is_served_with_strict_headers_and_asked_about_each_time(watched: Watched) -> None:
    async with client_with(watched.stack, "nothing") as client:
        for name in ("", *FILES):
            answer = await client.get(f"/dashboard/{name}")
            again = await client.get(f"/dashboard/{name}", headers={"if-none-match": answer.headers["etag"]})
            changed = await client.get(f"/dashboard/{name}", headers={"if-none-match": '"another"'})

            assert (answer.status_code, again.status_code, changed.status_code) == (200, 304, 200), name
            assert again.content == b""
            for headers in (answer.headers, again.headers):
                assert headers.get_list("content-security-policy") == [POLICY], name
                assert headers.get_list("cache-control") == ["no-cache"], name
                assert headers["x-content-type-options"] == "nosniff"
                assert headers["referrer-policy"] == "no-referrer"
                assert "set-cookie" not in headers
        page = await client.get("/dashboard/")
        script = await client.get("/dashboard/main.js")
        without_slash = await client.get("/dashboard")

    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert script.headers["content-type"] == "text/javascript; charset=utf-8"
    assert (without_slash.status_code, without_slash.headers["location"]) == (307, "/dashboard/")


async def test_nothing_else_is_served_however_the_path_is_written(watched: Watched) -> None:
    async with client_with(watched.stack, "nothing") as client:
        for path in (
            *(
                "files.py",
                "../files.py",
                "%2e%2e/files.py",
                "..%2ffiles.py",
                "..%2f..%2fmain.py",
                "static/main.js",
            ),
            *("/main.js", "main.js/", "main.js%00", "..", "%2fetc%2fpasswd", "MAIN.JS", "__init__.py"),
        ):
            url = httpx.URL(watched.stack.url).copy_with(raw_path=f"/dashboard/{path}".encode())
            answer = await client.get(url)
            assert answer.status_code in {400, 404}, path
            assert answer.headers["content-type"] == "application/json", path
        answer = await client.post("/dashboard/")
        assert answer.status_code == 405


async def test_it_can_be_switched_off(fresh_stack: FreshStack) -> None:
    port = free_port()
    off = {"HEADRACE_DASHBOARD_ENABLED": "false"}
    stack = await fresh_stack(schedulers=0, workers=0, settings=off)
    await stack.start_api(HEADRACE_ADMIN_PORT=str(port))

    async with stack.client() as client:
        for url in (stack.url, stack.apis[1].url, f"http://127.0.0.1:{port}"):
            for path in ("/dashboard", "/dashboard/", "/dashboard/main.js"):
                assert (await client.get(f"{url}{path}")).status_code == 404, (url, path)
        login = await client.post(f"http://127.0.0.1:{port}/api/v1/auth/login", json={})
        assert login.status_code == 404


async def test_with_an_admin_port_operators_sign_in_there_whoever_tried_too_often_elsewhere(
    watched: Watched,
) -> None:
    port = free_port()
    api = await watched.stack.start_api(HEADRACE_ADMIN_PORT=str(port), HEADRACE_LIMITS__AUTH="5/1m")
    given = watched.given
    async with client_with(watched.stack, "nothing", api) as public:
        for_members = await public.get("/dashboard/main.js")
        operators_route = await public.get("/api/v1/admin/overview")
        admin = f"http://127.0.0.1:{port}"
        page = await public.get(f"{admin}/dashboard/")
        who = {"email": given["operator"], "password": given["password"]}
        wrong = {**who, "password": "not the password of theirs"}
        tries = [(await public.post("/api/v1/auth/login", json=wrong)).status_code for _ in range(6)]
        login = await public.post(f"{admin}/api/v1/auth/login", json=who)
        allowed = {"authorization": f"Bearer {login.json()['token']}"}
        told = [await public.get(f"{admin}{path}", headers=allowed) for path in asked_by_operators()]
        await watched.stack.sigterm(api)

    assert tries[-1] == 429
    assert (for_members.status_code, operators_route.status_code, page.status_code) == (200, 404, 200)
    assert page.headers["content-security-policy"] == POLICY
    assert [answer.status_code for answer in told] == [200] * len(told)


def asked_by_operators() -> list[str]:
    """Paths of what is only read."""
    found = {path for method, path in asked() if method == "GET" and "/admin/" in path}
    return [*sorted(found), "/api/v1/auth/me"]


def asked() -> set[tuple[str, str]]:
    """Method and path of all that the modules ask the API."""
    code = "\n".join(path.read_text(encoding="utf-8") for path in FOLDER.glob("*.js"))
    found = re.findall(r'"(GET|POST|PUT|PATCH|DELETE) (/[^"]*)"', code)
    assert len(found) == code.count("/api/v1/"), "a path that is written in another way"
    return set(found)


async def test_what_the_modules_ask_is_in_the_document_of_the_api(watched: Watched) -> None:
    async with watched.stack.client() as client:
        document = (await client.get("/openapi.json")).json()

    operations = {
        (method.upper(), path) for path, operations in document["paths"].items() for method in operations
    }
    assert len(asked()) > 12
    assert asked() <= operations


def test_the_files_hold_nothing_inline_nothing_from_elsewhere_and_no_way_to_make_markup_of_text() -> None:
    page = (FOLDER / "index.html").read_text(encoding="utf-8")
    code = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.js")}

    assert re.findall(r'(?:src|href)="([^"]+)"', page) == ["data:,", "style.css", "main.js"]
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*src=)", page)
    for name, text in code.items():
        assert not re.search(_MARKUP_OF_TEXT, text), name
        assert not re.search(r"cookie\b(?!\.)|localStorage", re.sub(r"//.*", "", text)), name
        assert set(re.findall(r'from "([^"]+)"', text)) <= {f"./{other}" for other in code}, name
        assert re.findall(r"https?://[^\"' ]+", text) in ([], ["http://www.w3.org/2000/svg"]), name
    assert "url(" not in (FOLDER / "style.css").read_text(encoding="utf-8")


async def test_the_overview_of_operators_tells_what_waits_runs_and_lies_dead(watched: Watched) -> None:
    async with client_with(watched.stack, ADMIN_TOKEN) as client:
        view = (await client.get("/api/v1/admin/overview")).json()

    openai = next(one for one in view["providers"] if one["id"] == "openai")
    lanes = {lane["lane"]: lane for lane in openai["lanes"]}
    assert (view["redis"], view["database"], view["scheduler"]) == ("connected", "connected", True)
    assert (openai["workers"], openai["breaker"], openai["dead_letters"]) == (1, "closed", 1)
    assert openai["slots"] > 0
    assert sum(lane["in_flight"] for lane in lanes.values()) == 1
    assert sum(lane["queued"] for lane in lanes.values()) == 0
    assert view["process"]["replays"]["idempotency_key"] == 1
    assert view["settling"]["rejected"] == 0


async def test_without_redis_the_overview_says_so_and_no_number_is_made_up(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack(schedulers=0, settings=SETTINGS)

    async with client_with(stack, ADMIN_TOKEN) as client:
        before = (await client.get("/api/v1/admin/overview")).json()
        stack.redis.kill9()
        answer = await client.get("/api/v1/admin/overview")

    assert answer.status_code == 200, answer.text
    view = answer.json()
    assert (view["redis"], view["database"]) == ("unavailable", "connected")
    assert (view["scheduler"], view["settling"]) == (None, None)
    assert before["providers"] != []
    assert before["redis_used_bytes"] > 0
    assert (view["providers"], view["redis_used_bytes"], view["redis_max_bytes"]) == ([], None, None)
