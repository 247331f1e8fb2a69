"""Failures, through the official OpenAI client: its own exception classes, with what they are about."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.contract.broker import REQUEST_TIMEOUT_SECONDS, BrokerUnderTest
from tests.contract.openai_sdk.conversation import ANTHROPIC, BOTH, OPENAI, Heard, hear, say, script
from tests.fakes.server_process import free_port

pytestmark = pytest.mark.xdist_group("contract")


@dataclass(frozen=True, kw_only=True)
class Failure:
    """What is asked, and what is to be raised."""

    name: str
    raises: type[openai.APIStatusError]
    status: int
    code: str | None
    says: str
    param: str | None = None
    messages: list[ChatCompletionMessageParam] = field(default_factory=lambda: say("Hello"))
    extra: dict[str, Any] = field(default_factory=dict)
    model: str = OPENAI
    headers: dict[str, str] = field(default_factory=dict)


REFUSED_HERE = [
    Failure(
        name="no messages",
        raises=openai.UnprocessableEntityError,
        status=422,
        code=None,
        param="messages",
        says="messages",
        messages=[],
    ),
    Failure(
        name="a parameter out of range",
        raises=openai.UnprocessableEntityError,
        status=422,
        code=None,
        param="temperature",
        says="less than or equal to 2",
        extra={"temperature": 9},
    ),
    Failure(
        name="a role nobody knows",
        raises=openai.UnprocessableEntityError,
        status=422,
        code=None,
        param="messages[0].role",
        says="must be one of",
        extra={"messages": [{"role": "oracle", "content": "Hello"}]},
    ),
    Failure(
        name="nesting without end",
        raises=openai.BadRequestError,
        status=400,
        code="too_complex",
        says="nested deeper",
        extra={"deep": [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]},
    ),
    Failure(
        name="an empty idempotency key",
        raises=openai.BadRequestError,
        status=400,
        code="bad_request",
        param="Idempotency-Key",
        says="Idempotency-Key",
        headers={"Idempotency-Key": ""},
    ),
    Failure(
        name="a model nobody serves",
        raises=openai.NotFoundError,
        status=404,
        code="model_not_found",
        param="model",
        says="does not exist",
        model="gpt-9-imaginary",
    ),
    Failure(
        name="a stream nobody knows",
        raises=openai.NotFoundError,
        status=404,
        code="not_found",
        says="no such stream",
        extra={"stream": True},
        headers={"last-event-id": f"job_{'0' * 32}:1"},
    ),
    Failure(
        name="a body of 11 MB",
        raises=openai.APIStatusError,
        status=413,
        code="payload_too_large",
        says="larger than",
        messages=say("x" * 11_000_000),
    ),
    Failure(
        name="a body that is said to be no JSON",
        raises=openai.APIStatusError,
        status=415,
        code="unsupported_content",
        says="application/json",
        headers={"content-type": "text/plain"},
    ),
]


def _answered(
    status: int, raises: type[openai.APIStatusError], *, as_status: int, code: str, says: str, **cue: Any
) -> Failure:
    return Failure(
        name=f"{status} {cue.get('error_code', '')}".strip(),
        raises=raises,
        status=as_status,
        code=code,
        says=says,
        messages=script(status=status, **cue),
    )


_BAD_REQUEST, _ABSENT = openai.BadRequestError, openai.NotFoundError
_UNPROCESSABLE, _BROKEN = openai.UnprocessableEntityError, openai.InternalServerError
REFUSED_BY_THE_PROVIDER = [
    _answered(
        400,
        _BAD_REQUEST,
        as_status=400,
        code="context_length_exceeded",
        says="Too long by half.",
        error_code="context_length_exceeded",
        error_message="Too long by half.",
    ),
    _answered(404, _ABSENT, as_status=404, code="model_not_found", says="Gone.", error_message="Gone."),
    _answered(
        413, openai.APIStatusError, as_status=413, code="provider_rejected", says="Scripted status 413"
    ),
    _answered(422, _UNPROCESSABLE, as_status=422, code="provider_rejected", says="Scripted status 422"),
    _answered(429, openai.RateLimitError, as_status=429, code="rate_limit_exceeded", says="limits the rate"),
    _answered(401, _BROKEN, as_status=502, code="provider_credential_refused", says="The gateway's key"),
    _answered(402, _BROKEN, as_status=502, code="provider_credential_refused", says="out of credit"),
    _answered(403, _BROKEN, as_status=502, code="provider_credential_refused", says="The gateway's key"),
    _answered(500, _BROKEN, as_status=502, code="provider_unavailable", says="failed to answer"),
    _answered(503, _BROKEN, as_status=503, code="provider_unavailable", says="overloaded"),
    _answered(418, _BROKEN, as_status=502, code="provider_error", says="unexpected answer"),
]


@pytest.mark.parametrize("failure", REFUSED_HERE, ids=lambda failure: failure.name)
def test_a_refused_request_raises_what_openai_would_raise(client: openai.OpenAI, failure: Failure) -> None:
    _expect(client, failure)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("failure", REFUSED_BY_THE_PROVIDER, ids=lambda failure: failure.name)
def test_a_failing_provider_raises_what_openai_would_raise(
    client: openai.OpenAI, failure: Failure, stream: bool
) -> None:
    """A stream whose first event is an error has that error's status, as long as we hold it."""
    _expect(client, failure, stream=stream)


@pytest.mark.parametrize("model", BOTH)
@pytest.mark.parametrize("garbage", ["html", "truncated_json", "wrong_schema", "invalid_utf8", "nan"])
def test_an_answer_that_is_none_is_an_error_and_never_an_empty_completion(
    client: openai.OpenAI, model: str, garbage: str
) -> None:
    with pytest.raises(openai.InternalServerError) as raised:
        client.chat.completions.create(model=model, messages=script(garbage=garbage))

    assert raised.value.status_code == 502
    assert raised.value.code == "invalid_response"


