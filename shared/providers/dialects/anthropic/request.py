"""An OpenAI chat request as an Anthropic Messages request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson

from shared.errors import InvalidJson
from shared.providers.catalogue import Catalogue, load_catalogue
from shared.providers.dialects.anthropic.content import (
    Block,
    text_blocks,
    thinking_blocks,
    tool_result,
    tool_use,
    user_blocks,
    with_cache_control,
)
from shared.providers.dialects.anthropic.wanted_api import take_headers
from shared.providers.not_carried_over import not_carried_over, says_something
from shared.providers.profile import Capability, ProviderProfile

DEFAULT_MAX_TOKENS: Final = 4096
"""For models the catalogue does not know: Anthropic wants a number, and every Claude has this much."""

_HINTS: Final = frozenset(
    {
        "metadata",
        "moderation",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "seed",
        "store",
        "stream_options",
        "verbosity",
    }
)
"""Left out: they ask for bookkeeping, speed or a best effort, and the answer means the same without them."""

_is_off: Callable[[Any], bool] = lambda value: not value  # noqa: E731 - typed, in one line
_NEUTRAL: Final[Mapping[str, Callable[[Any], bool]]] = {
    "n": lambda value: value == 1,
    "audio": _is_off,
    "frequency_penalty": _is_off,
    "function_call": _is_off,
    "functions": _is_off,
    "logit_bias": _is_off,
    "logprobs": _is_off,
    "modalities": lambda value: value == ["text"],
    "presence_penalty": _is_off,
    "top_logprobs": _is_off,
    "web_search_options": lambda _: False,
}
"""Parameters without a counterpart, and the value with which each changes nothing."""

_SERVICE_TIERS: Final = {"auto": "auto", "default": "standard_only", "standard_only": "standard_only"}
_EFFORTS: Final = {
    "none": "low",
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "xhigh",
    "max": "max",
}

Fields = dict[str, Any]


def encode_request(
    body: bytes, *, model: str, profile: ProviderProfile, stream: bool
) -> tuple[bytes, dict[str, str]]:
    """The Messages body and the headers it asks for. Raises InvalidRequest with status 400."""
    try:
        request = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise InvalidJson("The request body is not JSON.") from exc
    if type(request) is not dict:
        raise InvalidJson("The request body is not a JSON object.")
    for name in profile.refuses:
        if says_something(request, name):
            raise not_carried_over(name, f"{profile.name} has no such parameter.")
    for name in profile.drops:
        request.pop(name, None)
    for name in [name for name, value in request.items() if value is None]:
        del request[name]

    headers = take_headers(request)
    metadata = _metadata(request)
    _refuse_the_untranslatable(request)
    system, messages = _conversation(request.pop("messages", None))
    payload: Fields = {"model": model, "max_tokens": _max_tokens(request, model), "messages": messages}
    if system:
        payload["system"] = system
    if metadata:
        payload["metadata"] = metadata
    payload |= _sampling(request) | _tools(request) | _output_config(request, model)
    if stream:
        payload["stream"] = True

    known = _HINTS | _NEUTRAL.keys() | {"model", "stream"}
    for name, value in request.items():
        if name not in known:
            payload[profile.renames.get(name, name)] = value
    return orjson.dumps(payload), headers


def _metadata(request: Fields) -> Fields:
    """Who the end user is. The other pairs of OpenAI's `metadata` are refused by Anthropic."""
    own = request.get("metadata")
    user = request.pop("user", None)
    user = request.pop("safety_identifier", None) or user
    user = (own.get("user_id") if isinstance(own, dict) else None) or user
    return {"user_id": user} if isinstance(user, str) and user else {}


def _refuse_the_untranslatable(request: Fields) -> None:
    for name, is_neutral in _NEUTRAL.items():
        if name in request and not is_neutral(request[name]):
            raise not_carried_over(name, "this provider has no such parameter.")


