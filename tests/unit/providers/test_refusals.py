from __future__ import annotations

import string
from datetime import UTC, datetime

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.clock import ManualClock
from shared.errors import (
    ProviderCredentialRefused,
    ProviderError,
    ProviderRateLimited,
    ProviderRejected,
    ProviderUnavailable,
)
from shared.providers import refusals
from shared.providers.retry_after import retry_after_seconds
from tests.unit.providers.support import ANTHROPIC, OPENAI, VLLM, golden


def refused(status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> ProviderError:
    return refusals.from_http(status, headers or {}, body, profile=OPENAI)


def openai_error(**fields: object) -> bytes:
    return orjson.dumps({"error": {"message": "m", "type": "t", "param": None, "code": None, **fields}})


@pytest.mark.parametrize(
    ("answered", "body", "kind", "status", "retryable", "counts"),
    [
        (400, openai_error(), ProviderRejected, 400, False, False),
        (404, openai_error(), ProviderRejected, 404, False, False),
        (413, b"<html>", ProviderRejected, 413, False, False),
        (422, openai_error(), ProviderRejected, 422, False, False),
        (401, openai_error(), ProviderCredentialRefused, 502, False, False),
        (402, openai_error(), ProviderCredentialRefused, 502, False, False),
        (403, openai_error(), ProviderCredentialRefused, 502, False, False),
        (429, openai_error(), ProviderRateLimited, 429, True, False),
        (429, openai_error(code="insufficient_quota"), ProviderCredentialRefused, 502, False, False),
        (429, openai_error(type="insufficient_quota"), ProviderCredentialRefused, 502, False, False),
        (408, b"", ProviderUnavailable, 502, True, True),
        (500, openai_error(), ProviderUnavailable, 502, True, True),
        (502, b"<html>", ProviderUnavailable, 502, True, True),
        (504, b"", ProviderUnavailable, 502, True, True),
        (503, openai_error(), ProviderUnavailable, 503, True, True),
        (529, b"", ProviderUnavailable, 503, True, True),
        (400, b"<html>bad gateway config</html>", ProviderError, 502, False, False),
        (404, b"", ProviderError, 502, False, False),
        (404, b'{"detail":"Not Found"}', ProviderError, 502, False, False),
        (301, b"", ProviderError, 502, False, False),
        (409, openai_error(), ProviderError, 502, False, False),
    ],
)
def test_each_situation_has_its_own_error(
    answered: int, body: bytes, kind: type[ProviderError], status: int, retryable: bool, counts: bool
) -> None:
    error = refused(answered, body)

    assert type(error) is kind
    assert error.status == status
    assert error.retryable is retryable
    assert error.counts_for_breaker is counts
    assert error.provider == "openai"
    assert error.provider_status == answered


def test_what_is_about_the_callers_request_is_passed_on() -> None:
    error = refused(400, golden("openai/context_length.400.error.json"))

    assert error.message.startswith("This model's maximum context length is 8192 tokens.")
    assert error.param == "messages"
    assert error.code == "context_length_exceeded"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (401, golden("openai/invalid_key.401.error.json")),
        (403, openai_error(message="secret")),
        (429, openai_error(message="secret")),
        (500, openai_error(message="secret")),
        (503, b"secret"),
        (404, b"secret"),
        (301, openai_error(message="secret")),
    ],
)
def test_what_is_not_about_the_request_is_said_in_our_words(status: int, body: bytes) -> None:
    error = refused(status, body)

    assert "secret" not in error.message
    assert "sk-" not in error.message
    assert "OpenAI" in error.message


def test_a_long_message_with_control_characters_is_cut_and_cleaned() -> None:
    error = refused(400, openai_error(message="bad\r\n\x1b[31m\u202ered" + "x" * 5000))

    assert len(error.message) <= 1000
    assert error.message.startswith("bad   [31m red")
    assert error.message.isprintable()


