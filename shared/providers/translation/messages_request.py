"""An Anthropic Messages request as an OpenAI chat request."""

from __future__ import annotations

from hashlib import sha256
from typing import Any, Final

from shared.providers.catalogue import load_catalogue
from shared.providers.dialect import Call
from shared.providers.dialects.anthropic.wanted_api import BETA, VERSION
from shared.providers.dialects.openai_chat import parse_request
from shared.providers.not_carried_over import not_carried_over, says_something
from shared.providers.profile import Capability, ProviderProfile
from shared.providers.translation.earlier_reasoning import reads_reasoning
from shared.providers.translation.messages_turns import conversation

Fields = dict[str, Any]

_HINTS: Final = frozenset(
    {
        BETA,
        VERSION,
        "cache_control",
        "context_management",
        "diagnostics",
        "speed",
        "user_profile_id",
        "workspace_id",
    }
)
"""Left out: they ask for speed, bookkeeping or a smaller bill; the answer means the same without them."""

_OPENAI_MAX_USER_CHARS: Final = 64

_TAKE_TOP_K: Final = frozenset({"openrouter", "litellm", "nvidia_nim", "perplexity", "huggingface"})
"""Providers with a `top_k` beside OpenAI's parameters; self-hosted servers such as vLLM have it too."""

_CHAT_ONLY: Final = frozenset(
    {"n", "audio", "modalities", "functions", "function_call", "logprobs", "top_logprobs"}
)
"""What a chat would answer this form has no room for."""

_TOOL_CHOICES: Final = {"auto": "auto", "any": "required", "none": "none"}


def chat_request(call: Call) -> Fields:
    """Raises InvalidRequest (400) that names what cannot be said."""
    profile = call.profile
    request = {name: value for name, value in parse_request(call.body).items() if value is not None}
    chat: Fields = {
        "messages": conversation(
            request.pop("system", None),
            request.pop("messages", None),
            with_reasoning=reads_reasoning(profile),
        )
    }
    chat |= _max_tokens(request, profile) | _sampling(request, profile) | _tools(request)
    chat |= _output(request, call) | _caller(request)
    _refuse_what_is_only_anthropics(request)
    for name in sorted(_CHAT_ONLY):
        if says_something(request, name):
            raise not_carried_over(name, "this form has no such parameter.")
    known = _HINTS | {"model", "stream"}
    return chat | {name: value for name, value in request.items() if name not in known}


def _max_tokens(request: Fields, profile: ProviderProfile) -> Fields:
    """OpenAI's reasoning models refuse the older name; servers of any age may not know the newer one.

    Providers in between say so in the `renames` of their profile.
    """
    limit = request.pop("max_tokens", None)
    if limit is None:
        return {}
    if type(limit) is not int or limit < 1:
        raise not_carried_over("max_tokens", "must be at least 1: this provider has no cache to warm.")
    return {"max_tokens" if profile.self_hosted else "max_completion_tokens": limit}


def _sampling(request: Fields, profile: ProviderProfile) -> Fields:
    if "top_k" in request and not (profile.self_hosted or profile.id in _TAKE_TOP_K):
        raise not_carried_over("top_k", f"{profile.name} has no such parameter.")
    fields: Fields = {}
    if stop := request.pop("stop_sequences", None):
        fields["stop"] = stop
    if request.pop("service_tier", "auto") == "standard_only":
        fields["service_tier"] = "default"
    return fields


def _tools(request: Fields) -> Fields:
    tools, choice = request.pop("tools", None), request.pop("tool_choice", None)
    kind = choice.get("type") if isinstance(choice, dict) else None
    if not tools:
        if kind not in (None, "auto", "none"):
            raise not_carried_over("tool_choice", "needs tools.")
        return {}
    if not isinstance(tools, list):
        raise not_carried_over("tools", "must be a list.")
    fields: Fields = {"tools": [_tool(tool, f"tools[{index}]") for index, tool in enumerate(tools)]}
    if choice is None:
        return fields
    if kind == "tool" and isinstance(choice.get("name"), str):
        fields["tool_choice"] = {"type": "function", "function": {"name": choice["name"]}}
    elif isinstance(kind, str) and kind in _TOOL_CHOICES:
        fields["tool_choice"] = _TOOL_CHOICES[kind]
    else:
        raise not_carried_over("tool_choice", "must be auto, any, none, or a tool with its name.")
    if choice.get("disable_parallel_tool_use") is True:
        fields["parallel_tool_calls"] = False
    return fields