def _conversation(messages: object) -> tuple[list[Block], list[Fields]]:
    """The system prompt, and turns that alternate between user and assistant."""
    if not isinstance(messages, list):
        raise not_carried_over("messages", "must be a list.")
    system: list[Block] = []
    turns: list[Fields] = []
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if not isinstance(message, dict):
            raise not_carried_over(where, "must be an object.")
        role = message.get("role")
        if role in {"system", "developer"}:
            system += _marked(text_blocks(message.get("content"), f"{where}.content"), message)
        elif role == "user":
            blocks = user_blocks(message.get("content"), f"{where}.content")
            _add(turns, "user", _marked(blocks, message))
        elif role == "tool":
            _add(turns, "user", [tool_result(message, where)])
        elif role == "assistant":
            _add(turns, "assistant", _marked(_assistant_blocks(message, where), message))
        else:
            raise not_carried_over(f"{where}.role", f"this provider knows no role {role!r}.")
    if not turns:
        raise not_carried_over("messages", "this provider needs a user message that is not empty.")
    _trim_prefill(turns[-1])
    return system, turns


def _marked(blocks: list[Block], message: Fields) -> list[Block]:
    """The mark of a whole message stands on its last block."""
    if blocks:
        with_cache_control(blocks[-1], message)
    return blocks


def _add(turns: list[Fields], role: str, blocks: list[Block]) -> None:
    if not blocks:
        return
    if turns and turns[-1]["role"] == role:
        turns[-1]["content"] += blocks
    else:
        turns.append({"role": role, "content": blocks})


def _assistant_blocks(message: Fields, where: str) -> list[Block]:
    for unknown in ("audio", "function_call"):
        if message.get(unknown) is not None:
            raise not_carried_over(f"{where}.{unknown}", "cannot be carried over to this provider.")
    blocks = text_blocks(message.get("content"), f"{where}.content")
    if not blocks:
        blocks = text_blocks(message.get("refusal"), f"{where}.refusal")
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list):
        raise not_carried_over(f"{where}.tool_calls", "must be a list.")
    uses = [tool_use(call, f"{where}.tool_calls[{index}]") for index, call in enumerate(calls)]
    return [*thinking_blocks(message, where), *blocks, *uses]


def _trim_prefill(turn: Fields) -> None:
    """A last assistant turn is continued, and must not end in white space."""
    last = turn["content"][-1]
    if turn["role"] == "assistant" and last["type"] == "text":
        last["text"] = last["text"].rstrip() or last["text"]


def default_max_tokens(model: str, catalogue: Catalogue) -> int:
    """What is asked for where a request does not say: Anthropic wants a limit."""
    known = catalogue.find(model)
    return known.max_output_tokens if known and known.provider == "anthropic" else DEFAULT_MAX_TOKENS


def _max_tokens(request: Fields, model: str) -> int:
    older = request.pop("max_tokens", None)
    wanted = request.pop("max_completion_tokens", None)
    limit = wanted if wanted is not None else older
    if limit is None:
        return default_max_tokens(model, load_catalogue())
    if type(limit) is not int:
        raise not_carried_over(
            "max_completion_tokens" if wanted is not None else "max_tokens", "must be an integer."
        )
    return limit


def _sampling(request: Fields) -> Fields:
    fields: Fields = {}
    if (temperature := request.pop("temperature", None)) is not None:
        if type(temperature) not in {int, float}:
            raise not_carried_over("temperature", "must be a number.")
        # OpenAI goes to 2, Anthropic to 1.
        fields["temperature"] = min(max(temperature, 0), 1)
    if (stop := request.pop("stop", None)) is not None:
        sequences = [stop] if isinstance(stop, str) else stop
        if not isinstance(sequences, list) or not all(
            isinstance(sequence, str) and sequence.strip() for sequence in sequences
        ):
            raise not_carried_over("stop", "this provider wants text with more than white space.")
        if sequences:
            fields["stop_sequences"] = sequences
    if (tier := request.pop("service_tier", None)) is not None:
        if tier not in _SERVICE_TIERS:
            raise not_carried_over("service_tier", f"this provider has no tier {tier!r}.")
        fields["service_tier"] = _SERVICE_TIERS[tier]
    return fields


