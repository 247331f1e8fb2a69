"""What is read of a provider's list of models, and how it travels."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from shared import keyspace
from shared.providers.catalogue import ListedModel
from shared.providers.model_lists import (
    LIST_SECONDS,
    MAX_MODELS,
    HealthRecord,
    ModelLists,
    ProviderStatus,
    list_from_wire,
    list_to_wire,
    read_list,
)
from tests.unit.providers.support import golden

READ: dict[str, list[ListedModel]] = {
    "openai": [
        ListedModel("gpt-4o-mini", "p", 1721172741),
        ListedModel("text-embedding-3-small", "p", 1705948997),
    ],
    "anthropic": [
        ListedModel("claude-opus-5-5", "p", 1790035200, "Claude Opus 5.5", 1_000_000, 128_000),
        ListedModel("claude-haiku-4-5-20251001", "p", 1759276800, "Claude Haiku 4.5"),
    ],
    "openrouter": [
        ListedModel(
            "openai/gpt-4o-mini", "p", 1721260800, "OpenAI: GPT-4o-mini", 128_000, 16_384, 150_000, 600_000
        ),
        ListedModel("openrouter/auto", "p", 1699401600, "Auto Router", 2_000_000),
    ],
    "huggingface": [
        # Context of the first that serves it, price of the dearest; what is down does not count.
        ListedModel("deepseek-ai/DeepSeek-R1", "p", 1737331200, None, 163_840, None, 3_000_000, 7_000_000),
        ListedModel("google/gemma-2-2b-it", "p", 1721088000),
    ],
    "vllm": [ListedModel("Qwen/Qwen2.5-7B-Instruct", "p", 1763985600, None, 32_768)],
    "litellm": [ListedModel("gpt-4o", "p", 1677610602), ListedModel("bedrock/*", "p", 1677610602)],
}


@pytest.mark.parametrize("provider", READ)
def test_a_list_is_read_with_what_it_says_beside_names(provider: str) -> None:
    assert read_list(golden(f"models/{provider}.json"), "p") == READ[provider]


@pytest.mark.parametrize("provider", READ)
def test_a_list_travels_whole(provider: str) -> None:
    assert list_from_wire(list_to_wire(READ[provider]), "p") == READ[provider]


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"7", b"null", b'"x"', b"{}", b'{"data":{}}', b'{"data":null}', b'{"error":{}}']
)
def test_what_is_no_list_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - of whatever sentence
        read_list(body, "p")


@pytest.mark.parametrize(
    "entry",
    [
        None,
        7,
        "gpt-4o",
        {},
        {"id": None},
        {"id": 7},
        {"id": ""},
        {"id": "two words"},
        {"id": "line\nbreak"},
        {"id": "schön"},
        {"id": "x" * 257},
    ],
)
def test_an_entry_without_a_usable_name_is_left_out(entry: Any) -> None:
    assert read_list(orjson.dumps({"data": [entry, {"id": "good"}]}), "p") == [ListedModel("good", "p")]


@pytest.mark.parametrize(
    "extras",
    [
        {"created": "yesterday", "created_at": "yesterday"},
        {"created": -1, "created_at": 7},
        {"created": True, "context_length": True, "max_model_len": "big"},
        {"context_length": -5, "max_model_len": 10**12, "max_tokens": 1.5},
        {"pricing": {"prompt": "free", "completion": "nan"}},
        {"pricing": {"prompt": "1e999", "completion": "-inf"}},
        {"pricing": {"prompt": None, "completion": []}, "providers": "none"},
        {"pricing": "cheap", "top_provider": [], "providers": [7, {"pricing": {"input": "x", "output": {}}}]},
        {"name": "  ", "display_name": 7},
    ],
)
def test_extras_that_make_no_sense_are_as_if_not_said(extras: dict[str, Any]) -> None:
    assert read_list(orjson.dumps({"data": [{"id": "m", **extras}]}), "p") == [ListedModel("m", "p")]


def test_a_name_counts_once_and_a_list_is_bounded() -> None:
    many = [{"id": f"m-{n // 2}"} for n in range(3 * MAX_MODELS)]

    names = [model.id for model in read_list(orjson.dumps(many), "p")]

    assert names == [f"m-{n}" for n in range(MAX_MODELS)]


class Store:
    """Redis, as far as lists are read of it; it counts what was asked for."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.asked: list[str] = []

    async def execute_many(self, commands: list[tuple[str | bytes | int | float, ...]]) -> list[Any]:
        keys = [str(key) for _, key in commands]
        self.asked += keys
        return [self.values.get(key) for key in keys]

    def lists(self, provider: str, *names: str, at: float) -> None:
        record = HealthRecord(ProviderStatus.ONLINE, checked_at=at, listed_at=at)
        self.values[keyspace.health(provider)] = record.to_wire()
        self.values[keyspace.models(provider)] = list_to_wire(ListedModel(name, provider) for name in names)


@pytest.fixture
def store() -> Store:
    return Store()


async def test_a_list_is_read_once_and_again_when_it_was_renewed(store: Store) -> None:
    lists = ModelLists(store, ["a", "b"], clock=lambda: 1_000.0)
    store.lists("b", "one", at=900.0)

    assert await lists.look()
    assert not await lists.look()
    assert store.asked.count(keyspace.models("b")) == 1
    assert [(model.provider, model.id) for model in lists.models()] == [("b", "one")]

    store.lists("b", "one", "two", at=950.0)
    store.lists("a", "three", at=950.0)

    assert await lists.look()
    assert [(m.provider, m.id) for m in lists.models()] == [("a", "three"), ("b", "one"), ("b", "two")]


async def test_a_list_nobody_renewed_in_time_is_forgotten(store: Store) -> None:
    now = 1_000.0
    lists = ModelLists(store, ["a"], clock=lambda: now)
    store.lists("a", "one", at=1_000.0)
    assert await lists.look()

    now += LIST_SECONDS + 1

    assert await lists.look()
    assert lists.models() == []


async def test_what_redis_forgot_is_not_known(store: Store) -> None:
    lists = ModelLists(store, ["a"], clock=lambda: 1_000.0)
    store.lists("a", "one", at=1_000.0)
    await lists.look()

    store.values.clear()

    assert await lists.look()
    assert (lists.models(), lists.health) == ([], {})


async def test_a_failure_of_redis_leaves_what_was_read(store: Store) -> None:
    lists = ModelLists(store, ["a"], clock=lambda: 1_000.0)
    store.lists("a", "one", at=1_000.0)
    await lists.look()

    async def broken(commands: list[Any]) -> list[Any]:
        return [ConnectionError("gone") for _ in commands]

    store.execute_many = broken  # type: ignore[method-assign]  # this store breaks from here on
    with pytest.raises(ConnectionError):
        await lists.look()

    assert [model.id for model in lists.models()] == ["one"]


def test_records_of_a_newer_release_are_read_as_far_as_they_are_understood() -> None:
    wire = orjson.dumps({"status": "asleep", "checked_at": 1.0, "mood": "good"})

    assert HealthRecord.from_wire(wire) == HealthRecord(ProviderStatus.UNKNOWN, 1.0)
    assert list_from_wire(b'[{"id":"m","colour":"red"}]', "p") == [ListedModel("m", "p")]
