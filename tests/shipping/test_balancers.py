"""The example files for nginx and HAProxy, run by the real ones in front of two api processes."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.acceptance.people import SETTINGS as PEOPLE
from tests.acceptance.people import a_person
from tests.fakes.eventually import eventually
from tests.fakes.provider import CallRecord
from tests.fakes.server_process import free_port
from tests.fakes.stack import Process, Stack, start_apart
from tests.fakes.tool_binaries import HAPROXY, NGINX
from tests.shipping.real_balancers import (
    HAPROXY_FILE,
    NGINX_FILE,
    Balancer,
    HAProxy,
    Nginx,
    checked,
    nginx_main,
)

pytestmark = [pytest.mark.xdist_group("balancers")]

CHAT = "/v1/chat/completions"
MIB = 1024 * 1024
PRE_STOP_SECONDS = 2.5
"""Longer than HAProxy needs to see that an api is not ready: two looks, a second apart."""
CALLERS = 12
CLOSED = 0
"""Instead of a status, where the connection ended without an answer: HAProxy's 502 on a kept connection."""
_names = itertools.count()


@pytest.fixture(scope="module")
def broker(sqlite_template: Path) -> Iterator[Stack]:
    stack = Stack(
        apis=2,
        database_template=sqlite_template,
        settings={
            **PEOPLE,
            "HEADRACE_API__TRUSTED_PROXIES": '["127.0.0.1"]',
            "HEADRACE_API__PRE_STOP_SECONDS": str(PRE_STOP_SECONDS),
            "HEADRACE_API__DISCONNECT_GRACE_SECONDS": "0.3",
        },
    )
    start_apart(stack)
    yield stack
    stack.end_now()


@pytest.fixture(scope="module", params=[Nginx, HAProxy], ids=["nginx", "haproxy"])
def balancer(request: pytest.FixtureRequest, broker: Stack) -> Iterator[Balancer]:
    made: Balancer = request.param([api.port for api in broker.apis])
    made.start()
    yield made
    made.stop()


@pytest.fixture
async def client(broker: Stack, balancer: Balancer) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(balancer.url, broker) as client:
        yield client