def _tools(request: Fields) -> Fields:
    tools = request.pop("tools", None)
    choice = request.pop("tool_choice", None)
    parallel = request.pop("parallel_tool_calls", None)
    if not tools:
        if choice not in (None, "auto", "none"):
            raise not_carried_over("tool_choice", "needs tools.")
        return {}
    if not isinstance(tools, list):
        raise not_carried_over("tools", "must be a list.")
    fields: Fields = {"tools": [_tool(tool, f"tools[{index}]") for index, tool in enumerate(tools)]}
    translated = _tool_choice(choice)
    if parallel is False and translated.get("type") != "none":
        translated = {"type": "auto", **translated, "disable_parallel_tool_use": True}
    if translated:
        fields["tool_choice"] = translated
    return fields


def _tool(tool: object, where: str) -> Fields:
    if not isinstance(tool, dict):
        raise not_carried_over(where, "must be an object.")
    kind = tool.get("type")
    if kind != "function":
        if kind == "custom" and "input_schema" not in tool:
            raise not_carried_over(where, "this provider has no tools with free text input.")
        # Anthropic's own tools, such as web_search_20250305.
        return tool
    function = tool.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise not_carried_over(f"{where}.function", "must be an object with a name.")
    translated: Fields = {
        "name": function["name"],
        "input_schema": _object_schema(function.get("parameters"), f"{where}.function.parameters"),
    }
    if function.get("description"):
        translated["description"] = function["description"]
    if function.get("strict"):
        translated["strict"] = True
    cache_control = tool.get("cache_control") or function.get("cache_control")
    if cache_control:
        translated["cache_control"] = cache_control
    return translated


def _object_schema(schema: object, where: str) -> Fields:
    if schema is None:
        return {"type": "object", "properties": {}}
    if not isinstance(schema, dict):
        raise not_carried_over(where, "must be a JSON Schema object.")
    # OpenAI takes {}; Anthropic insists on the type.
    return {"type": "object", **schema}


def _tool_choice(choice: object) -> Fields:
    if choice is None:
        return {}
    if choice == "required":
        return {"type": "any"}
    if choice in {"auto", "none"} if isinstance(choice, str) else False:
        return {"type": choice}
    function = choice.get("function") if isinstance(choice, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str):
        raise not_carried_over("tool_choice", "must be none, auto, required or a named function.")
    return {"type": "tool", "name": name}


def _output_config(request: Fields, model: str) -> Fields:
    """`response_format` and `reasoning_effort`, beside what the caller put there natively."""
    config = request.pop("output_config", None)
    fields: Fields = dict(config) if isinstance(config, dict) else {}
    if (effort := request.pop("reasoning_effort", None)) is not None:
        if effort not in _EFFORTS:
            raise not_carried_over("reasoning_effort", f"this provider knows no effort {effort!r}.")
        known = load_catalogue().find(model)
        # Models before 4.5, and Haiku 4.5, answer 400 to any effort.
        if known is not None and Capability.EFFORT in known.capabilities:
            fields.setdefault("effort", _EFFORTS[effort])
    if (output := _output_format(request.pop("response_format", None))) is not None:
        fields["format"] = output
    return {"output_config": fields} if fields else {}


def _output_format(response_format: object) -> Fields | None:
    if response_format is None:
        return None
    kind = response_format.get("type") if isinstance(response_format, dict) else None
    if kind == "text":
        return None
    json_schema = response_format.get("json_schema") if isinstance(response_format, dict) else None
    schema = json_schema.get("schema") if isinstance(json_schema, dict) else None
    if kind != "json_schema" or not isinstance(schema, dict):
        raise not_carried_over(
            "response_format", "this provider takes a json_schema with a schema, and no other format."
        )
    return {"type": "json_schema", "schema": schema}
