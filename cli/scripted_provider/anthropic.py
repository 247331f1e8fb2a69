"""Anthropic's messages on the wire: bodies, frames in their exact order, errors, headers."""

from datetime import UTC, datetime
from typing import Any

import orjson

from cli.scripted_provider.dialect import MODELS, Answer, BadPrompt, Chunk, OfferedTool, Prompt, text_of

_STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}
_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_HEADERS = (
    b"request-id: %b\r\n"
    b"anthropic-organization-id: scripted\r\n"
    b"anthropic-ratelimit-requests-limit: 4000\r\n"
    b"anthropic-ratelimit-requests-remaining: 3999\r\n"
    b"anthropic-ratelimit-requests-reset: 2030-01-01T00:00:00Z\r\n"
    b"anthropic-ratelimit-input-tokens-limit: 400000\r\n"
    b"anthropic-ratelimit-input-tokens-remaining: 399000\r\n"
    b"anthropic-ratelimit-input-tokens-reset: 2030-01-01T00:00:00Z\r\n"
    b"anthropic-ratelimit-output-tokens-limit: 80000\r\n"
    b"anthropic-ratelimit-output-tokens-remaining: 79000\r\n"
    b"anthropic-ratelimit-output-tokens-reset: 2030-01-01T00:00:00Z\r\n"
    b"anthropic-ratelimit-tokens-limit: 480000\r\n"
    b"anthropic-ratelimit-tokens-remaining: 478000\r\n"
    b"anthropic-ratelimit-tokens-reset: 2030-01-01T00:00:00Z\r\n"
)
_MESSAGE = (
    b'{"id":%b,"type":"message","role":"assistant","model":%b,"content":[%b],'
    b'"stop_reason":%b,"stop_sequence":null%b}'
)
_USAGE = (
    b',"usage":{"input_tokens":%d,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,'
    b'"cache_creation":{"ephemeral_5m_input_tokens":0,"ephemeral_1h_input_tokens":0},'
    b'"output_tokens":%d,"service_tier":"standard"}'
)
_PING = b'event: ping\ndata: {"type":"ping"}\n\n'
_STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
_BLOCK_STOP = b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n'
_BLOCK_START = (
    b"event: content_block_start\n"
    b'data: {"type":"content_block_start","index":%d,"content_block":%b}\n\n'
)  # fmt: skip
_DELTA = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":'
_INPUT_PER_CHUNK = 8


def read_prompt(body: dict[str, Any]) -> Prompt:
    """Raises BadPrompt."""
    model, messages = body.get("model"), body.get("messages")
    if not isinstance(model, str):
        raise BadPrompt("model: Field required", parameter="model")
    if not isinstance(body.get("max_tokens"), int):
        raise BadPrompt("max_tokens: Field required", parameter="max_tokens")
    if not isinstance(messages, list) or not messages:
        raise BadPrompt("messages: Field required", parameter="messages")
    text, result = "", None
    characters = len(text_of(body.get("system")))
    for message in messages:
        if not isinstance(message, dict):
            raise BadPrompt("messages: Input should be objects", parameter="messages")
        said = text_of(message.get("content"))
        result = _tool_result(message.get("content"))
        characters += len(said) + len(result or "")
        if message.get("role") == "user" and (said or result is None):
            text = said
    return Prompt(
        model=model,
        stream=body.get("stream") is True,
        include_usage=True,
        text=text,
        characters=characters,
        tool_result=result,
        tool=_chosen_tool(body) if body.get("tools") else None,
    )


def render_headers(request_id: bytes) -> bytes:
    return _HEADERS % request_id


def render_answer(answer: Answer) -> bytes:
    blocks = [b'{"type":"text","text":' + orjson.dumps(answer.text) + b"}"]
    if answer.tool_uses:
        blocks = blocks if answer.text else []
        blocks += [_tool_block(answer, i, use.arguments) for i, use in enumerate(answer.tool_uses)]
    usage = _USAGE % (answer.prompt_tokens, answer.completion_tokens) if answer.usage_reported else b""
    return _MESSAGE % (
        _id(answer),
        orjson.dumps(answer.model),
        b",".join(blocks),
        _stop_reason(answer),
        usage,
    )


