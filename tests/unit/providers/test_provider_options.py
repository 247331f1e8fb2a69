"""Options and names that one provider says in its own way."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from shared.domain.job import JobKind, Target
from shared.errors import InvalidRequest, ProviderCredentialRefused
from shared.providers import refusals
from shared.providers.dialect import Call, ProviderRequest
from shared.providers.registry import BUILT_IN


def encoded(provider: str, kind: JobKind, model: str, **body: Any) -> ProviderRequest:
    profile = BUILT_IN[provider]
    call = Call(orjson.dumps({"model": model, **body}), Target(provider, model), profile)
    return profile.codec(kind).encode(call)


@pytest.mark.parametrize("model", ["../../api/whoami", "a/../../b", "/a", "a//b", "./a", ".."])
def test_a_model_cannot_lead_to_another_path_of_its_provider(model: str) -> None:
    for provider, kind, body in (
        ("huggingface", JobKind.EMBEDDINGS, {"input": "x"}),
        ("huggingface", JobKind.SUMMARIZATION, {"text": "x"}),
        ("nvidia_nim", JobKind.RERANK, {"query": "q", "documents": ["a"]}),
    ):
        with pytest.raises(InvalidRequest) as refused:
            encoded(provider, kind, model, **body)

        assert (refused.value.status, refused.value.param) == (400, "model")


def test_a_model_with_odd_characters_stays_one_path() -> None:
    request = encoded("huggingface", JobKind.EMBEDDINGS, "owner/a b?c#d", input="x")

    assert request.path == "/hf-inference/models/owner/a%20b%3Fc%23d/pipeline/feature-extraction"


@pytest.mark.parametrize(
    ("options", "plugins"),
    [
        ({"transforms": ["middle-out"]}, [{"id": "context-compression", "engine": "middle-out"}]),
        ({"transforms": []}, [{"id": "context-compression", "enabled": False}]),
        (
            {"transforms": [], "plugins": [{"id": "web"}, {"id": "context-compression"}]},
            [{"id": "web"}, {"id": "context-compression", "enabled": False}],
        ),
    ],
)
def test_transforms_of_openrouter_are_the_plugin_they_became(
    options: dict[str, Any], plugins: list[dict[str, Any]]
) -> None:
    messages = [{"role": "user", "content": "hello"}]
    sent = orjson.loads(encoded("openrouter", JobKind.CHAT, "m", messages=messages, **options).body)

    assert sent["plugins"] == plugins
    assert "transforms" not in sent


@pytest.mark.parametrize(
    "options", [{"transforms": ["other"]}, {"transforms": [], "plugins": 1}, {"site_url": "a\nb"}]
)
def test_options_of_openrouter_that_are_none_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        encoded("openrouter", JobKind.CHAT, "m", messages=[{"role": "user", "content": "hello"}], **options)

    assert refused.value.status == 400
    assert refused.value.param in options


def test_perplexity_is_asked_for_bytes_and_its_vectors_become_numbers() -> None:
    profile = BUILT_IN["perplexity"]
    call = Call(
        b'{"model":"pplx-embed-v1-0.6b","input":["a"],"encoding_format":"float"}',
        Target("perplexity", "pplx-embed-v1-0.6b"),
        profile,
    )
    codec = profile.codec(JobKind.EMBEDDINGS)

    sent = orjson.loads(codec.encode(call).body)
    answer = codec.decode(b'{"data":[{"index":0,"embedding":"QBCA"}],"usage":{"prompt_tokens":1}}', call)

    assert sent["encoding_format"] == "base64_int8"
    assert orjson.loads(answer.body)["data"][0]["embedding"] == [64.0, 16.0, -128.0]
    with pytest.raises(InvalidRequest):
        encoded("perplexity", JobKind.EMBEDDINGS, "m", input=[1, 2])


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, "Incorrect API key provided: xa***."),
        (429, "Your team has either used all available credits or reached its monthly spending limit."),
    ],
)
def test_xais_sentences_about_our_key_are_not_the_callers_mistake(status: int, error: str) -> None:
    body = orjson.dumps({"code": "Some code", "error": error})

    refusal = refusals.from_http(status, {}, body, profile=BUILT_IN["xai"])

    assert type(refusal) is ProviderCredentialRefused
    assert error not in refusal.message
