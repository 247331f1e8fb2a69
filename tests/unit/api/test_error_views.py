from __future__ import annotations

from typing import Any

import orjson
import pytest
from fastapi import FastAPI, Query
from httpx import ASGITransport, AsyncClient
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.exceptions import HTTPException

from api import error_views
from api.error_views import render, stream_frame
from shared import errors
from shared.domain.job import Surface
from shared.errors import BrokerError
from shared.ids import RequestId
from shared.requests.problems import from_pydantic

REQUEST = RequestId("req_0123456789")

ALL_ERRORS = [
    BrokerError("m"),
    errors.InvalidRequest("m", param="a"),
    errors.InvalidJson("m"),
    errors.TooComplex("m"),
    errors.BadRequest("m"),
    errors.UnsupportedContent("m"),
    errors.MethodNotAllowed("m"),
    errors.HeadersTooLarge("m"),
    errors.PayloadTooLarge("m"),
    errors.AuthenticationFailed("m"),
    errors.NotAuthorized("m"),
    errors.NotFound("m"),
    errors.ModelNotFound("m", param="model"),
    errors.Conflict("m"),
    errors.IdempotencyMismatch("m"),
    errors.JobForgotten("m"),
    errors.JobCancelled("m"),
    errors.Overloaded("m"),
    errors.QueueFull("m", retry_after_seconds=3),
    errors.DeadlineExceeded("m"),
    errors.ProviderUnavailable("m", provider="openai"),
    errors.ProviderTimeout("m", provider="openai"),
    errors.ProviderRateLimited("m", provider="openai", retry_after_seconds=0.2),
    errors.ProviderRejected("m", provider="openai", status=400, provider_status=400),
    errors.ProviderCredentialRefused("m", provider="openai"),
]
every_error = pytest.mark.parametrize("error", ALL_ERRORS, ids=lambda error: type(error).__name__)


def view(error: BrokerError, surface: Surface) -> dict[str, Any]:
    document: dict[str, dict[str, Any]] = orjson.loads(render(error, surface, REQUEST)[2])
    assert list(document) == ["error"]
    return document["error"]


def headers(error: BrokerError) -> dict[bytes, bytes]:
    return dict(render(error, Surface.OPENAI, REQUEST)[1])


@every_error
def test_the_openai_form_has_exactly_the_fields_its_clients_read(error: BrokerError) -> None:
    assert list(view(error, Surface.OPENAI)) == ["message", "type", "param", "code"]


@every_error
def test_the_unified_form_has_exactly_the_fields_that_were_promised(error: BrokerError) -> None:
    told = view(error, Surface.UNIFIED)

    assert list(told) == ["type", "message", "details", "trace_id"]
    assert (told["type"], told["trace_id"]) == (error.type, REQUEST)


@every_error
def test_status_and_length_are_those_of_the_answer(error: BrokerError) -> None:
    status, sent, body = render(error, Surface.UNIFIED, REQUEST)

    assert status == error.status
    assert dict(sent)[b"content-length"] == str(len(body)).encode()
    assert dict(sent)[b"content-type"] == b"application/json"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errors.InvalidJson("m"), "invalid_request_error"),
        (errors.AuthenticationFailed("m"), "invalid_request_error"),
        (errors.ModelNotFound("m"), "invalid_request_error"),
        (errors.ProviderRateLimited("m", provider="openai"), "rate_limit_error"),
        (errors.ProviderRateLimited("m", provider="openai", code="insufficient_quota"), "insufficient_quota"),
        (errors.QueueFull("m"), "server_error"),
        (BrokerError("m"), "server_error"),
    ],
)
def test_the_openai_type_is_one_its_clients_know(error: BrokerError, kind: str) -> None:
    assert view(error, Surface.OPENAI)["type"] == kind


def test_code_and_param_stand_among_the_details_of_the_unified_form() -> None:
    error = errors.ModelNotFound("m", param="model", details={"provider": "openai", "model": "gpt-9"})

    assert view(error, Surface.UNIFIED)["details"] == {
        "provider": "openai",
        "model": "gpt-9",
        "code": "model_not_found",
        "param": "model",
    }


@pytest.mark.parametrize(
    ("asked", "told"), [(0.0, b"1"), (0.2, b"1"), (2.1, b"3"), (60, b"60"), (4_000, b"60")]
)
def test_retry_after_is_whole_seconds_that_every_client_honours(asked: float, told: bytes) -> None:
    assert headers(errors.QueueFull("m", retry_after_seconds=asked))[b"retry-after"] == told


def test_what_is_not_worth_trying_soon_says_how_long_it_takes() -> None:
    refused = errors.QuotaExceeded("m", retry_after_seconds=200_000)

    assert headers(refused)[b"retry-after"] == b"200000"
    assert headers(refused)[b"x-should-retry"] == b"false"


def test_an_overload_always_says_when_to_come_back() -> None:
    assert headers(errors.Overloaded("m"))[b"retry-after"] == b"1"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (errors.QueueFull("m"), b"true"),
        (errors.ProviderRateLimited("m", provider="openai"), b"true"),
        (errors.DeadlineExceeded("m"), b"false"),
        (errors.ProviderCredentialRefused("m", provider="openai"), b"false"),
        (errors.JobForgotten("m"), b"true"),
        (errors.JobCancelled("m"), b"false"),
        (BrokerError("m"), b"false"),
        (errors.InvalidRequest("m"), None),
    ],
)
def test_clients_are_told_whether_repeating_helps_where_they_would_repeat(
    error: BrokerError, told: bytes | None
) -> None:
    assert headers(error).get(b"x-should-retry") == told


