from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Iterator
from typing import Any

import orjson
import pytest
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.middleware.edge import Edge
from shared.errors import ModelNotFound
from shared.settings import ApiSettings
from tests.unit.observability.log_lines import LogLines, captured

JSON = (b"content-type", b"application/json")
ONE_BYTE = (b"content-length", b"1")


class Answer:
    def __init__(self, messages: list[Message]) -> None:
        self.messages = messages
        self.started = bool(messages)
        self.status: int = messages[0]["status"] if messages else 0
        self.headers: dict[bytes, bytes] = dict(messages[0]["headers"]) if messages else {}
        self.body = b"".join(message.get("body", b"") for message in messages[1:])

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = orjson.loads(self.body)["error"]
        return error


async def ok(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


async def ask(
    app: ASGIApp,
    *,
    method: str = "POST",
    path: str = "/v1/chat/completions",
    query: bytes = b"",
    headers: Iterable[tuple[bytes, bytes]] = (JSON, ONE_BYTE),
    settings: ApiSettings | None = None,
    **edge: Any,
) -> Answer:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query,
        "headers": list(headers),
        "state": {},
    }
    await Edge(app, settings=settings or ApiSettings(), **edge)(scope, receive, send)
    return Answer(sent)


@pytest.fixture
def lines() -> Iterator[LogLines]:
    with captured() as lines:
        yield lines


async def test_every_answer_carries_the_request_id_under_both_names() -> None:
    answer = await ask(ok)

    assert re.match(rb"req_[0-9a-f]{24}\Z", answer.headers[b"x-request-id"])
    assert answer.headers[b"request-id"] == answer.headers[b"x-request-id"]


async def test_a_harmless_request_id_of_the_caller_is_kept() -> None:
    answer = await ask(ok, headers=[(b"x-request-id", b"trace-0123_X")])

    assert answer.headers[b"x-request-id"] == b"trace-0123_X"


@pytest.mark.parametrize(
    "offered", [b"short", b"x" * 65, b"a b c d e f", b"newline\x0afake", b"\xff" * 12, b""]
)
async def test_any_other_request_id_is_replaced(offered: bytes) -> None:
    answer = await ask(ok, headers=[(b"x-request-id", offered)])

    assert answer.headers[b"x-request-id"].startswith(b"req_")


async def test_the_handler_finds_the_request_id_in_the_state() -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["state"]["request_id"])
        await ok(scope, receive, send)

    answer = await ask(app)

    assert seen == [answer.headers[b"x-request-id"].decode()]


@pytest.mark.parametrize("method", ["QWERTY", "TRACE", "CONNECT", "PROPFIND", "get"])
async def test_an_unknown_method_is_405(method: str) -> None:
    assert (await ask(ok, method=method)).status == 405


@pytest.mark.parametrize(
    "path", ["/v1//models", "//v1/models", "/v1/../admin", "/v1/..", "/./v1", "/v1/" + "a" * 2_000]
)
async def test_a_path_that_no_route_has_is_404(path: str) -> None:
    assert (await ask(ok, path=path)).status == 404


@pytest.mark.parametrize("path", ["/v1/models/\x00", "/v1\\models", "/v1/models/\x1b[31m", "/v1/\x7f"])
async def test_a_path_with_unprintable_characters_is_400(path: str) -> None:
    assert (await ask(ok, path=path)).status == 400


@pytest.mark.parametrize(
    "path", ["/", "/v1/models/anthropic/claude-3.5..x", "/v1/models/a.b", "/v1/..a", "/v1/models/"]
)
async def test_a_path_that_is_merely_unusual_reaches_the_routes(path: str) -> None:
    assert (await ask(ok, path=path)).status == 200


@pytest.mark.parametrize(
    "query",
    [
        b"a=%00",
        b"%00=a",
        b"a=1&b=x%00",
        b"a=%1b%5b31m",
        b"a=%08",
        b"a=%7f",
        b"a=%ff",
        b"a=%C3",
        b"a=%c0%80",
        b"a=%ed%a0%80",
    ],
)
async def test_a_query_that_is_no_text_is_400(query: bytes) -> None:
    answer = await ask(ok, query=query)

    assert (answer.status, answer.error["code"]) == (400, "bad_request")
    assert query not in answer.body


@pytest.mark.parametrize(
    "query", [b"a=%C3%A9&b=%f0%9f%90%8e", b"a=one%0d%0a%09two", b"a=%25ff", b"a=%", b"a=%zz", b"beta=true"]
)
async def test_a_query_that_is_merely_unusual_reaches_the_routes(query: bytes) -> None:
    assert (await ask(ok, query=query)).status == 200


@pytest.mark.parametrize("encoding", [b"gzip", b"br", b"zstd", b"deflate, gzip", b""])
async def test_a_compressed_body_is_415(encoding: bytes) -> None:
    assert (await ask(ok, headers=[JSON, ONE_BYTE, (b"content-encoding", encoding)])).status == 415


@pytest.mark.parametrize(
    "content_type",
    [None, b"", b"text/plain", b"multipart/form-data; boundary=x", b"application/jsonp", b"application/xml"],
)
@pytest.mark.parametrize("framing", [ONE_BYTE, (b"transfer-encoding", b"chunked")])
async def test_a_body_that_does_not_say_it_is_json_is_415(
    content_type: bytes | None, framing: tuple[bytes, bytes]
) -> None:
    headers = [framing] if content_type is None else [framing, (b"content-type", content_type)]

    assert (await ask(ok, headers=headers)).status == 415


