"""OpenAI's chat completions on the wire: bodies, frames, errors, headers.

Forms from OpenAI's OpenAPI document 2.3.0.
"""

from typing import Any

import orjson

from cli.scripted_provider.dialect import MODELS, Answer, BadPrompt, Chunk, OfferedTool, Prompt, text_of

_FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_ERROR_TYPES: dict[int, tuple[str, str | None]] = {
    400: ("invalid_request_error", None),
    401: ("invalid_request_error", "invalid_api_key"),
    402: ("insufficient_quota", "insufficient_quota"),
    403: ("invalid_request_error", "unsupported_country_region_territory"),
    404: ("invalid_request_error", "model_not_found"),
    429: ("requests", "rate_limit_exceeded"),
    500: ("server_error", None),
    503: ("server_error", None),
}
_HEADERS = (
    b"x-request-id: %b\r\n"
    b"openai-processing-ms: 1\r\n"
    b"openai-organization: scripted\r\n"
    b"openai-version: 2020-10-01\r\n"
    b"x-ratelimit-limit-requests: 10000\r\n"
    b"x-ratelimit-limit-tokens: 30000000\r\n"
    b"x-ratelimit-remaining-requests: 9999\r\n"
    b"x-ratelimit-remaining-tokens: 29999990\r\n"
    b"x-ratelimit-reset-requests: 6ms\r\n"
    b"x-ratelimit-reset-tokens: 0s\r\n"
)
_ANSWER = (
    b'{"id":%b,"object":"chat.completion","created":%d,"model":%b,"choices":[{"index":0,"message":'
    b'{"role":"assistant","content":%b,"refusal":null%b,"annotations":[]},"logprobs":null,'
    b'"finish_reason":%b}]%b,"service_tier":"default","system_fingerprint":"fp_scripted"}'
)
_FRAME_START = (
    b'data: {"id":%b,"object":"chat.completion.chunk","created":%d,"model":%b,"service_tier":"default",'
    b'"system_fingerprint":"fp_scripted","choices":['
)
_USAGE = (
    b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d,'
    b'"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},'
    b'"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,'
    b'"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}'
)
_DONE = b"data: [DONE]\n\n"
_ARGUMENTS_PER_CHUNK = 8


def read_prompt(body: dict[str, Any]) -> Prompt:
    """Raises BadPrompt."""
    model, messages = body.get("model"), body.get("messages")
    if not isinstance(model, str):
        raise BadPrompt("you must provide a model parameter", parameter="model")
    if not isinstance(messages, list) or not messages:
        raise BadPrompt("Missing required parameter: 'messages'.", parameter="messages")
    text, characters, result = "", 0, None
    for message in messages:
        if not isinstance(message, dict):
            raise BadPrompt("Invalid type for 'messages': expected objects.", parameter="messages")
        said = text_of(message.get("content"))
        characters += len(said)
        result = None
        if message.get("role") == "user":
            text = said
        elif message.get("role") == "tool":
            result = said
    options = body.get("stream_options")
    return Prompt(
        model=model,
        stream=body.get("stream") is True,
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
        text=text,
        characters=characters,
        tool_result=result,
        tool=_chosen_tool(body) if body.get("tools") else None,
    )


def render_headers(request_id: bytes) -> bytes:
    return _HEADERS % request_id


def render_answer(answer: Answer) -> bytes:
    return _ANSWER % (
        _id(answer),
        answer.created,
        orjson.dumps(answer.model),
        orjson.dumps(answer.text) if answer.text or not answer.tool_uses else b"null",
        _tool_calls(answer) if answer.tool_uses else b"",
        _finish_reason(answer),
        b',"usage":' + _usage(answer) if answer.usage_reported else b"",
    )


