"""A request said in the other form and back loses nothing that both forms can say.

Compared after what one form cannot tell apart is written in one way:

    system         one text, its pieces joined by line breaks; it stands first
    turns          of one role in a row are one turn
    texts          of one user turn without media, or of one result: joined by line breaks
                   of one assistant turn: joined; they stand before its calls
    arguments      compared as values
    defaults       tool_choice auto and parallel calls are not said; `stop` is a list
    names          of a response format and of the limit of tokens: the one that comes back
"""

from __future__ import annotations

from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.job import JobKind, Target
from tests.unit.providers.support import ANTHROPIC, OPENAI, a_call

CLAUDE = Target("anthropic", "claude-opus-5")
O3 = Target("openai", "o3")
Fields = dict[str, Any]


def as_messages(chat: Fields) -> Fields:
    call = a_call(ANTHROPIC, CLAUDE, body=orjson.dumps(chat))
    said: Fields = orjson.loads(ANTHROPIC.codec(JobKind.CHAT).encode(call).body)
    return said


def as_chat(messages: Fields) -> Fields:
    call = a_call(OPENAI, O3, body=orjson.dumps(messages))
    said: Fields = orjson.loads(OPENAI.codec(JobKind.MESSAGES).encode(call).body)
    return said


texts = st.text(min_size=1, max_size=12)
identities = st.text("abcXYZ019_-", min_size=1, max_size=8)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=5,
)
inputs = st.dictionaries(texts, json_values, max_size=2)
media_types = st.sampled_from(["image/png", "image/jpeg", "image/gif", "image/webp"])
data = st.sampled_from(["AAAA", "/9j/4AAQ", "R3LDvMOfZQ=="])
links = st.sampled_from(["https://images.example/a.png", "https://images.example/b?c=d#e"])
schemas = st.fixed_dictionaries(
    {"type": st.just("object"), "properties": st.dictionaries(texts, st.just({"type": "string"}), max_size=2)}
)
options = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.floats(0, 1),
        "top_p": st.floats(0, 1),
        "user": identities,
        "reasoning_effort": st.sampled_from(["low", "medium", "high", "xhigh", "max"]),
        "stop": st.sampled_from(["END", ["a", "b"]]),
        "service_tier": st.just("default"),
        "schema": schemas,
        "limit": st.integers(1, 9_000),
    },
)
calls = st.lists(st.tuples(identities, identities, inputs), min_size=1, max_size=3)

# ---- chat, to messages and back

text_parts = st.builds(lambda text: {"type": "text", "text": text}, texts)
image_parts = st.builds(
    lambda url: {"type": "image_url", "image_url": {"url": url}},
    links | st.builds("data:{};base64,{}".format, media_types, data),
)
file_parts = st.builds(
    lambda name, data: {
        "type": "file",
        "file": {"filename": name, "file_data": f"data:application/pdf;base64,{data}"},
    },
    texts,
    data,
)
users = st.builds(
    lambda content: [{"role": "user", "content": content}],
    texts | st.lists(text_parts | image_parts | file_parts, min_size=1, max_size=4),
)
sayings = st.builds(lambda text: [{"role": "assistant", "content": text}], texts)
late_systems = st.builds(lambda text: [{"role": "developer", "content": text}], texts)


@st.composite
def rounds_of_tools(draw: st.DrawFn) -> list[Fields]:
    """An assistant that calls tools, in parallel too, and what each of them gave."""
    made = draw(calls)
    asked = [
        {
            "id": identity,
            "type": "function",
            "function": {"name": name, "arguments": orjson.dumps(given).decode()},
        }
        for identity, name, given in made
    ]
    content = draw(texts | st.lists(text_parts, min_size=1, max_size=2) | st.none())
    results = [
        {
            "role": "tool",
            "tool_call_id": identity,
            "content": draw(texts | st.lists(text_parts, min_size=1, max_size=2)),
        }
        for identity, _, _ in made
    ]
    return [{"role": "assistant", "content": content, "tool_calls": asked}, *results]


