"""Conversations that are kept: each turn once, for their owner alone, whole or streamed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared.domain.allowance import Limits
from shared.domain.roles import Permission, Role
from shared.ids import AccountId
from tests.fakes.stack import Stack, start_apart

pytestmark = pytest.mark.xdist_group("conversations")

CHAT, PATH = "/api/v1/chat", "/api/v1/conversations"


@pytest.fixture(scope="module")
def stack(sqlite_template: Path) -> Iterator[Stack]:
    broker = Stack(apis=2, database_template=sqlite_template)
    start_apart(broker)
    yield broker
    broker.end_now()


async def client_of(stack: Stack, account: str = "kept", api: int = 0, **key: Any) -> httpx.AsyncClient:
    client = stack.client(stack.apis[api])
    client.headers["authorization"] = f"Bearer {await stack.new_api_key(AccountId(account), **key)}"
    return client


def asked(text: str, conversation: str = "new", **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    target = {"provider": "openai", "model": "gpt-4o-mini"}
    return {**target, "messages": messages, "conversation_id": conversation, **more}


async def sent_to_the_provider(stack: Stack) -> list[str]:
    """The messages of the last call, as `role: text`."""
    calls = await stack.provider.calls()
    assert calls[-1].received is not None
    body = calls[-1].received["body"]
    document = body if isinstance(body, dict) else json.loads(body)
    return [f"{message['role']}: {message['content']}" for message in document["messages"]]


async def kept(client: httpx.AsyncClient, conversation: str) -> list[tuple[str, str]]:
    answer = await client.get(f"{PATH}/{conversation}")
    assert answer.status_code == 200, answer.text
    return [(message["role"], message["content"]) for message in answer.json()["messages"]]


async def test_what_was_said_before_goes_in_front(stack: Stack) -> None:
    async with await client_of(stack) as client:
        first = (await client.post(CHAT, json=asked("My name is Ada"))).json()
        conversation = first["conversation_id"]
        second = await client.post(CHAT, json=asked("What is my name?", conversation))
        seen = await sent_to_the_provider(stack)
        messages = await kept(client, conversation)
        listed = (await client.get(PATH)).json()["data"]

    answers = [answer["choices"][0]["message"]["content"] for answer in (first, second.json())]
    assert second.headers["x-headrace-conversation-id"] == conversation
    assert seen == ["user: My name is Ada", f"assistant: {answers[0]}", "user: What is my name?"]
    assert messages == [
        ("user", "My name is Ada"),
        ("assistant", answers[0]),
        ("user", "What is my name?"),
        ("assistant", answers[1]),
    ]
    assert (conversation, "My name is Ada") in [(one["id"], one["title"]) for one in listed]


async def test_a_streamed_turn_is_there_when_its_end_is_told(stack: Stack) -> None:
    async with await client_of(stack) as client:
        async with client.stream("POST", CHAT, json=asked("Hello", stream=True)) as streamed:
            conversation = streamed.headers["x-headrace-conversation-id"]
            lines = [line async for line in streamed.aiter_lines() if line.startswith("data: ")]
        messages = await kept(client, conversation)

    told = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    text = "".join(event["delta"].get("content", "") for event in told)
    assert lines[-1] == "data: [DONE]"
    assert messages == [("user", "Hello"), ("assistant", text)]


async def test_a_turn_that_failed_is_not_kept(stack: Stack) -> None:
    async with await client_of(stack) as client:
        conversation = (await client.post(CHAT, json=asked("Hello"))).json()["conversation_id"]
        failed = await client.post(CHAT, json=asked('!script {"status": 400}\nBoom', conversation))
        messages = await kept(client, conversation)

    assert failed.status_code == 400
    assert len(messages) == 2


async def test_a_conversation_whose_first_turn_is_refused_or_fails_never_began(stack: Stack) -> None:
    limits = Limits(window_requests=2, window_seconds=900)
    async with await client_of(stack, account="strict", limits=limits) as client:
        failed = await client.post(CHAT, json=asked('!script {"status": 400}\nBoom'))
        answered = await client.post(CHAT, json=asked("Hello"))
        refused = [await client.post(CHAT, json=asked(f"{n}")) for n in range(3)]
        listed = (await client.get(PATH)).json()

    assert (failed.status_code, answered.status_code) == (400, 200)
    assert {answer.status_code for answer in refused} == {429}
    assert [one["id"] for one in listed["data"]] == [answered.json()["conversation_id"]]


async def test_a_repeated_request_is_one_turn_of_one_conversation(stack: Stack) -> None:
    headers = {"idempotency-key": "a-turn"}
    async with await client_of(stack) as client:
        one, other = await asyncio.gather(
            *(client.post(CHAT, json=asked("Hello", temperature=0.5), headers=headers) for _ in range(2))
        )
        again = await client.post(CHAT, json=asked("Hello", temperature=0.5), headers=headers)
        conversation = one.json()["conversation_id"]
        messages = await kept(client, conversation)
        turn = {"idempotency-key": "another-turn"}
        for _ in range(2):
            assert (
                await client.post(CHAT, json=asked("More", conversation), headers=turn)
            ).status_code == 200
        after = await kept(client, conversation)

    assert other.json()["conversation_id"] == again.json()["conversation_id"] == conversation
    assert (len(messages), len(after)) == (2, 4)


async def test_turns_at_once_are_all_kept_in_some_order(stack: Stack) -> None:
    async with await client_of(stack) as one, await client_of(stack, api=1) as other:
        conversation = (await one.post(CHAT, json=asked("Begin"))).json()["conversation_id"]
        of_other_key = await other.post(CHAT, json=asked("x", conversation))
        answers = await asyncio.gather(
            *(one.post(CHAT, json=asked(f"Turn {n}", conversation)) for n in range(6))
        )
        messages = await kept(one, conversation)

    assert of_other_key.status_code == 404
    assert {answer.status_code for answer in answers} == {200}
    assert len(messages) == 14
    assert {text for role, text in messages if role == "user"} == {"Begin", *(f"Turn {n}" for n in range(6))}


async def test_its_owner_alone_reads_and_deletes_it(stack: Stack) -> None:
    async with await client_of(stack) as owner, await client_of(stack, "another") as stranger:
        conversation = (await owner.post(CHAT, json=asked("Secret plan"))).json()["conversation_id"]
        by_stranger = [
            await stranger.get(f"{PATH}/{conversation}"),
            await stranger.delete(f"{PATH}/{conversation}"),
            await stranger.post(CHAT, json=asked("x", conversation)),
            await stranger.get(f"{PATH}/conv_{'0' * 24}"),
            await stranger.get(f"{PATH}/junk"),
        ]
        listed = await stranger.get(PATH)
        still = await kept(owner, conversation)
        deleted = await owner.delete(f"{PATH}/{conversation}")
        gone = await owner.get(f"{PATH}/{conversation}")

    assert [answer.status_code for answer in by_stranger] == [404] * 5
    assert "Secret" not in listed.text + "".join(answer.text for answer in by_stranger)
    assert len(still) == 2
    assert (deleted.status_code, gone.status_code) == (204, 404)


async def test_without_the_permission_nothing_is_kept(stack: Stack) -> None:
    async with await client_of(stack, scopes=(Permission.INFERENCE.value,)) as scoped:
        refused = [await scoped.post(CHAT, json=asked("x")), await scoped.get(PATH)]
    async with await client_of(stack, role=Role.VIEWER) as viewer:
        refused.append(await viewer.get(PATH))

    assert [answer.status_code for answer in refused] == [403] * 3


@pytest.mark.parametrize("conversation", ["", "latest", "conv_1", "x" * 65, 1, ["new"], {"id": "new"}])
async def test_what_is_no_id_of_a_conversation_is_told_so(stack: Stack, conversation: Any) -> None:
    async with await client_of(stack) as client:
        answer = await client.post(CHAT, json=asked("Hello", conversation))

    assert answer.status_code == 422


async def test_a_request_without_one_is_kept_nowhere(stack: Stack) -> None:
    async with await client_of(stack) as client:
        plain = await client.post(CHAT, json=asked("Hello", None))  # type: ignore[arg-type]  # null on purpose

    assert plain.status_code == 200
    assert plain.json().get("conversation_id") is None
    assert "x-headrace-conversation-id" not in plain.headers
