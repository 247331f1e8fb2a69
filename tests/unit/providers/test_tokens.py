"""How many tokens a request is, and what a call is charged for when its provider did not count."""

from __future__ import annotations

import threading
import tomllib
from pathlib import Path
from typing import Any

import orjson
import pytest

from shared.domain.job import JobKind
from shared.domain.usage import Usage
from shared.providers.tokens import MEDIA_TOKENS, prompt_tokens, text_tokens, tokens_of_body
from shared.providers.tokens_bpe import MAX_EXACT_CHARS, family_of
from tests.integration.queue.support import a_job
from workers.call_provider import CallProgress

GOLDEN = Path(__file__).parents[2] / "golden" / "tokens"
COUNTS = tomllib.loads((GOLDEN / "counts.toml").read_text())
MEGABYTE = "A" * 1_000_000
MEDIA: list[dict[str, Any]] = [
    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{MEGABYTE}"}},
    {"type": "input_audio", "input_audio": {"data": MEGABYTE, "format": "wav"}},
    {"type": "file", "file": {"file_data": MEGABYTE, "filename": "a.pdf"}},
    {"type": "image", "source": {"type": "base64", "data": MEGABYTE}},
    {"type": "input_image", "image_url": f"data:image/png;base64,{MEGABYTE}"},
]
HELLO = "Hello there, world"  # 4 tokens in both vocabularies


def chat(content: Any, **fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": content}], **fields}


def of_chat(content: Any, model: str = "gpt-4o", **fields: Any) -> int:
    return prompt_tokens(JobKind.CHAT, chat(content, **fields), model)


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize(
    ("model", "vocabulary"),
    [
        ("gpt-4o-mini", "o200k_base"),
        ("gpt-4.1-nano", "o200k_base"),
        ("o3-mini", "o200k_base"),
        ("gpt-5", "o200k_base"),
        ("openai/gpt-4o", "o200k_base"),
        ("gpt-4", "cl100k_base"),
        ("gpt-4-turbo", "cl100k_base"),
        ("gpt-3.5-turbo-instruct", "cl100k_base"),
        ("text-embedding-3-small", "cl100k_base"),
    ],
)
def test_openai_s_models_are_counted_as_their_own_tokenizer_does(
    name: str, model: str, vocabulary: str
) -> None:
    text = (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")

    assert text_tokens(text, model) == COUNTS[name][vocabulary]


@pytest.mark.parametrize("name", COUNTS)
def test_text_longer_than_is_counted_exactly_is_still_counted_within_a_tenth(name: str) -> None:
    text = (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")
    times = 3 * MAX_EXACT_CHARS // len(text)

    estimate = text_tokens(text * times, "gpt-4o")

    assert estimate == pytest.approx(COUNTS[name]["o200k_base"] * times, rel=0.1)


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("claude-sonnet-4-5", ("o200k_base", 1.25)),
        ("anthropic/claude-sonnet-4.5", ("o200k_base", 1.25)),
        ("meta/llama-3.3-70b-instruct", ("cl100k_base", 1.0)),
        ("deepseek-ai/DeepSeek-R1", ("o200k_base", 1.1)),
        ("nobody-s-model", ("o200k_base", 1.1)),
        ("", ("o200k_base", 1.1)),
    ],
)
def test_other_families_are_counted_by_a_factor(model: str, family: tuple[str, float]) -> None:
    assert family_of(model) == family
    assert text_tokens(HELLO * 10, model) == round(text_tokens(HELLO * 10, _model_of(family[0])) * family[1])


def _model_of(vocabulary: str) -> str:
    return {"o200k_base": "gpt-4o", "cl100k_base": "gpt-4"}[vocabulary]


def test_every_message_and_name_counts_what_openai_says_it_does() -> None:
    conversation = {
        "messages": [
            {"role": "system", "content": HELLO},
            {"role": "user", "name": "Ann", "content": HELLO},
        ]
    }

    # Each message: 3, its role 1 and its text 4; a name: 1 more and itself 1; the answer: 3.
    assert prompt_tokens(JobKind.CHAT, conversation, "gpt-4o") == 2 * (3 + 1 + 4) + (1 + 1) + 3


@pytest.mark.parametrize("part", MEDIA, ids=lambda part: part["type"])
def test_a_megabyte_of_base64_is_not_charged_as_prompt_text(part: dict[str, Any]) -> None:
    assert of_chat([{"type": "text", "text": HELLO}, part]) == of_chat(HELLO) + MEDIA_TOKENS


def test_messages_text_parts_and_tool_definitions_count_and_nothing_around_them_does() -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]

    assert of_chat(HELLO, temperature=0.5, user="x" * 1_000) == of_chat(HELLO)
    assert of_chat([{"type": "text", "text": HELLO}, {"type": "text", "text": HELLO}]) == of_chat(HELLO) + 4
    assert of_chat(HELLO, tools=tools) - of_chat(HELLO) == text_tokens(orjson.dumps(tools).decode(), "gpt-4o")