@st.composite
def chats(draw: st.DrawFn) -> Fields:
    pieces = draw(st.lists(users | sayings | rounds_of_tools() | late_systems, max_size=6))
    messages = [*draw(users), *(message for piece in pieces for message in piece), *draw(users)]
    given = draw(options)
    request: Fields = {"model": "gpt-4o", "messages": messages}
    schema, limit = given.pop("schema", None), given.pop("limit", None)
    if schema is not None:
        format_ = {"name": "x", "strict": True, "schema": schema}
        request["response_format"] = {"type": "json_schema", "json_schema": format_}
    if limit is not None:
        request[draw(st.sampled_from(["max_tokens", "max_completion_tokens"]))] = limit
    if draw(st.booleans()):
        function = {"name": "look", "description": "Looks.", "parameters": draw(schemas), "strict": True}
        request["tools"] = [{"type": "function", "function": function}]
        named = {"type": "function", "function": {"name": "look"}}
        request["tool_choice"] = draw(st.sampled_from(["auto", "none", "required", named]))
        if request["tool_choice"] != "none":
            request["parallel_tool_calls"] = draw(st.booleans())
    return request | given


def told_once(content: Any) -> Any:
    """Content of a user or a tool: a string where there is only text."""
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if all(part["type"] == "text" for part in parts):
        return "\n".join(part["text"] for part in parts)
    return parts


def as_parts(content: Any) -> list[Fields]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content or ())


def normal_chat(request: Fields) -> Fields:
    system = [m["content"] for m in request["messages"] if m["role"] in {"system", "developer"}]
    merged: list[Fields] = []
    for message in request["messages"]:
        role = message["role"]
        if role in {"system", "developer"}:
            continue
        turn = {"role": role, "content": as_parts(message["content"])}
        if role == "tool":
            turn["tool_call_id"] = message["tool_call_id"]
        turn["calls"] = [
            (each["id"], each["function"]["name"], orjson.loads(each["function"]["arguments"]))
            for each in message.get("tool_calls") or ()
        ]
        if merged and merged[-1]["role"] == role != "tool":
            merged[-1]["content"] += turn["content"]
            merged[-1]["calls"] += turn["calls"]
        else:
            merged.append(turn)
    for turn in merged:
        if turn["role"] == "assistant":
            turn["content"] = "".join(part["text"] for part in turn["content"])
        else:
            turn["content"] = told_once(turn["content"])
    said = {name: value for name, value in request.items() if name not in {"model", "messages"}}
    said["max_completion_tokens"] = said.pop("max_completion_tokens", None) or said.pop("max_tokens", None)
    if isinstance(said.get("stop"), str):
        said["stop"] = [said["stop"]]
    if said.get("tool_choice") == "auto":
        del said["tool_choice"]
    if said.get("parallel_tool_calls") is True:
        del said["parallel_tool_calls"]
    if "response_format" in said:
        said["response_format"] = said["response_format"]["json_schema"]["schema"]
    return {"system": "\n".join(system), "turns": merged, **said}


@given(chat=chats())
def test_a_chat_said_as_messages_and_back_is_the_same_chat(chat: Fields) -> None:
    back = as_chat(as_messages(chat))

    expected, found = normal_chat(chat), normal_chat(back)
    if expected["max_completion_tokens"] is None:
        # Anthropic insists on a limit, so one is made up.
        del expected["max_completion_tokens"], found["max_completion_tokens"]
    assert found == expected


# ---- messages, to chat and back

blocks_of_text = st.builds(lambda text: {"type": "text", "text": text}, texts)
sources = st.builds(
    lambda kind, data: {"type": "base64", "media_type": kind, "data": data}, media_types, data
) | st.builds(lambda url: {"type": "url", "url": url}, links)
images = st.builds(lambda source: {"type": "image", "source": source}, sources)
documents = st.builds(
    lambda title, data: {
        "type": "document",
        "title": title,
        "source": {"type": "base64", "media_type": "application/pdf", "data": data},
    },
    texts,
    data,
)
user_blocks = st.lists(blocks_of_text | images | documents, min_size=1, max_size=4)


