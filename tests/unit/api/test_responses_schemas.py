"""What passes the check of a Responses request, and what does not."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.domain.job import JobKind, Target
from shared.errors import InvalidRequest
from shared.ids import new_job_id
from shared.providers import anthropic, openai, vllm
from shared.providers.dialect import Call
from shared.providers.translation.responses_object import response_object
from shared.requests.responses import check_response_request

Fields = dict[str, Any]
TEXT = {"type": "input_text", "text": "x"}
PROFILES = (openai.PROFILE, anthropic.PROFILE, vllm.PROFILE.with_base_url("http://gpu.example/v1"))


def document(**fields: Any) -> Fields:
    return {"model": "m", "input": "Hello", **fields}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"input": [{"role": "user", "content": "Hello"}]},
        {"input": [{"type": "message", "role": "developer", "content": [TEXT]}]},
        {"input": [{"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"}]},
        {"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "", "id": "fc_1"}]},
        {"input": [{"type": "function_call_output", "call_id": "c", "output": []}]},
        {"input": [{"type": "web_search_call", "id": "ws_1"}]},
        {"tools": [{"type": "web_search"}], "tool_choice": {"type": "web_search"}},
        {"text": None, "reasoning": None, "tools": None, "metadata": None, "store": None, "stream": None},
        {"frobnicate": {"deep": [1]}},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_of_this_form_or_unknown_passes(fields: Fields) -> None:
    check_response_request(document(**fields))


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"model": ""}, "model"),
        ({"input": [7]}, "input[0]"),
        ({"input": [{"type": 7}]}, "input[0]"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": [{}]}]}, "input[0].content[0].type"),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "input[0].call_id"),
        ({"input": [{"type": "reasoning", "summary": "x"}]}, "input[0].summary"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"tools": [{}]}, "tools[0].type"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"truncation": "some"}, "truncation"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"include": "all"}, "include"),
        ({"previous_response_id": 7}, "previous_response_id"),
        ({"stream": "yes"}, "stream"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_of_this_form_is_named(fields: Fields, path: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_response_request(document(**fields))

    assert caught.value.status == 422
    assert caught.value.param is not None
    assert caught.value.param.startswith(path)


leaves = st.none() | st.booleans() | st.integers(-2, 30) | st.text(max_size=3)
odd = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


def mostly(usual: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """One value in twenty is an odd one: a document has many, and is refused for the first."""
    return st.sampled_from([usual] * 19 + [odd]).flatmap(lambda chosen: chosen)


def some(**optional: st.SearchStrategy[Any]) -> st.SearchStrategy[Fields]:
    return st.fixed_dictionaries({}, optional={name: mostly(usual) for name, usual in optional.items()})


def one_of_kinds(**kinds: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Fields]:
    """Objects with their `type` and all of its fields."""
    return st.one_of(
        *(
            st.fixed_dictionaries({"type": st.just(kind), **{k: mostly(v) for k, v in fields.items()}})
            for kind, fields in kinds.items()
        )
    )


words = st.text(max_size=4)
parts = one_of_kinds(
    input_text={"text": words},
    output_text={"text": words},
    refusal={"refusal": words},
    input_image={"image_url": st.just("https://a.example/b.png")},
    input_file={"file_data": st.just("data:application/pdf;base64,aa")},
    input_audio={"input_audio": st.just({"data": "aa", "format": "wav"})},
    hologram={},
)
contents = words | st.lists(parts, max_size=2)
names, call_ids = st.just("f"), st.just("c")
items = one_of_kinds(
    message={"role": st.sampled_from(["user", "assistant", "system", "developer"]), "content": contents},
    function_call={"call_id": call_ids, "name": names, "arguments": st.just("{}")},
    function_call_output={"call_id": call_ids, "output": contents},
    reasoning={"summary": st.lists(parts, max_size=2)},
    item_reference={"id": words},
)
tools = one_of_kinds(function={"name": names, "parameters": st.just({"type": "object"})}, web_search={})
bodies = st.fixed_dictionaries(
    {"model": st.just("m"), "input": mostly(st.lists(items, min_size=1, max_size=3) | words)},
    optional={
        name: mostly(usual)
        for name, usual in {
            "tools": st.lists(tools, max_size=2),
            "tool_choice": st.sampled_from(["auto", "none", "required"])
            | one_of_kinds(
                function={"name": names},
                allowed_tools={"mode": st.just("auto"), "tools": st.lists(tools, max_size=2)},
            ),
            "text": some(
                format=one_of_kinds(
                    json_schema={"name": names, "schema": st.just({})}, json_object={}, text={}
                )
            ),
            "reasoning": some(effort=st.just("low"), mode=words),
            "include": st.lists(words, max_size=2),
            "top_logprobs": st.integers(0, 3),
            "metadata": st.dictionaries(words, words),
            "instructions": words,
            "prompt": odd,
            "conversation": odd,
        }.items()
    },
)


def refusal_of(what: Callable[[], object]) -> InvalidRequest | None:
    try:
        what()
    except InvalidRequest as refusal:
        return refusal
    return None


@settings(max_examples=300, deadline=None)
@given(bodies)
def test_what_passes_is_translated_or_refused_by_name_and_can_be_told_again(body: Fields) -> None:
    if (refusal := refusal_of(lambda: check_response_request(body))) is not None:
        assert refusal.status == 422
        return

    for profile in PROFILES:
        call = Call(orjson.dumps(body), Target(profile.id, "m"), profile)
        refusal = refusal_of(partial(profile.codec(JobKind.RESPONSES).encode, call))
        assert refusal is None or (refusal.status == 400 and refusal.param)
    told = response_object(body, job_id=new_job_id(), model="m", status="completed")
    assert orjson.loads(orjson.dumps(told)) == told