@pytest.mark.parametrize("code", [400, "400", "None", "", "a b", "x" * 99, None, ["x"]])
def test_a_code_that_is_none_is_not_passed_on(code: object) -> None:
    assert refused(400, openai_error(code=code, param="None")).code == "provider_rejected"


def test_an_unknown_model_always_says_so() -> None:
    error = refusals.from_http(404, {}, golden("anthropic/unknown_model.404.error.json"), profile=ANTHROPIC)

    assert error.status == 404
    assert error.code == "model_not_found"
    assert error.message == "model: claude-nine"


def test_anthropics_empty_account_is_not_the_callers_mistake() -> None:
    error = refusals.from_http(400, {}, golden("anthropic/out_of_credit.400.error.json"), profile=ANTHROPIC)

    assert type(error) is ProviderCredentialRefused
    assert error.message == "The gateway's key at Anthropic is out of credit."


def test_an_account_on_hold_is_not_the_callers_mistake() -> None:
    body = openai_error(type="invalid_request_error", details={"error_code": "organization_on_hold"})

    assert type(refused(400, body)) is ProviderCredentialRefused


@pytest.mark.parametrize(
    ("body", "message", "param"),
    [
        (golden("vllm/context_length.400.error.json"), "You passed 1015 input tokens", "input_tokens"),
        (golden("vllm/old_form.400.error.json"), "max_tokens must be at least 1", None),
        (b'{"error":"plain text"}', "plain text", None),
        (b'{"detail":"plain text"}', "plain text", None),
        (b'{"detail":[{"loc":["body","messages",0],"msg":"missing","type":"x"}]}', "missing", "messages.0"),
    ],
)
def test_every_form_of_error_body_is_read(body: bytes, message: str, param: str | None) -> None:
    error = refusals.from_http(400, {}, body, profile=VLLM)

    assert error.message.startswith(message)
    assert error.param == param


@given(status=st.integers(100, 599), body=st.binary(max_size=60))
def test_no_body_makes_reading_an_error_fail(status: int, body: bytes) -> None:
    assert isinstance(refused(status, body), ProviderError)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(0, 600) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["error", "message", "type", "code", "param", "detail", "loc", "msg"]), inner
        )
    ),
    max_leaves=12,
)


@given(status=st.sampled_from([400, 404, 422, 429, 500]), document=json_values)
def test_no_document_makes_reading_an_error_fail(status: int, document: object) -> None:
    assert refused(status, orjson.dumps(document)).message


NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": " 7 "}, 7),
        ({"retry-after": "0"}, 0),
        ({"retry-after": "-5"}, 0),
        ({"retry-after": "86400"}, 60),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after-ms": "1500", "retry-after": "7"}, 1.5),
        ({"retry-after-ms": "x", "retry-after": "7"}, 7),
        ({"retry-after": "Thu, 01 Jan 2026 12:00:09 GMT"}, 9),
        ({"retry-after": "Thu, 01 Jan 2026 11:00:00 GMT"}, 0),
        ({"retry-after": "Thu, 01 Jan 2026 12:00:09 GMT", "date": "Thu, 01 Jan 2026 12:00:06 GMT"}, 3),
        ({"retry-after": "Thu, 01 Jan 99999999999 12:00:09 GMT"}, None),
    ],
)
def test_the_wish_to_wait_is_read_in_every_form(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_seconds(headers, clock=ManualClock(NOW)) == seconds


@given(st.text(alphabet=string.printable, max_size=40))
def test_no_wish_makes_reading_it_fail(wish: str) -> None:
    seconds = retry_after_seconds({"retry-after": wish}, clock=ManualClock(NOW))

    assert seconds is None or 0 <= seconds <= 60


@pytest.mark.parametrize("status", [429, 500, 503, 402])
def test_the_wish_travels_with_the_error_whatever_the_case_of_its_name(status: int) -> None:
    assert refused(status, b"", {"Retry-After": "3"}).retry_after_seconds == 3
