"""Routes, fallbacks and the routing file, over real processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared import keyspace
from shared.domain.job import FallbackOn, Job, JobKind, Target
from shared.ids import JobId
from tests.fakes.eventually import eventually
from tests.fakes.stack import Stack, start_apart
from tests.fixtures.stack import FreshStack
from tests.integration.queue.support import open_link

ROUTING = """
[routes.house]
targets = ["openai/gpt-4o-mini", "anthropic/claude-haiku-4-5"]
fallback_on = ["context_length"]

[routes.eyes]
targets = ["perplexity/sonar-deep-research", "openai/gpt-4o"]

[routes.shared]
policy = "weighted"
targets = [{ model = "openai/gpt-4o-mini", weight = 2 }, "anthropic/claude-haiku-4-5"]

[routes.vectors]
policy = "cheapest"
targets = ["openai/text-embedding-3-large", "openai/text-embedding-3-small"]

[fallbacks]
"openai/gpt-4o" = ["anthropic/claude-sonnet-4-5"]
"""
HELLO = [{"role": "user", "content": "Hello"}]
MINI, HAIKU = Target("openai", "gpt-4o-mini"), Target("anthropic", "claude-haiku-4-5")
ASKED: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": HELLO},
    "/v1/messages": {"messages": HELLO, "max_tokens": 50},
    "/v1/responses": {"input": "Hello"},
    "/v1/completions": {"prompt": "Hello"},
    "/api/v1/chat": {"messages": HELLO},
    "/generate-text": {"prompt": "Hello"},
    "/summarize": {"text": "Hello"},
}


@pytest.fixture(scope="module")
def routing_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("routing") / "routing.toml"
    path.write_text(ROUTING, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def stack(sqlite_template: Path, routing_file: Path) -> Iterator[Stack]:
    broker = Stack(
        database_template=sqlite_template,
        schedulers=0,
        settings={"HEADRACE_ROUTING_FILE": str(routing_file)},
    )
    start_apart(broker)
    yield broker
    broker.end_now()


@pytest.fixture
async def client(stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    async with stack.client() as client:
        yield client


async def post(
    client: httpx.AsyncClient,
    body: dict[str, Any],
    *,
    path: str = "/v1/chat/completions",
    status: int = 200,
    **headers: str,
) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = await client.post(path, json=body, headers=named)
    assert answer.status_code == status, answer.text
    return answer


async def job_of(answer: httpx.Response, stack: Stack) -> Job:
    """As it was queued."""
    job_id = JobId(answer.headers["x-headrace-job-id"])
    async with open_link(stack.redis.url) as link:
        header = await link.execute("HGET", keyspace.job(0, job_id), "header")
    return Job.from_wire(header, b"")


def answered_by(answer: httpx.Response) -> Target:
    return Target(answer.headers["x-headrace-provider"], answer.headers["x-headrace-model"])


@pytest.mark.parametrize("path", ASKED)
async def test_a_route_is_a_model_on_every_surface(
    client: httpx.AsyncClient, stack: Stack, path: str
) -> None:
    answer = await post(client, {"model": "house", **ASKED[path]}, path=path)

    assert answered_by(answer) == MINI
    job = await job_of(answer, stack)
    assert job.plan == (MINI, HAIKU)
    assert job.fallback_on == {FallbackOn.CONTEXT_LENGTH}


@pytest.mark.parametrize("path", ASKED)
async def test_fallbacks_of_a_request_are_planned_and_reach_no_provider(
    client: httpx.AsyncClient, stack: Stack, path: str
) -> None:
    await stack.provider.clear()
    body = {"model": "gpt-4o-mini", "fallback_models": ["claude-haiku-4-5"], **ASKED[path]}

    answer = await post(client, body, path=path, x_headrace_fallback_on="content_filter")

    job = await job_of(answer, stack)
    assert job.plan == (MINI, HAIKU)
    assert job.fallback_on == {FallbackOn.CONTENT_FILTER}
    (call,) = await stack.provider.calls(closed=1)
    assert call.received is not None
    assert "fallback_models" not in call.received["body"]
    assert "x-headrace-fallback-on" not in call.received["headers"]


async def test_fallbacks_may_come_in_a_header_and_the_body_wins(
    client: httpx.AsyncClient, stack: Stack
) -> None:
    body: dict[str, Any] = {"model": "gpt-4o-mini", "messages": HELLO}
    header = "claude-haiku-4-5 ,house,"

    by_header = await post(client, body, x_headrace_fallback_models=header)
    by_body = await post(client, {**body, "fallback_models": ["gpt-4o"]}, x_headrace_fallback_models=header)
    by_neither = await post(client, {**body, "fallback_models": None})

    assert (await job_of(by_header, stack)).plan == (MINI, HAIKU)
    assert (await job_of(by_body, stack)).plan == (MINI, Target("openai", "gpt-4o"))
    assert (await job_of(by_neither, stack)).plan == (MINI,)


async def test_the_files_fallbacks_are_for_a_model_named_directly(
    client: httpx.AsyncClient, stack: Stack
) -> None:
    body: dict[str, Any] = {"model": "gpt-4o", "messages": HELLO}

    filed, own = await post(client, body), await post(client, {**body, "fallback_models": []})

    sonnet = Target("anthropic", "claude-sonnet-4-5")
    assert (await job_of(filed, stack)).plan == (Target("openai", "gpt-4o"), sonnet)
    assert (await job_of(own, stack)).plan == (Target("openai", "gpt-4o"),)


async def test_a_litellm_proxy_falls_back_by_itself(client: httpx.AsyncClient, stack: Stack) -> None:
    await stack.provider.clear()
    body = {"provider": "litellm", "model": "gpt-4o", "messages": HELLO, "fallback_models": ["any-name"]}

    answer = await post(client, body, path="/api/v1/chat")

    assert (await job_of(answer, stack)).plan == (Target("litellm", "gpt-4o"),)
    (call,) = await stack.provider.calls(closed=1)
    assert call.received is not None
    assert call.received["body"]["fallbacks"] == ["any-name"]


@pytest.mark.parametrize(
    ("fallbacks", "headers", "status", "told"),
    [
        (["gpt-4o", "gpt-4o-mni"], {}, 404, "gpt-4o-mni"),
        (None, {"x_headrace_fallback_models": "gpt-4o, nobody-s"}, 404, "nobody-s"),
        (["gpt-4o"] * 9, {}, 422, "fallback_models"),
        ("gpt-4o", {}, 422, "fallback_models"),
        (["gpt-4o", ""], {}, 422, "fallback_models[1]"),
        (["gpt-4o", 7], {}, 422, "fallback_models[1]"),
        (None, {"x_headrace_fallback_models": ",".join(["a"] * 9)}, 400, "x-headrace-fallback-models"),
        (None, {"x_headrace_fallback_models": "a b"}, 400, "x-headrace-fallback-models"),
        (None, {"x_headrace_fallback_on": "rain"}, 400, "x-headrace-fallback-on"),
    ],
)
async def test_fallbacks_that_are_none_are_refused_by_name(
    client: httpx.AsyncClient, fallbacks: Any, headers: dict[str, str], status: int, told: str
) -> None:
    body = {"model": "gpt-4o-mini", "messages": HELLO, "fallback_models": fallbacks}

    answer = await post(client, body, path="/api/v1/chat", status=status, **headers)

    assert told in answer.json()["error"]["message"]


async def test_the_target_that_answered_is_named_and_its_form_is_the_callers(
    client: httpx.AsyncClient, stack: Stack
) -> None:
    """Our key is refused by the first: nothing to wait for there."""
    await stack.provider.clear()
    await stack.provider.script({"status": 401}, match="house on the left")
    asked = [{"role": "user", "content": "the house on the left"}]

    answer = await post(client, {"model": "house", "messages": asked})

    assert answered_by(answer) == HAIKU
    assert answer.json()["choices"][0]["message"]["content"] == "You said: the house on the left"
    assert [call.model for call in await stack.provider.calls(closed=2)] == [MINI.model, HAIKU.model]


async def test_a_prompt_that_was_too_long_after_all_moves_on_where_the_route_says(
    client: httpx.AsyncClient, stack: Stack
) -> None:
    refusal = {"status": 400, "error_code": "context_length_exceeded"}
    asked = [{"role": "user", "content": "the house on the right"}]
    for model, status in (("house", 200), ("gpt-4o", 400)):
        await stack.provider.clear()
        await stack.provider.script(refusal, match="house on the right")

        await post(client, {"model": model, "messages": asked}, status=status)


async def test_a_stream_names_the_target_that_is_planned(client: httpx.AsyncClient) -> None:
    answer = await post(client, {"model": "house", "messages": HELLO, "stream": True})

    assert answered_by(answer) == MINI
    assert answer.text.endswith("data: [DONE]\n\n")


async def test_an_image_goes_to_a_model_that_sees(client: httpx.AsyncClient, stack: Stack) -> None:
    image = {"type": "image_url", "image_url": {"url": "https://a.example/cat.png"}}

    seen = await post(client, {"model": "eyes", "messages": [{"role": "user", "content": [image]}]})
    read = await post(client, {"model": "eyes", "messages": HELLO})

    assert (await job_of(seen, stack)).plan == (Target("openai", "gpt-4o"),)
    assert answered_by(read) == Target("perplexity", "sonar-deep-research")


async def test_weights_share_the_requests(client: httpx.AsyncClient) -> None:
    answers = [await post(client, {"model": "shared", "messages": HELLO}) for _ in range(40)]

    by = Counter(answered_by(answer) for answer in answers)
    # All of forty to one of two with weights 2 and 1: once in ten million runs.
    assert set(by) == {MINI, HAIKU}


async def test_an_idempotency_key_holds_whatever_the_router_chooses(client: httpx.AsyncClient) -> None:
    body: dict[str, Any] = {"model": "shared", "messages": HELLO}

    answers = [await post(client, body, idempotency_key="router-1") for _ in range(12)]
    other = await post(
        client, {**body, "fallback_models": ["gpt-4o"]}, status=422, idempotency_key="router-1"
    )

    assert len({answer.headers["x-headrace-job-id"] for answer in answers}) == 1
    # A replay names the target that answered then, not the one it would choose now.
    assert len({answered_by(answer) for answer in answers}) == 1
    assert other.json()["error"]["code"] == "idempotency_key_reused"


async def test_vectors_come_from_the_cheapest_model(client: httpx.AsyncClient) -> None:
    answer = await post(client, {"model": "vectors", "input": "Hello"}, path="/v1/embeddings")
    cost = await post(client, {"model": "vectors", "input": "Hello"}, path="/api/v1/estimate")

    assert answered_by(answer) == Target("openai", "text-embedding-3-small")
    assert (cost.json()["model"], cost.json()["kind"]) == ("text-embedding-3-small", JobKind.EMBEDDINGS)


async def test_a_route_counts_tokens_as_its_first_target_does(client: httpx.AsyncClient) -> None:
    body = {"messages": HELLO}

    by_route, by_model = [
        await post(client, {"model": model, **body}, path="/v1/messages/count_tokens")
        for model in ("house", "gpt-4o-mini")
    ]

    assert by_route.json() == by_model.json()


async def test_routes_are_shown_where_models_are(client: httpx.AsyncClient) -> None:
    cards = {card["id"]: card for card in (await client.get("/v1/models")).json()["data"]}
    described = (await client.get("/v1/models/house")).json()
    unified = (await client.get("/api/v1/models")).json()
    routing = (await client.get("/api/v1/providers")).json()["routing"]
    missing = await post(client, {"model": "hous", "messages": HELLO}, path="/api/v1/chat", status=404)

    assert cards["house"]["owned_by"] == described["owned_by"] == "headrace"
    assert unified["routes"]["house"] == ["openai/gpt-4o-mini", "anthropic/claude-haiku-4-5"]
    shown = {route["name"]: route for route in routing["routes"]}
    assert shown["shared"] == {
        "name": "shared",
        "policy": "weighted",
        "targets": [
            {"model": "openai/gpt-4o-mini", "weight": 2},
            {"model": "anthropic/claude-haiku-4-5", "weight": 1},
        ],
        "requires": [],
        "fallback_on": [],
        "max_targets": 16,
    }
    assert routing["fallbacks"] == {"openai/gpt-4o": ["anthropic/claude-sonnet-4-5"]}
    assert missing.json()["error"]["details"]["available_models"][0] == "house"


async def test_a_changed_file_is_in_force_and_a_bad_one_is_not(
    fresh_stack: FreshStack, tmp_path: Path
) -> None:
    file = tmp_path / "routing.toml"
    file.write_text(ROUTING, encoding="utf-8")
    stack = await fresh_stack(schedulers=0, settings={"HEADRACE_ROUTING_FILE": str(file)})
    (api,) = stack.apis

    async with stack.client() as client:

        async def routes() -> set[str]:
            return set((await client.get("/api/v1/models")).json()["routes"])

        async def has_new_one() -> bool:
            return "new" in await routes()

        file.write_text(ROUTING + '\n[routes.new]\ntargets = ["opnai/gpt"]\n', encoding="utf-8")
        await eventually(lambda: bool(api.events("routing file not used")), "the complaint", within=15)
        assert await routes() == {"house", "eyes", "shared", "vectors"}

        file.write_text(ROUTING + '\n[routes.new]\ntargets = ["openai/gpt-4o"]\n', encoding="utf-8")
        await eventually(has_new_one, "the new route", within=15)
        answer = await post(client, {"model": "new", "messages": HELLO})

    assert answered_by(answer) == Target("openai", "gpt-4o")
    (complaint,) = api.events("routing file not used")
    assert "routes.new.targets" in complaint["problem"]


async def test_a_bad_file_at_boot_stops_the_api_with_one_line(stack: Stack, tmp_path: Path) -> None:
    file = tmp_path / "routing.toml"
    file.write_text("[routes.house]\ntargets = []\n", encoding="utf-8")

    api = stack.spawn_api(HEADRACE_ROUTING_FILE=str(file))
    code = await api.has_ended(within=30)
    stack.forget(api)

    assert code == 78
    (line,) = api.output().splitlines()
    assert line.startswith(f"HEADRACE_ROUTING_FILE: {file}: routes.house.targets: ")