@st.composite
def pairs_of_turns(draw: st.DrawFn) -> list[Fields]:
    """An assistant's turn, and the user's that answers it."""
    made = draw(st.just([]) | calls)
    uses = [{"type": "tool_use", "id": i, "name": name, "input": given} for i, name, given in made]
    said = draw(st.lists(blocks_of_text, min_size=0 if uses else 1, max_size=2))
    results = [
        {
            "type": "tool_result",
            "tool_use_id": identity,
            "content": draw(texts | st.lists(blocks_of_text, min_size=1, max_size=2)),
        }
        for identity, _, _ in made
    ]
    answer = draw(user_blocks) if not results or draw(st.booleans()) else []
    return [
        {"role": "assistant", "content": [*said, *uses]},
        {"role": "user", "content": [*results, *answer]},
    ]


@st.composite
def message_requests(draw: st.DrawFn) -> Fields:
    pairs = draw(st.lists(pairs_of_turns(), max_size=3))
    first = {"role": "user", "content": draw(texts | user_blocks)}
    request: Fields = {
        "model": "claude-opus-5",
        "max_tokens": draw(st.integers(1, 9_000)),
        "messages": [first, *(turn for pair in pairs for turn in pair)],
    }
    if draw(st.booleans()):
        request["system"] = draw(texts | st.lists(blocks_of_text, min_size=1, max_size=2))
    if draw(st.booleans()):
        tool = {"name": "look", "description": "Looks.", "input_schema": draw(schemas), "strict": True}
        request["tools"] = [tool]
        request["tool_choice"] = draw(
            st.sampled_from(
                [
                    {"type": "auto"},
                    {"type": "none"},
                    {"type": "any", "disable_parallel_tool_use": True},
                    {"type": "tool", "name": "look"},
                ]
            )
        )
    config = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "effort": st.sampled_from(["low", "medium", "high", "xhigh", "max"]),
                "format": st.builds(lambda schema: {"type": "json_schema", "schema": schema}, schemas),
            },
        )
    )
    if config:
        request["output_config"] = config
    if draw(st.booleans()):
        request["metadata"] = {"user_id": draw(identities)}
    if draw(st.booleans()):
        request["stop_sequences"] = ["END", "a"]
    return request


def joined(blocks: list[Fields], between: str) -> list[Fields]:
    """Blocks that are all text as one."""
    if len(blocks) < 2 or not all(block["type"] == "text" for block in blocks):
        return blocks
    return [{"type": "text", "text": between.join(block["text"] for block in blocks)}]


def normal_messages(request: Fields) -> Fields:
    turns = []
    for turn in request["messages"]:
        results = [
            {**block, "content": joined(as_parts(block["content"]), "\n")}
            for block in as_parts(turn["content"])
            if block["type"] == "tool_result"
        ]
        uses = [block for block in as_parts(turn["content"]) if block["type"] == "tool_use"]
        rest = [b for b in as_parts(turn["content"]) if b["type"] not in {"tool_result", "tool_use"}]
        between = "" if turn["role"] == "assistant" else "\n"
        turns.append((turn["role"], [*results, *joined(rest, between), *uses]))
    said = {name: value for name, value in request.items() if name not in {"model", "messages"}}
    said["system"] = joined(as_parts(said.get("system", "")), "\n") if said.get("system") else []
    if said.get("tool_choice") == {"type": "auto"}:
        del said["tool_choice"]
    return {"turns": turns, **said}


@given(request=message_requests())
def test_messages_said_as_a_chat_and_back_are_the_same_messages(request: Fields) -> None:
    back = as_messages(as_chat(request))

    assert normal_messages(back) == normal_messages(request)