def render_frames(answer: Answer) -> list[bytes]:
    usage = _USAGE % (answer.prompt_tokens, 1) if answer.usage_reported else b""
    message = _MESSAGE % (_id(answer), orjson.dumps(answer.model), b"", b"null", usage)
    frames = [b'event: message_start\ndata: {"type":"message_start","message":' + message + b"}\n\n"]
    index = 0
    if answer.text or not answer.tool_uses:
        frames += [_BLOCK_START % (index, b'{"type":"text","text":""}'), _PING]
        start, dumps = (_DELTA % index) + b'{"type":"text_delta","text":', orjson.dumps
        frames += [Chunk(start + dumps(piece) + b"}}\n\n") for piece in answer.pieces]
        frames.append(_BLOCK_STOP % index)
        index += 1
    for i, use in enumerate(answer.tool_uses):
        frames.append(_BLOCK_START % (index, _tool_block(answer, i, "{}")))
        if index == 0:
            frames.append(_PING)
        frames += _input_deltas(index, use.arguments)
        frames.append(_BLOCK_STOP % index)
        index += 1
    spent = b',"usage":{"output_tokens":%d}' % answer.completion_tokens if answer.usage_reported else b""
    frames += [
        b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":'
        + _stop_reason(answer) + b',"stop_sequence":null}' + spent + b"}\n\n",
        _STOP,
    ]  # fmt: skip
    return frames


def render_error(
    *, status: int, message: str, code: str | None, parameter: str | None, request_id: bytes
) -> bytes:
    kind = code or _ERROR_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
    error = {"type": kind, "message": message}
    return orjson.dumps({"type": "error", "error": error, "request_id": request_id.decode()})


def render_error_frame(*, message: str, code: str | None) -> bytes:
    error = {"type": code or "overloaded_error", "message": message}
    return b"event: error\ndata: " + orjson.dumps({"type": "error", "error": error}) + b"\n\n"


def render_models(created: int) -> bytes:
    models = [_model(model, created) for model in MODELS]
    return orjson.dumps(
        {"data": models, "has_more": False, "first_id": models[0]["id"], "last_id": models[-1]["id"]}
    )


def render_model(model: str, created: int) -> bytes:
    return orjson.dumps(_model(model, created))


def _model(model: str, created: int) -> dict[str, Any]:
    at = datetime.fromtimestamp(created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"type": "model", "id": model, "display_name": model, "created_at": at}


def _tool_result(content: object) -> str | None:
    if not isinstance(content, list):
        return None
    results = [part for part in content if isinstance(part, dict) and part.get("type") == "tool_result"]
    return "".join(text_of(part.get("content")) for part in results) if results else None


def _chosen_tool(body: dict[str, Any]) -> OfferedTool | None:
    choice = body.get("tool_choice")
    choice = choice if isinstance(choice, dict) else {}
    if choice.get("type") == "none":
        return None
    for tool in body["tools"]:
        if choice.get("name") in (None, tool.get("name")):
            return OfferedTool(tool["name"], tool.get("input_schema") or {})
    return None


def _id(answer: Answer) -> bytes:
    return orjson.dumps(f"msg_{answer.token}")


def _stop_reason(answer: Answer) -> bytes:
    reason = answer.finish_reason or ("tool_use" if answer.tool_uses else "end_turn")
    return orjson.dumps(_STOP_REASONS.get(reason, reason))


def _tool_block(answer: Answer, index: int, arguments: str) -> bytes:
    use = {"type": "tool_use", "id": f"toolu_{answer.token}_{index}", "name": answer.tool_uses[index].name}
    return orjson.dumps(use)[:-1] + b',"input":' + (arguments or "{}").encode() + b"}"


def _input_deltas(index: int, arguments: str) -> list[bytes]:
    start = (_DELTA % index) + b'{"type":"input_json_delta","partial_json":'
    fragments = [""]
    fragments += [arguments[at : at + _INPUT_PER_CHUNK] for at in range(0, len(arguments), _INPUT_PER_CHUNK)]
    return [Chunk(start + orjson.dumps(fragment) + b"}}\n\n") for fragment in fragments]