def _tool(tool: object, where: str) -> Fields:
    if not isinstance(tool, dict) or not isinstance(tool.get("name"), str):
        raise not_carried_over(where, "must be an object with a name.")
    if tool.get("type") not in (None, "custom"):
        raise not_carried_over(where, "tools that run at Anthropic cannot be carried over to this provider.")
    function: Fields = {"name": tool["name"]}
    if tool.get("description"):
        function["description"] = tool["description"]
    function["parameters"] = tool.get("input_schema") or {"type": "object", "properties": {}}
    if tool.get("strict") is True:
        function["strict"] = True
    return {"type": "function", "function": function}


def _output(request: Fields, call: Call) -> Fields:
    """`thinking` and `output_config` as effort and format; what else stands there is a hint."""
    config, thinking = request.pop("output_config", {}), request.pop("thinking", {})
    # The name it had as a beta.
    older_format = request.pop("output_format", None)
    if not isinstance(config, dict):
        raise not_carried_over("output_config", "must be an object.")
    fields: Fields = {}
    effort = config.get("effort") or _effort(thinking)
    if effort is not None and _takes_effort(call):
        fields["reasoning_effort"] = effort
    wanted = config.get("format") or older_format
    if wanted is not None:
        schema = wanted.get("schema") if isinstance(wanted, dict) else None
        if schema is None or wanted.get("type") != "json_schema":
            where = "output_format" if wanted is older_format else "output_config"
            raise not_carried_over(where, "the format must be a json_schema with a schema.")
        named = {"name": "answer", "strict": True, "schema": schema}
        fields["response_format"] = {"type": "json_schema", "json_schema": named}
    return fields


def _effort(thinking: object) -> str | None:
    """None leaves it to the model. Budgets are cut where LiteLLM cuts them."""
    kind = thinking.get("type") if isinstance(thinking, dict) else None
    if kind == "disabled":
        # The least that every model with efforts takes; only some know `none`.
        return "low"
    if kind != "enabled" or not isinstance(thinking, dict):
        return None
    budget = thinking.get("budget_tokens")
    if type(budget) is not int:
        raise not_carried_over("thinking", "needs budget_tokens, an integer.")
    if budget < 5_000:
        return "low"
    return "medium" if budget < 10_000 else "high"


def _takes_effort(call: Call) -> bool:
    """Others answer 400 to any effort; callers such as Claude Code send `thinking` to every model."""
    model = load_catalogue().find(call.target.model)
    if model is not None:
        return Capability.EFFORT in model.capabilities
    return call.profile.self_hosted and Capability.EFFORT in call.profile.capabilities


def _caller(request: Fields) -> Fields:
    metadata = request.pop("metadata", None)
    user = metadata.get("user_id") if isinstance(metadata, dict) else None
    if not isinstance(user, str) or not user:
        return {}
    # Claude Code's ids have 150 characters. OpenAI takes 64, found in maximhq/bifrost#1000; an opaque
    # id is as good when it is digested.
    too_long = len(user) > _OPENAI_MAX_USER_CHARS
    return {"user": sha256(user.encode()).hexdigest() if too_long else user}


def _refuse_what_is_only_anthropics(request: Fields) -> None:
    for name in ("container", "mcp_servers"):
        if request.pop(name, None):
            raise not_carried_over(name, "this provider has no such parameter.")
    if request.pop("inference_geo", "global") != "global":
        raise not_carried_over("inference_geo", "this provider does not let callers choose where it runs.")
