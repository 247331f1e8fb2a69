"""A Responses request as a chat request.

Kept here and not sent: `store`, `metadata`, `background` and `previous_response_id`, which are about
what we keep; `max_tool_calls`, which counts the tools of OpenAI's own that no request here can have;
`truncation`, since nobody cuts an input short. A field this form does not know goes on as it is.
Source: openai-python 3.52, types/responses/response_create_params.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from shared.providers.dialect import Call
from shared.providers.dialects.openai_chat import parse_request
from shared.providers.not_carried_over import not_carried_over
from shared.providers.translation.earlier_reasoning import reads_reasoning
from shared.providers.translation.responses_input import to_messages

Fields = dict[str, Any]

_NO_WORD: Final[Mapping[str, str]] = {
    "conversation": "conversations are not kept here: use previous_response_id.",
    "prompt": "prompts are not kept here: send instructions and input.",
    "context_management": "contexts are not compacted here.",
    "moderation": "nothing is moderated here.",
    "access_programs": "there are no such programs here.",
}
_CHAT_NAMES: Final[Mapping[str, str]] = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
    "verbosity": "text.verbosity",
    "logprobs": "include",
}
"""Parameter of a chat request -> where a Responses request has it."""
_CHAT_ONLY: Final = frozenset({"n", "audio", "modalities", "functions", "function_call"})
_KEPT: Final = frozenset(
    {
        "background",
        "image",
        "include",
        "input",
        "instructions",
        "max_output_tokens",
        "max_tool_calls",
        "metadata",
        "model",
        "parallel_tool_calls",
        "previous_response_id",
        "reasoning",
        "store",
        "stream",
        "stream_options",
        "text",
        "tool_choice",
        "tools",
        "top_logprobs",
        "truncation",
    }
)
"""Fields that do not go on under their own name and value."""

_LOGPROBS: Final = "message.output_text.logprobs"
_INCLUDED: Final = frozenset({_LOGPROBS, "message.input_image.image_url"})
"""What `include` can ask for: the second is always there."""
_ROOT: Final = re.compile(r"[.\[]")
_TOOL_HINTS: Final = frozenset({"allowed_callers", "output_schema"})


def to_chat(call: Call) -> Fields:
    """Raises InvalidRequest (400) that names what chat has no word for."""
    request = {name: value for name, value in parse_request(call.body).items() if value is not None}
    for name, reason in _NO_WORD.items():
        if request.get(name):
            raise not_carried_over(name, reason)
    for name in (_CHAT_NAMES.keys() | _CHAT_ONLY) & request.keys():
        instead = f": it is {_CHAT_NAMES[name]}." if name in _CHAT_NAMES else "."
        raise not_carried_over(name, f"this form has no such parameter{instead}")
    chat: Fields = {name: value for name, value in request.items() if name not in _KEPT}
    chat["messages"] = to_messages(
        request.get("instructions"),
        request.get("input"),
        with_reasoning=reads_reasoning(call.profile),
    )
    if "max_output_tokens" in request:
        chat["max_completion_tokens"] = request["max_output_tokens"]
    return chat | _tools(request) | _text(request) | _reasoning(request) | _logprobs(request)


def in_this_form(param: str, request: Mapping[str, Any]) -> str:
    """A parameter that a chat codec complained about, as the caller wrote it."""
    if _ROOT.split(param)[0] in request:
        return param.replace("].function", "]")
    if param.startswith("messages"):
        return "input"
    if param == "logprobs" and not request.get("include"):
        return "top_logprobs"
    return _CHAT_NAMES.get(param, param)


def _tools(request: Fields) -> Fields:
    tools = request.get("tools") or []
    choice = request.get("tool_choice")
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        tools, choice = _allowed(choice, tools)
    fields: Fields = {}
    if tools:
        fields["tools"] = [_tool(tool, f"tools[{index}]") for index, tool in enumerate(tools)]
        if "parallel_tool_calls" in request:
            fields["parallel_tool_calls"] = request["parallel_tool_calls"]
    if isinstance(choice, dict):
        if choice.get("type") != "function" or not isinstance(choice.get("name"), str):
            raise not_carried_over("tool_choice", "must be a mode, a named function or allowed_tools.")
        choice = {"type": "function", "function": {"name": choice["name"]}}
    # Without tools there is nothing to choose, and OpenAI's chat refuses to be told so.
    if choice is not None and (tools or choice not in ("auto", "none")):
        fields["tool_choice"] = choice
    return fields


def _allowed(choice: Fields, tools: list[Fields]) -> tuple[list[Fields], Any]:
    """Only the tools that may be called: the model is not told of the others."""
    names = [tool.get("name") for tool in choice.get("tools") or () if isinstance(tool, dict)]
    known = [tool.get("name") for tool in tools]
    if not names or not all(name in known for name in names):
        raise not_carried_over("tool_choice", "allows a function that is not among the tools.")
    return [tool for tool in tools if tool.get("name") in names], choice.get("mode") or "auto"


def _tool(tool: Fields, where: str) -> Fields:
    if tool.get("type") != "function":
        raise not_carried_over(where, f"a tool of type {tool.get('type')!r} cannot be carried over.")
    for name in ("async", "defer_loading"):
        if tool.get(name):
            raise not_carried_over(f"{where}.{name}", "functions are called at once or not at all.")
    function = {
        name: tool[name]
        for name in ("name", "description", "parameters", "strict")
        if tool.get(name) is not None
    }
    translated = {k: v for k, v in tool.items() if k not in _TOOL_FIELDS}
    return {**translated, "type": "function", "function": function}


_TOOL_FIELDS: Final = _TOOL_HINTS | {"name", "description", "parameters", "strict", "async", "defer_loading"}


def _text(request: Fields) -> Fields:
    text = request.get("text") or {}
    fields: Fields = {}
    form = text.get("format") or {"type": "text"}
    kind = form.get("type")
    if kind == "json_schema":
        schema = {k: v for k, v in form.items() if k != "type" and v is not None}
        fields["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif kind == "json_object":
        fields["response_format"] = {"type": "json_object"}
    elif kind != "text":
        raise not_carried_over("text.format", f"a format of type {kind!r} cannot be carried over.")
    if text.get("verbosity") is not None:
        fields["verbosity"] = text["verbosity"]
    return fields


def _reasoning(request: Fields) -> Fields:
    reasoning = request.get("reasoning") or {}
    # `summary` asks to hear of the reasoning: what a provider says of it comes back in any case.
    if reasoning.get("mode") not in (None, "standard"):
        raise not_carried_over("reasoning.mode", "there is no other mode than standard.")
    return {} if reasoning.get("effort") is None else {"reasoning_effort": reasoning["effort"]}


def _logprobs(request: Fields) -> Fields:
    include = request.get("include") or []
    for wanted in include:
        if wanted not in _INCLUDED:
            raise not_carried_over("include", f"{wanted!r} is nothing that can be included.")
    top = request.get("top_logprobs") or 0
    fields: Fields = {"logprobs": True} if top or _LOGPROBS in include else {}
    return {**fields, "top_logprobs": top} if top else fields
