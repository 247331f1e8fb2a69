"""The list of models, through the official OpenAI client."""

from __future__ import annotations

import openai
import pytest

from tests.fakes.eventually import eventually

pytestmark = pytest.mark.xdist_group("contract")


def test_models_of_every_configured_provider_are_listed(client: openai.OpenAI) -> None:
    models = list(client.models.list())

    owners = {model.id: model.owned_by for model in models}
    assert owners["gpt-4o-mini"] == "openai"
    assert owners["claude-haiku-4-5"] == "anthropic"
    assert len(owners) == len(models)
    assert {model.object for model in models} == {"model"}
    assert all(model.created > 0 for model in models if model.owned_by in {"openai", "anthropic"})


async def test_the_asynchronous_client_lists_the_same(
    client: openai.OpenAI, async_client: openai.AsyncOpenAI
) -> None:
    listed = [model.id async for model in async_client.models.list()]

    assert listed == [model.id for model in client.models.list()]


@pytest.mark.parametrize("name", ["gpt-4o-mini", "claude-haiku-4-5", "anthropic/claude-haiku-4-5"])
def test_a_model_is_found_by_its_name_and_with_its_provider_before_a_slash(
    client: openai.OpenAI, name: str
) -> None:
    model = client.models.retrieve(name)

    assert model.id == name.rpartition("/")[2]
    assert model.owned_by in {"openai", "anthropic"}


def test_a_dated_snapshot_is_found_by_the_name_it_was_asked_by(client: openai.OpenAI) -> None:
    model = client.models.retrieve("gpt-4o-mini-2024-07-18")

    assert (model.id, model.owned_by) == ("gpt-4o-mini-2024-07-18", "openai")


async def test_what_a_provider_lists_itself_is_listed_found_and_answers(client: openai.OpenAI) -> None:
    """The first provider that lists a name has it bare; at others it needs theirs before it."""

    async def listed() -> bool:
        names = {model.id for model in client.models.list()}
        return {"scripted-large", "anthropic/scripted-large"} <= names

    await eventually(listed, "the providers' own lists", within=40)

    for name, owner in (("scripted-large", "openai"), ("anthropic/scripted-large", "anthropic")):
        assert client.models.retrieve(name).owned_by == owner
        answer = client.chat.completions.create(model=name, messages=[{"role": "user", "content": "Hello"}])
        assert answer.choices[0].message.content == "You said: Hello"


@pytest.mark.parametrize("name", ["nobody-s-model", "openai/claude-haiku-4-5", "a/b/c"])
def test_an_unknown_model_is_not_found(client: openai.OpenAI, name: str) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        client.models.retrieve(name)

    assert raised.value.code == "model_not_found"
    assert raised.value.param == "model"