def client_of(
    url: str, broker: Stack, *, source: str | None = None, kept: int | None = None
) -> httpx.AsyncClient:
    """`kept`: connections that are used again, at most."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=kept)
    transport = httpx.AsyncHTTPTransport(local_address=source, limits=limits)
    return httpx.AsyncClient(base_url=url, headers=broker.headers, timeout=30.0, transport=transport)


def chat(text: str = "Hello", *, stream: bool = False, **cue: Any) -> dict[str, Any]:
    content = f"!script {json.dumps(cue)}\n{text}" if cue else text
    return {"model": "gpt-4o-mini", "stream": stream, "messages": [{"role": "user", "content": content}]}


def a_name() -> str:
    return f"balanced-{next(_names)}"


def call_of(broker: Stack, name: str) -> CallRecord | None:
    return next((call for call in broker.calls() if call.cue == name), None)


def test_nginx_finds_no_fault_with_the_example(tmp_path: Path) -> None:
    site = NGINX_FILE.read_text(encoding="utf-8")

    assert "warn" not in checked([str(NGINX.path()), "-t", "-c", str(nginx_main(tmp_path, site))])


def test_haproxy_finds_no_fault_with_the_example() -> None:
    assert "WARNING" not in checked([str(HAPROXY.path()), "-c", "-f", str(HAPROXY_FILE)])


async def test_the_official_client_is_answered_plain_and_streamed(broker: Stack, balancer: Balancer) -> None:
    async with openai.AsyncOpenAI(base_url=f"{balancer.url}/v1", api_key=broker.api_key) as sdk:
        messages: Any = chat("Hello")["messages"]
        plain = await sdk.chat.completions.create(model="gpt-4o-mini", messages=messages)
        stream = await sdk.chat.completions.create(model="gpt-4o-mini", messages=messages, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])

    assert plain.choices[0].message.content == text == "You said: Hello"


async def test_both_servers_are_used(broker: Stack, client: httpx.AsyncClient) -> None:
    before = [len(api.events("request")) for api in broker.apis]

    await asyncio.gather(*(client.post(CHAT, json=chat()) for _ in range(24)))

    after = [len(api.events("request")) for api in broker.apis]
    assert all(now > then + 2 for now, then in zip(after, before, strict=True)), (before, after)


async def test_events_pass_one_by_one_while_the_provider_still_holds_the_stream(
    broker: Stack, client: httpx.AsyncClient
) -> None:
    name = a_name()
    async with client.stream(
        "POST", CHAT, json=chat(stream=True, name=name, hang="mid_stream", cut_after_chunks=3)
    ) as answer:
        lines = answer.aiter_lines()
        events = [line async for line in aislice((x async for x in lines if x.startswith("data: {")), 2)]
        call = call_of(broker, name)

    assert answer.headers["content-type"].startswith("text/event-stream")
    assert "content-encoding" not in answer.headers
    assert len(events) == 2
    assert call is not None
    assert call.is_open


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_a_caller_that_leaves_ends_the_call_at_the_provider(
    stream: bool, broker: Stack, client: httpx.AsyncClient
) -> None:
    name = a_name()
    hang = "mid_stream" if stream else "before_headers"
    asking = asyncio.create_task(client.post(CHAT, json=chat(stream=stream, name=name, hang=hang)))
    await eventually(lambda: call_of(broker, name), "an open call")

    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)

    def is_closed() -> bool:
        call = call_of(broker, name)
        return call is not None and not call.is_open

    await eventually(is_closed, "a closed call", within=5)
    call = call_of(broker, name)
    assert call is not None
    assert call.outcome == "client_closed"


async def test_a_body_as_large_as_the_broker_takes_passes_and_a_larger_one_is_refused_in_its_form(
    balancer: Balancer, client: httpx.AsyncClient
) -> None:
    largest = padded(10 * MIB)
    headers = {"content-type": "application/json"}

    passed = await client.post(CHAT, content=largest, headers=headers)
    refused = await refused_before_sent(balancer, client, len(largest) + 1)

    # Whether such a prompt is too long is the broker's to say, and no matter of bytes.
    assert passed.status_code != 413, passed.text
    assert passed.headers["x-headrace-job-id"]
    assert refused.startswith(b"HTTP/1.1 413 ")
    assert json.loads(refused.partition(b"\r\n\r\n")[2])["error"]["code"] == "request_too_large"
    if isinstance(balancer, Nginx):
        # It hears a caller out who sends all before it reads; HAProxy 2.6 resets that connection.
        for content in (largest + b" ", in_pieces(largest + b" ")):
            answer = await client.post(CHAT, content=content, headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")


async def test_files_and_batches_may_be_larger_than_other_bodies(client: httpx.AsyncClient) -> None:
    data = b'{"custom_id": "1"}\n' + b" " * (11 * MIB)
    file = await client.post(
        "/v1/files", data={"purpose": "user_data"}, files={"file": ("long.txt", data)}, timeout=60
    )
    params = {
        "model": "claude-haiku-4-5",
        "max_tokens": 9,
        "messages": [{"role": "user", "content": "a" * MIB}],
    }
    requests = [{"custom_id": f"c{number}", "params": params} for number in range(11)]
    batch = await client.post("/v1/messages/batches", json={"requests": requests}, timeout=60)

    assert file.status_code == 200, file.text
    assert file.json()["bytes"] == len(data)
    assert batch.status_code == 200, batch.text


async def test_what_is_for_operators_is_not_there_however_it_is_written(client: httpx.AsyncClient) -> None:
    allowed = {"authorization": f"Bearer {PEOPLE['HEADRACE_ADMIN_TOKEN']}"}
    for path in (
        *("/metrics", "/health", "/%6detrics", "/api/v1/admin/accounts", "/api/v1/%61dmin/accounts"),
        *("/dashboard", "/dashboard/", "/%64ashboard/main.js"),
        *("/api/v1//admin/accounts", "/api/v1/jobs/../admin/accounts", "/api/v1/jobs/%2e%2e/admin/accounts"),
    ):
        url = httpx.URL(str(client.base_url)).copy_with(raw_path=path.encode())
        answer = await client.get(url, headers=allowed)
        assert answer.status_code == 404, (path, answer.text)
        assert answer.json()["error"]["message"], path
    assert (await client.get("/health/ready")).status_code == 200


async def test_the_broker_is_told_who_asks_and_not_what_the_caller_says_of_it(
    broker: Stack, balancer: Balancer
) -> None:
    ada = await a_person(broker)
    async with client_of(balancer.url, broker, source="127.0.0.2") as client:
        client.headers["authorization"] = f"Bearer {ada.token}"
        forged = {"x-forwarded-for": "203.0.113.7", "x-request-id": f"req_of_the_caller_{next(_names)}"}
        made = await client.post("/api/v1/api-keys", json={"name": "balanced"}, headers=forged)
        acts = (await client.get("/api/v1/audit")).json()["data"]

    assert made.status_code == 201, made.text
    assert made.headers["x-request-id"] == forged["x-request-id"]
    act = next(act for act in acts if act["request_id"] == forged["x-request-id"])
    assert act["address"] == "127.0.0.2"


async def test_headers_that_are_too_large_are_refused_in_json(client: httpx.AsyncClient) -> None:
    below = await client.get("/v1/models", headers={"x-padding": "a" * 15_000})
    above = await client.get("/v1/models", headers={"x-padding": "a" * 17_000})

    assert below.status_code == 200
    assert above.status_code == 431
    assert above.json()["error"]["message"]


KEYED = pytest.mark.parametrize("keyed", [False, True], ids=["without a key", "with Idempotency-Key"])


@KEYED
async def test_an_api_that_is_drained_under_load_costs_nobody_an_answer(
    keyed: bool, broker: Stack, balancer: Balancer, client: httpx.AsyncClient
) -> None:
    victim = broker.apis[0]
    errors: list[int] = []
    async with under_load(client, keyed=keyed, errors=errors) as seen:
        code = await broker.sigterm(victim)
        await answered(seen, 40)
    await back(broker, victim, balancer)

    assert code == 0
    assert seen == {200: sum(seen.values())}
    assert max(errors) == 0


@KEYED
async def test_an_api_that_is_killed_under_load_costs_each_caller_one_error_at_most(
    keyed: bool, broker: Stack, balancer: Balancer, client: httpx.AsyncClient
) -> None:
    victim = broker.apis[0]
    errors: list[int] = []
    async with under_load(client, keyed=keyed, errors=errors) as seen:
        await broker.kill9(victim)
        await answered(seen, 60)
    await back(broker, victim, balancer)

    assert set(seen) <= {200, 502, CLOSED}, seen
    assert max(errors) == (0 if keyed else 1)


async def test_streams_outlive_a_reload_and_nobody_is_refused_meanwhile(
    broker: Stack, balancer: Balancer, client: httpx.AsyncClient
) -> None:
    name = a_name()
    body = chat(stream=True, text=" ".join("abcdefghij"), name=name, chunks=20, between_chunks_ms=100)
    async with (
        client_of(balancer.url, broker, kept=0) as new_callers,
        client.stream("POST", CHAT, json=body) as answer,
    ):
        lines = (line async for line in answer.aiter_lines() if line.startswith("data: "))
        await anext(lines)
        balancer.reload()
        async with under_load(new_callers) as seen:
            rest = [line async for line in lines]

    assert rest[-1] == "data: [DONE]"
    assert seen == {200: sum(seen.values())}


@pytest.mark.parametrize("kind", [Nginx, HAProxy], ids=["nginx", "haproxy"])
async def test_where_no_api_is_up_every_dialect_reads_an_error_that_may_be_tried_again(
    kind: type[Balancer], broker: Stack
) -> None:
    balancer = kind([free_port(), free_port()])
    balancer.start()
    try:
        async with openai.AsyncOpenAI(base_url=f"{balancer.url}/v1", api_key="x", max_retries=0) as sdk:
            with pytest.raises(openai.InternalServerError) as raised:
                await sdk.models.list()
        async with client_of(balancer.url, broker) as client:
            answer = await client.post("/v1/messages", json=chat())
    finally:
        balancer.stop()

    assert (raised.value.code, raised.value.type) == ("no_server", "overloaded_error")
    view = answer.json()
    assert answer.status_code in (502, 503)
    assert (answer.headers["x-should-retry"], answer.headers["retry-after"]) == ("true", "1")
    assert (view["type"], view["error"]["type"]) == ("error", "overloaded_error")
    assert view["request_id"] == view["id"] == view["error"]["trace_id"] == answer.headers["x-request-id"]


# Load


class under_load:  # noqa: N801 - reads as a function
    """CALLERS that ask again and again while the block runs; yields the statuses of their answers.

    `errors`: gets, for each question, how often it was not answered.
    """

    def __init__(
        self, client: httpx.AsyncClient, *, keyed: bool = False, errors: list[int] | None = None
    ) -> None:
        self._client = client
        self._keyed = keyed
        self._errors: list[int] = [] if errors is None else errors
        self._stopped = False
        self._seen: Counter[int] = Counter()
        self._callers: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Counter[int]:
        for _ in range(CALLERS):
            self._callers.append(asyncio.create_task(self._call()))
        await answered(self._seen, CALLERS)
        return self._seen

    async def __aexit__(self, *_: object) -> None:
        self._stopped = True
        await asyncio.gather(*self._callers)

    async def _call(self) -> None:
        """Each question again until it is answered, as the official clients do: half a second later."""
        while not self._stopped:
            headers = {"idempotency-key": a_name()} if self._keyed else {}
            status, failures = CLOSED, 0
            while status != 200:
                try:
                    body = chat(before_headers_ms=40)
                    status = (await self._client.post(CHAT, json=body, headers=headers)).status_code
                except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
                    status = CLOSED
                self._seen[status] += 1
                if status != 200:
                    failures += 1
                    await asyncio.sleep(0.5)
            self._errors.append(failures)


async def answered(seen: Counter[int], more: int) -> None:
    target = sum(seen.values()) + more
    await eventually(lambda: sum(seen.values()) >= target, f"{more} answers")


async def back(broker: Stack, ended: Process, balancer: Balancer) -> None:
    """An api on the port of the one that ended, used by the balancer again."""
    again = await broker.start_api(port=ended.port)

    async def ask() -> None:
        async with client_of(balancer.url, broker) as client:
            await asyncio.gather(*(client.post(CHAT, json=chat()) for _ in range(8)))

    def asked() -> list[dict[str, Any]]:
        return [event for event in again.events("request") if event["route"] == CHAT]

    async def is_asked() -> bool:
        await ask()
        return bool(asked())

    await eventually(is_asked, "an api that is used again", within=20, every=0.2)
    broker.apis.reverse()


def padded(size: int) -> bytes:
    """A chat of exactly that many bytes."""
    empty = json.dumps(chat("")).encode()
    return json.dumps(chat("a" * (size - len(empty)))).encode()


async def refused_before_sent(balancer: Balancer, client: httpx.AsyncClient, size: int) -> bytes:
    """The answer to somebody who says how much is coming, and waits for a word."""
    reader, writer = await asyncio.open_connection("127.0.0.1", balancer.port)
    head = (
        f"POST {CHAT} HTTP/1.1\r\nhost: broker\r\nauthorization: {client.headers['authorization']}\r\n"
        f"content-type: application/json\r\ncontent-length: {size}\r\nexpect: 100-continue\r\n"
        "connection: close\r\n\r\n"
    )
    writer.write(head.encode())
    try:
        async with asyncio.timeout(10):
            head_of_answer = await reader.readuntil(b"\r\n\r\n")
            return head_of_answer + await reader.readuntil(b"}}")
    finally:
        writer.close()


async def in_pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 65_536):
        yield body[start : start + 65_536]


async def aislice(items: AsyncIterator[str], count: int) -> AsyncIterator[str]:
    for _ in range(count):
        yield await anext(items)
