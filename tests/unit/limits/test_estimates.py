"""What is reserved for a request: never less than a provider may charge, however it is asked."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.job import JobKind, Target
from shared.domain.usage import Usage
from shared.limits.estimates import Estimate, estimate_of
from shared.providers.catalogue import Catalogue
from shared.providers.registry import BUILT_IN
from tests.unit.providers.support import CLAUDE, a_call

CATALOGUE = Catalogue.load()
MINI = Target("openai", "gpt-4o-mini")
INSTRUCT = Target("openai", "gpt-3.5-turbo-instruct")
HELLO: list[dict[str, Any]] = [{"role": "user", "content": "Hello"}]


def of(kind: JobKind, *plan: Target, body_bytes: int = 30, **document: Any) -> Estimate:
    return estimate_of(plan, kind, document, body_bytes, catalogue=CATALOGUE, default_answer=4096)


def answer_of(kind: JobKind, *plan: Target, **document: Any) -> int:
    """Tokens reserved beyond the prompt."""
    return of(kind, *plan, body_bytes=0, **document).tokens - 1


def prompt_of(kind: JobKind, *plan: Target, body_bytes: int = 0, **document: Any) -> int:
    return of(kind, *plan, body_bytes=body_bytes, max_tokens=1, max_output_tokens=1, **document).tokens - 1


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (JobKind.CHAT, {"max_completion_tokens": 1, "max_tokens": 8000}),
        (JobKind.CHAT, {"max_completion_tokens": 8000, "max_tokens": 1}),
        (JobKind.MESSAGES, {"max_tokens": 1, "max_completion_tokens": 8000}),
        (JobKind.COMPLETION, {"max_tokens": 1, "max_completion_tokens": 8000}),
    ],
)
def test_of_two_names_for_a_limit_the_higher_is_reserved(kind: JobKind, names: dict[str, int]) -> None:
    assert answer_of(kind, MINI, **names) == 8000


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (JobKind.CHAT, "max_output_tokens"),
        (JobKind.CHAT, "max_length"),
        (JobKind.COMPLETION, "max_completion_tokens"),
        (JobKind.MESSAGES, "max_output_tokens"),
        (JobKind.RESPONSES, "max_tokens"),
        (JobKind.SUMMARIZATION, "max_length"),
    ],
)
def test_a_name_that_limits_nothing_lowers_nothing(kind: JobKind, name: str) -> None:
    assert answer_of(kind, MINI, **{name: 1}) == 4096


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (JobKind.CHAT, "max_tokens"),
        (JobKind.CHAT, "max_completion_tokens"),
        (JobKind.COMPLETION, "max_tokens"),
        (JobKind.MESSAGES, "max_tokens"),
        (JobKind.RESPONSES, "max_output_tokens"),
    ],
)
def test_what_a_request_asks_for_is_reserved(kind: JobKind, name: str) -> None:
    assert answer_of(kind, MINI, **{name: 50}) == 50
    # More than the model can is not more.
    assert answer_of(kind, MINI, **{name: 50_000}) == 16_384


@pytest.mark.parametrize(
    ("asked", "answers"),
    [
        ({"prompt": "a"}, 1),
        ({"prompt": ["a"] * 400}, 400),
        ({"prompt": [[1, 2], [3]]}, 2),
        ({"prompt": [1, 2, 3]}, 1),
        ({"prompt": "a", "best_of": 20}, 20),
        ({"prompt": ["a", "b"], "n": 2, "best_of": 3}, 6),
        ({"prompt": ["a", "b"], "n": 4, "best_of": 3}, 8),
    ],
)
def test_every_answer_of_a_completion_is_reserved(asked: dict[str, Any], answers: int) -> None:
    reserved = of(JobKind.COMPLETION, INSTRUCT, body_bytes=0, max_tokens=1000, **asked)
    one = of(JobKind.COMPLETION, INSTRUCT, body_bytes=0, max_tokens=1000, prompt="a")

    assert 1000 * answers < reserved.tokens <= 1000 * answers + 4
    assert reserved.micro_usd >= one.micro_usd * answers * 0.99


def test_answers_of_a_chat_are_reserved_each_and_fields_of_other_kinds_multiply_nothing() -> None:
    assert answer_of(JobKind.CHAT, MINI, n=3, max_tokens=10) == 30
    assert answer_of(JobKind.CHAT, MINI, best_of=3, max_tokens=10) == 10
    assert answer_of(JobKind.EMBEDDINGS, MINI, n=3, input="a") == 0


@pytest.mark.parametrize("model", ["claude-sonnet-5", "claude-of-tomorrow"])
def test_without_a_limit_what_anthropic_is_sent_is_reserved(model: str) -> None:
    target, profile = Target("anthropic", model), BUILT_IN["anthropic"]
    body = orjson.dumps({"model": model, "messages": HELLO})
    codec = profile.codec(JobKind.CHAT)
    assert codec is not None
    sent = orjson.loads(codec.encode(a_call(profile, target, body=body)).body)

    assert answer_of(JobKind.CHAT, target, messages=HELLO) == sent["max_tokens"]
    assert answer_of(JobKind.CHAT, MINI, target, messages=HELLO) == max(4096, sent["max_tokens"])


@pytest.mark.parametrize("kind", [JobKind.COMPLETION, JobKind.EMBEDDINGS])
def test_tokens_that_come_as_numbers_count_each(kind: JobKind) -> None:
    name = "prompt" if kind is JobKind.COMPLETION else "input"
    body_bytes = 2 * 900
    for tokens in ([1] * 900, [[1] * 450, [1] * 450]):
        of_tokens = prompt_of(kind, Target("openai", "m"), body_bytes=body_bytes, **{name: tokens})
        assert of_tokens >= 900


MINUTES, HOUR = {"type": "ephemeral"}, {"type": "ephemeral", "ttl": "1h"}
TEXT = {"type": "text", "text": "Hello"}
MARKED = {**TEXT, "cache_control": MINUTES}
PAGES = {"type": "content", "content": [MARKED]}
FUNCTION = {"name": "look", "parameters": {"type": "object", "properties": {"cache_control": MINUTES}}}


def saying(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


SAID = saying(TEXT)


def kept(kind: JobKind, *plan: Target, **document: Any) -> int:
    """Micro-dollars of a prompt of 1,000 tokens and an answer of 10."""
    return of(kind, *plan, body_bytes=2_999, max_tokens=10, max_output_tokens=10, **document).micro_usd


@pytest.mark.parametrize(
    ("kind", "document"),
    [
        (JobKind.MESSAGES, {"messages": [SAID], "cache_control": MINUTES}),
        (JobKind.MESSAGES, {"messages": [SAID], "system": [TEXT, MARKED]}),
        (JobKind.MESSAGES, {"messages": [SAID, saying(MARKED, TEXT)]}),
        (JobKind.MESSAGES, {"messages": [saying({"type": "tool_result", "content": [MARKED]})]}),
        (JobKind.MESSAGES, {"messages": [saying({"type": "document", "source": PAGES})]}),
        (JobKind.MESSAGES, {"messages": [SAID], "tools": [{"name": "look", "cache_control": MINUTES}]}),
        (JobKind.CHAT, {"messages": [{"role": "system", "content": "Be brief.", "cache_control": MINUTES}]}),
        (JobKind.CHAT, {"messages": [saying(MARKED)]}),
        (JobKind.CHAT, {"messages": [SAID], "tools": [{"type": "function", "cache_control": MINUTES}]}),
        (JobKind.CHAT, {"messages": [SAID], "tools": [{"function": {**FUNCTION, "cache_control": MINUTES}}]}),
        (JobKind.RESPONSES, {"input": [saying(MARKED)]}),
    ],
)
def test_a_prompt_that_may_be_kept_is_reserved_at_what_that_costs(
    kind: JobKind, document: dict[str, Any]
) -> None:
    for_an_hour = orjson.loads(orjson.dumps(document).replace(b'"ephemeral"', b'"ephemeral","ttl":"1h"'))

    assert kept(kind, CLAUDE, **document) == kept(kind, MINI, CLAUDE, **document) == 3_750 + 150
    assert kept(kind, CLAUDE, **for_an_hour) == kept(kind, CLAUDE, MINI, **for_an_hour) == 6_000 + 150


@pytest.mark.parametrize(
    "document",
    [
        {"messages": [SAID]},
        {"messages": "cache_control", "system": "cache_control", "tools": None},
        {"messages": [{"role": "user", "content": "cache_control"}], "cache_control": None},
        {"messages": [SAID, None, 7, ["cache_control"]], "metadata": {"cache_control": MINUTES}},
        {"messages": [SAID], "tools": [{"type": "function", "function": FUNCTION}]},
        {"messages": [SAID], "tools": [{"name": "look", "input_schema": FUNCTION["parameters"]}]},
        {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "input": MARKED}]}]},
    ],
)
def test_what_is_no_mark_reserves_no_more(document: dict[str, Any]) -> None:
    assert kept(JobKind.MESSAGES, CLAUDE, **document) == 3_000 + 150


@pytest.mark.parametrize(
    ("mark", "micro_usd"),
    [
        ({}, 3_750),
        ({"ttl": None}, 3_750),
        ({"ttl": "5m"}, 3_750),
        ({"ttl": "1h"}, 6_000),
        ({"ttl": "24h"}, 6_000),
        ({"ttl": []}, 6_000),
    ],
)
def test_a_lifetime_that_is_not_known_may_be_the_longer(mark: Any, micro_usd: int) -> None:
    asked = {"messages": [SAID], "system": [{**TEXT, "cache_control": MINUTES}], "cache_control": mark}

    assert kept(JobKind.MESSAGES, CLAUDE, **asked) == micro_usd + 150


def test_a_mark_costs_nothing_where_keeping_does_not() -> None:
    assert kept(JobKind.CHAT, MINI, cache_control=HOUR) == kept(JobKind.CHAT, MINI)


@given(
    prompt=st.integers(1, 3_000),
    cached=st.integers(0, 3_000),
    written=st.integers(0, 3_000),
    for_an_hour=st.integers(0, 3_000),
    mark=st.sampled_from([MINUTES, HOUR]),
)
def test_what_is_reserved_is_never_below_what_it_costs(
    prompt: int, cached: int, written: int, for_an_hour: int, mark: dict[str, str]
) -> None:
    """Of a prompt not longer than it was taken for, and kept as it asked."""
    usage = Usage(
        prompt,
        10,
        cached,
        cache_write_tokens=written,
        cache_write_1h_tokens=for_an_hour if mark is HOUR else 0,
    )

    reserved = of(JobKind.MESSAGES, CLAUDE, body_bytes=3 * prompt, max_tokens=10, cache_control=mark)
    assert reserved.micro_usd >= CATALOGUE.cost_micro_usd("anthropic", "claude-sonnet-4-5", usage)


CHAT_IMAGE = {"type": "image_url", "image_url": {"url": "https://x/y.png"}}
CHAT_FILE = {"type": "file", "file": {"file_id": "file-1"}}
RESPONSES_FILE = {"type": "input_file", "file_url": "https://x/y.pdf"}
DOCUMENT = {"type": "document", "source": {"type": "url", "url": "https://x/y.pdf"}}
TOOL_ANSWER = {"type": "tool_result", "tool_use_id": "t", "content": [DOCUMENT]}


@pytest.mark.parametrize(
    ("kind", "field", "part"),
    [
        (JobKind.CHAT, "messages", CHAT_FILE),
        (JobKind.CHAT, "messages", {"type": "video_url", "video_url": {"url": "https://x/y.mp4"}}),
        (JobKind.RESPONSES, "input", RESPONSES_FILE),
        (JobKind.MESSAGES, "messages", DOCUMENT),
        (JobKind.MESSAGES, "messages", TOOL_ANSWER),
    ],
)
def test_a_file_that_is_only_named_may_fill_the_context(kind: JobKind, field: str, part: Any) -> None:
    said = [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, part]}]

    assert prompt_of(kind, MINI, body_bytes=300, **{field: said}) == 128_000
    assert prompt_of(kind, Target("openai", "unknown"), body_bytes=300, **{field: said}) == 200_000


@pytest.mark.parametrize(("model", "tokens"), [("gpt-4o-mini", 48_200), ("gpt-4o", 16_384)])
def test_an_image_counts_as_much_as_a_model_makes_of_any(model: str, tokens: int) -> None:
    said = [{"role": "user", "content": [CHAT_IMAGE] * 2}]
    target = Target("openai", model)

    assert prompt_of(JobKind.CHAT, target, body_bytes=300, messages=said) == 101 + 2 * tokens
    many = [{"role": "user", "content": [CHAT_IMAGE] * 200}]
    assert prompt_of(JobKind.CHAT, target, body_bytes=300, messages=many) == 128_000


def test_text_is_its_bytes_also_in_parts_and_in_documents_of_text() -> None:
    text = {"type": "document", "source": {"type": "text", "data": "Hello", "media_type": "text/plain"}}
    said = [{"role": "user", "content": [{"type": "text", "text": "Hello"}, text]}]

    assert prompt_of(JobKind.MESSAGES, CLAUDE, body_bytes=300, messages=said) == 101
    assert prompt_of(JobKind.CHAT, MINI, body_bytes=300, messages=HELLO) == 101