@pytest.mark.parametrize(
    "content_type", [b"application/json", b"application/json; charset=utf-8", b"Application/JSON"]
)
async def test_json_is_accepted_however_it_is_spelled(content_type: bytes) -> None:
    assert (await ask(ok, headers=[ONE_BYTE, (b"content-type", content_type)])).status == 200


async def test_a_post_without_a_body_needs_no_content_type() -> None:
    assert (await ask(ok, headers=[(b"content-length", b"0")])).status == 200


async def test_upload_routes_judge_content_type_and_size_themselves() -> None:
    headers = [(b"content-type", b"multipart/form-data; boundary=x"), (b"content-length", b"999999999")]

    assert (await ask(ok, path="/v1/files", headers=headers, uploads=["/v1/files"])).status == 200


async def test_a_body_may_be_larger_at_paths_that_say_so_and_there_alone() -> None:
    settings, larger = ApiSettings(max_body_bytes=10), {"/v1/messages/batches": 20}

    async def status(path: str, size: int) -> int:
        headers = [JSON, (b"content-length", b"%d" % size)]
        return (await ask(ok, path=path, headers=headers, settings=settings, larger=larger)).status

    assert await status("/v1/messages/batches", 20) == 200
    assert await status("/v1/messages/batches", 21) == 413
    assert await status("/v1/messages/batches/x/cancel", 11) == 413
    assert await status("/v1/messages", 11) == 413
    assert (await ask(ok, path="/v1/messages/batches", headers=[ONE_BYTE], larger=larger)).status == 415


async def test_a_content_length_above_the_limit_is_413_and_closes_the_connection() -> None:
    settings = ApiSettings(max_body_bytes=10)

    answer = await ask(ok, headers=[JSON, (b"content-length", b"11")], settings=settings)

    assert (answer.status, answer.headers[b"connection"]) == (413, b"close")
    assert (await ask(ok, headers=[JSON, (b"content-length", b"10")], settings=settings)).status == 200


@pytest.mark.parametrize(
    ("path", "field"), [("/v1/chat/completions", "param"), ("/api/v1/chat", "trace_id"), ("/v1", "trace_id")]
)
async def test_a_broker_error_is_told_in_the_dialect_of_the_path(path: str, field: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise ModelNotFound("There is no such model.", param="model")

    answer = await ask(app, path=path)

    assert answer.status == 404
    assert field in answer.error


async def test_any_other_exception_is_an_internal_error_with_the_request_id_and_a_logged_traceback(
    lines: LogLines,
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("the reason, with {braces}")

    answer = await ask(app, path="/api/v1/chat")

    assert (answer.status, answer.error["type"]) == (500, "internal_error")
    assert answer.error["trace_id"].encode() == answer.headers[b"x-request-id"]
    assert b"reason" not in answer.body
    failure, access = lines.events()
    assert "RuntimeError: the reason, with {braces}" in failure["traceback"]
    assert failure["request_id"] == access["request_id"] == answer.error["trace_id"]


async def test_nothing_is_added_to_an_answer_that_has_begun(lines: LogLines) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise RuntimeError

    answer = await ask(app)

    assert (answer.status, answer.body, len(answer.messages)) == (200, b"half", 2)


async def test_a_caller_that_left_gets_no_answer_and_is_logged_as_499(lines: LogLines) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise ClientDisconnect

    answer = await ask(app)

    assert not answer.started
    assert lines.events()[0]["status"] == 499


async def test_one_line_a_request_with_the_template_of_its_route(lines: LogLines) -> None:
    class Route:
        path = "/v1/models/{model}"

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["route"] = Route()
        await ok(scope, receive, send)

    answer = await ask(app, method="GET", path="/v1/models/somebodys-secret-model", headers=[])

    (line,) = lines.events()
    assert line.pop("duration_ms") >= 0
    assert line.pop("time")
    assert line == {
        "level": "INFO",
        "event": "request",
        "method": "GET",
        "route": "/v1/models/{model}",
        "status": 200,
        "request_id": answer.headers[b"x-request-id"].decode(),
    }


async def test_a_path_without_a_route_and_a_method_nobody_knows_are_logged_as_other(lines: LogLines) -> None:
    await ask(ok, method="EVIL{}", path="/<script>")

    (line,) = lines.events()
    assert (line["method"], line["route"], line["error"]) == ("other", "other", "method_not_allowed")


async def test_request_lines_can_be_turned_off(lines: LogLines) -> None:
    await ask(ok, log_requests=False)

    assert lines.events() == []


async def test_the_metrics_hook_hears_of_every_exchange_once() -> None:
    heard: list[tuple[str, int, bool]] = []

    def on_response(scope: Scope, status: int, seconds: float) -> None:
        heard.append((scope["path"], status, seconds >= 0))

    await ask(ok, on_response=on_response)
    await ask(ok, path="/v1//x", on_response=on_response)

    assert heard == [("/v1/chat/completions", 200, True), ("/v1//x", 404, True)]


async def test_other_scopes_pass_untouched() -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    async def silence() -> Message:
        return {}

    async def nobody(message: Message) -> None:
        return None

    await Edge(app, settings=ApiSettings())({"type": "lifespan"}, silence, nobody)

    assert seen == ["lifespan"]


async def test_a_request_that_the_server_ends_is_told_to_come_again(lines: LogLines) -> None:
    begun = asyncio.Event()

    async def never(scope: Scope, receive: Receive, send: Send) -> None:
        begun.set()
        await asyncio.Event().wait()

    asking = asyncio.create_task(ask(never))
    await begun.wait()
    asking.cancel()
    answer = await asking

    assert (answer.status, answer.error["code"]) == (503, "server_draining")
    assert answer.headers[b"retry-after"] == b"1"
    assert [line["level"] for line in lines.events()] == ["INFO"]