@pytest.mark.parametrize("status", [400, 404, 429, 529])
def test_errors_of_the_other_dialect_raise_the_same_classes(client: openai.OpenAI, status: int) -> None:
    raises: dict[int, type[openai.APIStatusError]] = {
        400: openai.BadRequestError,
        404: openai.NotFoundError,
        429: openai.RateLimitError,
        529: openai.InternalServerError,
    }

    with pytest.raises(raises[status]) as raised:
        client.chat.completions.create(model=ANTHROPIC, messages=script(status=status))

    assert raised.value.status_code == (503 if status == 529 else status)
    assert raised.value.code
    assert raised.value.request_id


@pytest.mark.parametrize("api_key", ["gw_live_of_nobody", "x", "gw_live_" + "0" * 57])
def test_a_wrong_key_is_an_authentication_error(broker: BrokerUnderTest, api_key: str) -> None:
    with (
        openai.OpenAI(base_url=broker.base_url, api_key=api_key, max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError) as raised,
    ):
        stranger.chat.completions.create(model=OPENAI, messages=say("Hello"))

    assert raised.value.code == "invalid_api_key"
    assert raised.value.request_id
    assert api_key not in str(raised.value.body)
    assert raised.value.response.headers["www-authenticate"] == "Bearer"


def test_a_stream_of_another_account_is_not_found(client: openai.OpenAI, broker: BrokerUnderTest) -> None:
    with client.chat.completions.with_streaming_response.create(
        model=OPENAI, messages=say("secret"), stream=True, extra_headers={"x-stream-ids": "true"}
    ) as response:
        lines = list(response.iter_lines())
    event_id = next(line.removeprefix("id: ") for line in lines if line.startswith("id: "))

    with (
        client.with_options(api_key=broker.other_api_key) as stranger,
        pytest.raises(openai.NotFoundError) as raised,
    ):
        stranger.chat.completions.create(
            model=OPENAI, messages=say("secret"), stream=True, extra_headers={"last-event-id": event_id}
        )

    assert raised.value.code == "not_found"


def test_an_idempotency_key_used_for_another_body_is_refused(client: openai.OpenAI) -> None:
    headers = {"Idempotency-Key": f"contract-{time.time_ns()}"}
    first = client.chat.completions.create(model=OPENAI, messages=say("One"), extra_headers=headers)
    again = client.chat.completions.create(model=OPENAI, messages=say("One"), extra_headers=headers)

    with pytest.raises(openai.UnprocessableEntityError) as raised:
        client.chat.completions.create(model=OPENAI, messages=say("Two"), extra_headers=headers)

    assert again.id == first.id
    assert raised.value.code == "idempotency_key_reused"


@pytest.mark.parametrize("model", BOTH)
def test_an_error_in_mid_stream_is_raised_after_what_came_before_it(
    client: openai.OpenAI, model: str
) -> None:
    heard = Heard()
    stream = client.chat.completions.create(
        model=model, messages=script(text="one two three", error_in_stream=2), stream=True
    )

    with pytest.raises(openai.APIError) as raised:
        hear(stream, heard)

    assert type(raised.value) is openai.APIError
    assert raised.value.code == "provider_unavailable"
    assert raised.value.message
    assert heard.text == "one two"
    assert heard.finish_reason is None


@pytest.mark.parametrize("model", BOTH)
@pytest.mark.parametrize("how", [{"cut": "fin"}, {"cut": "rst"}, {"garbage": "truncated_json"}], ids=str)
def test_a_stream_cut_short_never_looks_whole(client: openai.OpenAI, model: str, how: dict[str, str]) -> None:
    cue: dict[str, Any] = {"text": "one two three", "between_chunks_ms": 50, **how}
    if "cut" in how:
        cue["cut_after_chunks"] = 2
    heard = Heard()

    with pytest.raises(openai.APIError) as raised:
        hear(client.chat.completions.create(model=model, messages=script(**cue), stream=True), heard)

    assert raised.value.code in {"provider_unavailable", "invalid_response"}
    assert "one two three".startswith(heard.text)


def test_a_provider_that_never_answers_is_an_error_at_the_deadline(client: openai.OpenAI) -> None:
    started = time.monotonic()

    with pytest.raises(openai.InternalServerError) as raised:
        client.chat.completions.create(model=OPENAI, messages=script(hang="before_headers"))

    assert raised.value.status_code == 504
    assert raised.value.code in {"deadline_exceeded", "provider_timeout"}
    assert time.monotonic() - started < REQUEST_TIMEOUT_SECONDS + 3


def test_a_broker_that_is_not_there_is_a_connection_error() -> None:
    with (
        openai.OpenAI(base_url=f"http://127.0.0.1:{free_port()}/v1", api_key="x", max_retries=0) as lost,
        pytest.raises(openai.APIConnectionError),
    ):
        lost.chat.completions.create(model=OPENAI, messages=say("Hello"))


def _expect(client: openai.OpenAI, failure: Failure, *, stream: bool = False) -> None:
    with pytest.raises(openai.APIStatusError) as raised:
        client.chat.completions.create(
            model=failure.model,
            messages=failure.messages,
            extra_body={**failure.extra, **({"stream": True} if stream else {})},
            extra_headers=failure.headers,
        )

    error = raised.value
    assert type(error) is failure.raises
    assert error.status_code == failure.status
    assert error.code == failure.code
    assert error.param == failure.param
    assert failure.says in error.message
    assert error.request_id == error.response.headers["x-request-id"]