def test_an_oversized_body_closes_the_connection_and_a_missing_key_says_how_to_send_one() -> None:
    assert headers(errors.PayloadTooLarge("m"))[b"connection"] == b"close"
    assert headers(errors.AuthenticationFailed("m"))[b"www-authenticate"] == b"Bearer"


@pytest.mark.parametrize(
    ("surface", "start"),
    [
        (Surface.OPENAI, b'data: {"error":{"message":'),
        (Surface.UNIFIED, b'data: {"error":{"type":'),
        (Surface.INFERENCE, b'data: {"error":{"type":'),
        (Surface.COHERE, b'data: {"id":'),
        (Surface.ANTHROPIC, b'event: error\ndata: {"type":"error","error":{"type":"api_error",'),
        (Surface.RESPONSES, b'event: error\ndata: {"type":"error","message":'),
    ],
)
def test_a_broken_stream_ends_with_one_error_frame_and_no_done(surface: Surface, start: bytes) -> None:
    frame = stream_frame(
        errors.ProviderUnavailable("line\r\nbreaks\n\n", provider="openai"), surface, REQUEST
    )

    assert frame.startswith(start)
    assert frame.endswith(b"}\n\n")
    assert frame.count(b"data: ") == 1
    assert frame.count(b"\n") == start.count(b"\n") + 2
    assert b"[DONE]" not in frame


def test_every_surface_has_a_frame_that_ends_it() -> None:
    error = errors.DeadlineExceeded("late")

    assert all(b"late" in stream_frame(error, surface, REQUEST) for surface in Surface)


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (errors.InvalidRequest("m"), 400, "invalid_request_error"),
        (errors.AuthenticationFailed("m"), 401, "authentication_error"),
        (errors.ModelNotFound("m"), 404, "not_found_error"),
        (errors.PayloadTooLarge("m"), 413, "request_too_large"),
        (errors.ProviderRateLimited("m", provider="p"), 429, "rate_limit_error"),
        (errors.ProviderUnavailable("m", provider="p"), 502, "api_error"),
        (errors.QueueFull("m"), 503, "overloaded_error"),
        (errors.ProviderTimeout("m", provider="p"), 504, "timeout_error"),
    ],
)
def test_anthropics_clients_are_told_in_their_own_words(error: BrokerError, status: int, kind: str) -> None:
    told, _, body = render(error, Surface.ANTHROPIC, REQUEST)

    assert told == status
    assert orjson.loads(body) == {
        "type": "error",
        "error": {"type": kind, "message": "m"},
        "request_id": REQUEST,
    }


def test_details_that_json_does_not_know_are_still_an_answer() -> None:
    error = errors.InvalidRequest("\ud800", details={"big": 10**40, "odd": object})

    assert view(error, Surface.UNIFIED)["details"]["big"] == 1e40


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    age: int = 0


def test_a_pydantic_error_becomes_paths_and_problems_without_values() -> None:
    with pytest.raises(ValidationError) as found:
        Strict.model_validate({"age": "SECRET", "other key": "SECRET"})

    error = from_pydantic(found.value)

    assert [problem["path"] for problem in error.details["errors"]] == ["name", "age", '["other key"]']
    assert error.param == "name"
    assert "SECRET" not in f"{error.message}{error.details}"


def test_a_field_called_like_a_place_of_parameters_is_told_by_its_name() -> None:
    class Search(BaseModel):
        query: int

    with pytest.raises(ValidationError) as found:
        Search.model_validate({"query": "SECRET"})

    assert from_pydantic(found.value).param == "query"


@pytest.fixture
def app() -> FastAPI:
    app = FastAPI()
    error_views.install(app)

    @app.get("/v1/limited")
    @app.get("/api/v1/limited")
    async def limited(limit: int = Query(le=100)) -> int:
        return limit

    @app.get("/v1/broken")
    @app.get("/api/v1/broken")
    async def broken(status: int) -> None:
        if status == 503:
            raise errors.QueueFull("The queue is full.", retry_after_seconds=7)
        raise HTTPException(status, "told", headers={"x-extra": "1"})

    return app


@pytest.fixture
def client(app: FastAPI) -> AsyncClient:
    return AsyncClient(transport=ASGITransport(app), base_url="http://test")


@pytest.mark.parametrize(("path", "field"), [("/v1/nowhere", "code"), ("/api/v1/nowhere", "trace_id")])
async def test_an_unknown_path_is_told_in_the_form_of_its_family(
    client: AsyncClient, path: str, field: str
) -> None:
    answer = await client.get(path)

    assert answer.status_code == 404
    assert answer.json()["error"][field]


async def test_a_known_path_with_another_method_is_405_and_names_the_methods(client: AsyncClient) -> None:
    answer = await client.post("/v1/limited")

    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")
    assert answer.json()["error"]["code"] == "method_not_allowed"


async def test_a_query_parameter_out_of_range_is_422_with_its_name_and_no_echo(client: AsyncClient) -> None:
    answer = await client.get("/api/v1/limited", params={"limit": "1000000000"})

    assert answer.status_code == 422
    assert answer.json()["error"]["details"]["errors"][0]["path"] == "limit"
    assert "1000000000" not in answer.text
    assert "ctx" not in answer.text


async def test_an_http_exception_keeps_its_status_and_its_headers(client: AsyncClient) -> None:
    answer = await client.get("/v1/broken", params={"status": 418})

    assert (answer.status_code, answer.headers["x-extra"]) == (418, "1")
    assert answer.json()["error"]["message"] == "told"


async def test_a_broker_error_raised_by_a_route_is_rendered(client: AsyncClient) -> None:
    answer = await client.get("/api/v1/broken", params={"status": 503})

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")
    assert answer.json()["error"]["details"]["code"] == "queue_full"
