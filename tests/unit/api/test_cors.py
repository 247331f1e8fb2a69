"""Headers for browsers: what protects every answer, and what pages of other origins may read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from starlette.types import Receive, Scope, Send

from api.http_protocol import bounded_protocol
from api.middleware.cors import Cors
from api.middleware.protective import protective_headers
from shared.errors import AuthenticationFailed
from shared.settings import ApiSettings, CorsSettings
from tests.unit.api.test_edge import JSON, ONE_BYTE, Answer, ask, ok

PAGE = b"https://app.example"
STRANGER = b"https://evil.example"
PREFLIGHT = (b"access-control-request-method", b"POST")


def cors(*origins: str, credentials: bool = False) -> Cors:
    return Cors(CorsSettings(origins=origins or (PAGE.decode(),), credentials=credentials))


def headers_of_jobs() -> set[str]:
    """What the source puts into answers."""
    sources = (Path(__file__).parents[3] / "api").rglob("*.py")
    found = {
        name for file in sources for name in re.findall(r'\(b"(x-headrace-[a-z-]+)", ', file.read_text())
    }
    assert "x-headrace-job-id" in found
    return found


async def refuses(scope: Scope, receive: Receive, send: Send) -> None:
    raise AuthenticationFailed("No API key.")


async def preflight(origin: bytes, *headers: tuple[bytes, bytes], of: Cors) -> Answer:
    return await ask(refuses, method="OPTIONS", headers=[(b"origin", origin), PREFLIGHT, *headers], cors=of)


def of_cors(answer: Answer) -> dict[bytes, bytes]:
    return {name: value for name, value in answer.headers.items() if name.startswith(b"access-control-")}


async def test_every_answer_is_protected_errors_too() -> None:
    for app, status in ((ok, 200), (refuses, 401)):
        answer = await ask(app)

        assert answer.status == status
        assert answer.headers[b"x-content-type-options"] == b"nosniff"
        assert answer.headers[b"referrer-policy"] == b"no-referrer"
        assert answer.headers[b"x-frame-options"] == b"DENY"
        assert answer.headers[b"content-security-policy"] == b"frame-ancestors 'none'"
        assert answer.headers[b"cache-control"].startswith(b"no-store")
        assert b"strict-transport-security" not in answer.headers


async def test_a_header_is_said_once() -> None:
    answer = await ask(ok, headers=[JSON, ONE_BYTE, (b"origin", PAGE)], cors=cors())

    names = [name for name, _ in answer.messages[0]["headers"]]
    assert len(names) == len(set(names))


async def test_browsers_are_told_to_stay_with_https_where_the_settings_say_so() -> None:
    answer = await ask(ok, settings=ApiSettings(hsts_seconds=31_536_000))

    assert answer.headers[b"strict-transport-security"] == b"max-age=31536000"


def test_refusals_below_the_application_carry_the_same_headers() -> None:
    settings = ApiSettings(hsts_seconds=60)

    assert bounded_protocol(settings).protective == protective_headers(settings)


async def test_without_origins_in_the_settings_there_is_no_cors() -> None:
    answer = await ask(ok, headers=[JSON, ONE_BYTE, (b"origin", PAGE)])
    asked = await ask(refuses, method="OPTIONS", headers=[(b"origin", PAGE), PREFLIGHT])

    assert of_cors(answer) == {}
    assert b"vary" not in answer.headers
    assert asked.status == 401


async def test_a_preflight_is_answered_without_a_credential() -> None:
    names = b"authorization, x-stainless-os,Content-Type"
    answer = await preflight(PAGE, (b"access-control-request-headers", names), of=cors())

    assert (answer.status, answer.body) == (204, b"")
    assert of_cors(answer) == {
        b"access-control-allow-origin": PAGE,
        b"access-control-allow-methods": b"GET, POST, PUT, PATCH, DELETE",
        b"access-control-allow-headers": names,
        b"access-control-max-age": b"600",
        b"access-control-expose-headers": answer.headers[b"access-control-expose-headers"],
    }
    assert answer.headers[b"vary"] == b"Origin"
    assert b"x-request-id" in answer.headers


@pytest.mark.parametrize("names", [b"a b", b"a\r\nset-cookie: x", b"a,,b", b"x" * 3_000, b"", "é".encode()])
async def test_names_that_are_no_headers_are_not_repeated(names: bytes) -> None:
    answer = await preflight(PAGE, (b"access-control-request-headers", names), of=cors())

    assert answer.status == 204
    assert b"access-control-allow-headers" not in answer.headers


async def test_a_page_of_another_origin_is_allowed_nothing() -> None:
    for origin in (STRANGER, b"null", b"http://app.example", PAGE + b":8443", PAGE + b".evil.example"):
        asked = await preflight(origin, of=cors())
        answer = await ask(ok, headers=[JSON, ONE_BYTE, (b"origin", origin)], cors=cors())

        assert b"access-control-allow-origin" not in {**asked.headers, **answer.headers}
        assert answer.headers[b"vary"] == b"Origin"


async def test_a_page_of_a_named_origin_may_read_answers_and_errors() -> None:
    for app in (ok, refuses):
        answer = await ask(app, headers=[JSON, ONE_BYTE, (b"origin", PAGE)], cors=cors())

        assert answer.headers[b"access-control-allow-origin"] == PAGE
        assert b"access-control-allow-credentials" not in answer.headers
        exposed = set(answer.headers[b"access-control-expose-headers"].split(b", "))
        assert {b"x-request-id", b"retry-after", b"x-ratelimit-limit-tokens"} <= exposed
        assert {name.encode() for name in headers_of_jobs()} <= exposed


async def test_any_origin_may_be_allowed() -> None:
    answer = await ask(ok, headers=[JSON, ONE_BYTE, (b"origin", STRANGER)], cors=cors("*"))

    assert answer.headers[b"access-control-allow-origin"] == b"*"
    assert b"vary" not in answer.headers


async def test_credentials_are_allowed_to_an_origin_by_name() -> None:
    for allowed in (cors(credentials=True), cors("*", credentials=True)):
        answer = await ask(ok, headers=[JSON, ONE_BYTE, (b"origin", PAGE)], cors=allowed)

        assert answer.headers[b"access-control-allow-origin"] == PAGE
        assert answer.headers[b"access-control-allow-credentials"] == b"true"
        assert answer.headers[b"vary"] == b"Origin"


async def test_a_plain_options_request_is_no_preflight() -> None:
    answer = await ask(refuses, method="OPTIONS", headers=[(b"origin", PAGE)], cors=cors())

    assert (answer.status, answer.headers[b"access-control-allow-origin"]) == (401, PAGE)


async def test_only_options_makes_a_preflight() -> None:
    answer = await ask(refuses, headers=[JSON, ONE_BYTE, (b"origin", PAGE), PREFLIGHT], cors=cors())

    assert answer.status == 401


async def test_a_request_of_no_browser_is_told_nothing_of_cors() -> None:
    answer = await ask(ok, cors=cors())

    assert of_cors(answer) == {}