def render_frames(answer: Answer) -> list[bytes]:
    usage_follows = answer.usage_streamed and answer.usage_reported
    start = _FRAME_START % (_id(answer), answer.created, orjson.dumps(answer.model))
    delta = start + b'{"index":0,"delta":'
    end = b'}],"usage":null}\n\n' if usage_follows else b"}]}\n\n"
    open_end = b',"logprobs":null,"finish_reason":null' + end
    said, said_end = delta + b'{"content":', b"}" + open_end
    first = b"null" if answer.tool_uses and not answer.text else b'""'
    dumps = orjson.dumps

    frames: list[bytes] = [delta + b'{"role":"assistant","content":' + first + b',"refusal":null}' + open_end]
    frames += [Chunk(said + dumps(piece) + said_end) for piece in answer.pieces]
    frames += [Chunk(delta + b'{"tool_calls":[' + call + b"]}" + open_end) for call in _tool_deltas(answer)]
    frames.append(delta + b'{},"logprobs":null,"finish_reason":' + _finish_reason(answer) + end)
    if usage_follows:
        frames.append(start + b'],"usage":' + _usage(answer) + b"}\n\n")
    frames.append(_DONE)
    return frames


def render_error(
    *, status: int, message: str, code: str | None, parameter: str | None, request_id: bytes
) -> bytes:
    kind, usual_code = _ERROR_TYPES.get(
        status, ("server_error" if status >= 500 else "invalid_request_error", None)
    )
    if code == "insufficient_quota":
        kind = code
    error = {"message": message, "type": kind, "param": parameter, "code": code or usual_code}
    return orjson.dumps({"error": error})


def render_error_frame(*, message: str, code: str | None) -> bytes:
    error = {"message": message, "type": "server_error", "param": None, "code": code}
    return b"data: " + orjson.dumps({"error": error}) + b"\n\n"


def render_models(created: int) -> bytes:
    return orjson.dumps({"object": "list", "data": [_model(model, created) for model in MODELS]})


def render_model(model: str, created: int) -> bytes:
    return orjson.dumps(_model(model, created))


def _model(model: str, created: int) -> dict[str, Any]:
    return {"id": model, "object": "model", "created": created, "owned_by": "scripted"}


def _chosen_tool(body: dict[str, Any]) -> OfferedTool | None:
    choice = body.get("tool_choice")
    if choice == "none":
        return None
    offered = [tool["function"] for tool in body["tools"] if isinstance(tool.get("function"), dict)]
    named = choice.get("function", {}).get("name") if isinstance(choice, dict) else None
    for function in offered:
        if named in (None, function["name"]):
            return OfferedTool(function["name"], function.get("parameters") or {})
    return None


def _id(answer: Answer) -> bytes:
    return orjson.dumps(f"chatcmpl-{answer.token}")


def _finish_reason(answer: Answer) -> bytes:
    reason = answer.finish_reason or ("tool_calls" if answer.tool_uses else "stop")
    return orjson.dumps(_FINISH_REASONS.get(reason, reason))


def _usage(answer: Answer) -> bytes:
    prompt, completion = answer.prompt_tokens, answer.completion_tokens
    return _USAGE % (prompt, completion, prompt + completion)


def _tool_calls(answer: Answer) -> bytes:
    calls = [
        {
            "id": _call_id(answer, i),
            "type": "function",
            "function": {"name": u.name, "arguments": u.arguments},
        }
        for i, u in enumerate(answer.tool_uses)
    ]
    return b',"tool_calls":' + orjson.dumps(calls)


def _tool_deltas(answer: Answer) -> list[bytes]:
    deltas: list[dict[str, Any]] = []
    for i, use in enumerate(answer.tool_uses):
        opening = {"name": use.name, "arguments": ""}
        deltas.append({"index": i, "id": _call_id(answer, i), "type": "function", "function": opening})
        for at in range(0, len(use.arguments), _ARGUMENTS_PER_CHUNK):
            fragment = use.arguments[at : at + _ARGUMENTS_PER_CHUNK]
            deltas.append({"index": i, "function": {"arguments": fragment}})
    return [orjson.dumps(delta) for delta in deltas]


def _call_id(answer: Answer, index: int) -> str:
    return f"call_{answer.token}_{index}"