def test_what_a_tool_was_called_with_counts() -> None:
    calls = [{"id": "1", "type": "function", "function": {"name": HELLO, "arguments": HELLO}}]
    conversation = {"messages": [{"role": "assistant", "content": None, "tool_calls": calls}]}

    assert prompt_tokens(JobKind.CHAT, conversation, "gpt-4o") == of_chat(HELLO) + 4


def test_the_same_conversation_counts_the_same_in_every_form_it_has() -> None:
    chat_form = {"messages": [{"role": "user", "content": HELLO}]}
    messages_form = {"messages": [{"role": "user", "content": [{"type": "text", "text": HELLO}]}]}
    responses_form = {"input": [{"role": "user", "content": [{"type": "input_text", "text": HELLO}]}]}

    counts = [
        prompt_tokens(JobKind.CHAT, chat_form, "gpt-4o"),
        prompt_tokens(JobKind.MESSAGES, messages_form, "gpt-4o"),
        prompt_tokens(JobKind.COUNT_TOKENS, messages_form, "gpt-4o"),
        prompt_tokens(JobKind.RESPONSES, responses_form, "gpt-4o"),
        prompt_tokens(JobKind.RESPONSES, {"input": HELLO}, "gpt-4o"),
    ]

    assert counts == [4 + 4 + 3] * 5


@pytest.mark.parametrize(
    ("extra", "tokens"),
    [
        ({"system": HELLO}, 4),
        ({"system": [{"type": "text", "text": HELLO}]}, 4),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result", "content": HELLO}]}]}, 0),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "tool_use", "name": HELLO, "input": {"a": 1}}]}
                ]
            },
            text_tokens('{"a":1}', "gpt-4o"),
        ),
        ({"messages": [{"role": "user", "content": [{"type": "thinking", "thinking": HELLO}]}]}, 0),
    ],
)
def test_blocks_of_anthropic_s_form_count(extra: dict[str, Any], tokens: int) -> None:
    assert prompt_tokens(JobKind.MESSAGES, {**chat(HELLO), **extra}, "gpt-4o") == of_chat(HELLO) + tokens


@pytest.mark.parametrize(
    ("kind", "document", "tokens"),
    [
        (JobKind.COMPLETION, {"prompt": HELLO, "suffix": HELLO}, 8),
        (JobKind.COMPLETION, {"prompt": [HELLO, HELLO]}, 8),
        (JobKind.EMBEDDINGS, {"input": [1, 2, 3]}, 3),
        (JobKind.EMBEDDINGS, {"input": [[1, 2], [3]]}, 3),
        (JobKind.EMBEDDINGS, {"input": [HELLO, HELLO, HELLO]}, 12),
        (JobKind.RERANK, {"query": HELLO, "documents": [HELLO, HELLO, HELLO]}, 6 * 4),
        (JobKind.SUMMARIZATION, {"text": HELLO, "max_length": 9}, 4),
    ],
)
def test_each_kind_of_job_counts_what_its_model_reads(
    kind: JobKind, document: dict[str, Any], tokens: int
) -> None:
    assert prompt_tokens(kind, document, "gpt-4o") == tokens


@pytest.mark.parametrize("kind", JobKind)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not JSON",
        b"[1]",
        b"{}",
        b'{"messages":7,"input":{},"prompt":null,"documents":[null],"query":[],"text":1}',
        b'{"messages":[null,{"content":[1,{"type":[]}],"name":"","tool_calls":[{"function":1}]}]}',
    ],
)
def test_no_body_keeps_a_job_from_being_settled(kind: JobKind, body: bytes) -> None:
    assert 0 <= tokens_of_body(kind, body, "gpt-4o") <= 7


def test_half_of_a_surrogate_pair_is_counted_as_what_replaces_it() -> None:
    assert text_tokens("a\ud83d", "gpt-4o") == text_tokens("a?", "gpt-4o")


def test_several_threads_count_the_same() -> None:
    text = (GOLDEN / "german.txt").read_text(encoding="utf-8") * 20
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(text_tokens(text, "gpt-4o"))) for _ in range(4)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert found == [text_tokens(text, "gpt-4o")] * 4


def test_a_body_is_not_parsed_where_the_provider_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*_: object) -> int:
        raise AssertionError("estimated in vain")

    monkeypatch.setattr("workers.call_provider.tokens_of_body", explode)

    assert CallProgress(sent=True, usage=Usage(3, 2)).usage_or_estimate(a_job()) == Usage(3, 2)
    assert CallProgress(sent=False).usage_or_estimate(a_job()) == Usage()
