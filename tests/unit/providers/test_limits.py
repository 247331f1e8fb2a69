"""Limit headers in every form that providers write them in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.providers.limits import Limit, read_limits, reset_moment

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("6m0s", 360),
        ("7.66s", 7.66),
        ("76ms", 0.076),
        ("1h2m3.5s", 3723.5),
        ("0s", 0),
        ("12", 12),
        ("1.5", 1.5),
        ("2026-01-01T00:01:00Z", 60),
        ("2026-01-01T01:01:00+01:00", 60),
        (str(int(NOW.timestamp()) + 60), 60),
        (str((int(NOW.timestamp()) + 60) * 1000), 60),
    ],
)
def test_every_form_of_a_reset_is_a_moment(text: str, seconds: float) -> None:
    moment = reset_moment(text, NOW)

    assert moment is not None
    assert abs((moment - NOW).total_seconds() - seconds) < 1e-3


@pytest.mark.parametrize("text", [None, "", "soon", "-1", "nan", "1e400", "6m0", "5 s", "9" * 400])
def test_what_is_none_is_left_out(text: str | None) -> None:
    assert reset_moment(text, NOW) is None


@given(text=st.text(max_size=30))
def test_no_text_breaks_it(text: str) -> None:
    reset_moment(text, NOW)
    read_limits({"x-ratelimit-limit-requests": text, "x-ratelimit-reset-requests": text}, NOW)


def test_openais_and_anthropics_names_are_read_alike() -> None:
    openai = read_limits(
        {
            "x-ratelimit-limit-tokens": "200000",
            "x-ratelimit-remaining-tokens": "199983",
            "x-ratelimit-reset-tokens": "6m0s",
        },
        NOW,
    )
    anthropic = read_limits(
        {
            "anthropic-ratelimit-input-tokens-limit": "400000",
            "anthropic-ratelimit-input-tokens-remaining": "0",
            "anthropic-ratelimit-input-tokens-reset": "2026-01-01T00:01:00Z",
        },
        NOW,
    )

    assert openai is not None
    assert openai.tokens == Limit(200_000, 199_983, NOW + timedelta(minutes=6))
    assert openai.requests is None
    assert anthropic is not None
    assert anthropic.input_tokens == Limit(400_000, 0, NOW + timedelta(minutes=1))
    assert anthropic.to_fields() == {
        "input_tokens": {"limit": 400_000, "remaining": 0, "reset_at": "2026-01-01T00:01:00+00:00"}
    }


def test_limits_without_a_subject_are_those_of_requests() -> None:
    limits = read_limits({"x-ratelimit-limit": "20", "x-ratelimit-remaining": "19"}, NOW)

    assert limits is not None
    assert limits.requests == Limit(20, 19, None)


def test_headers_that_say_nothing_of_limits_are_no_limits() -> None:
    assert read_limits({"content-type": "application/json", "x-ratelimit-reset": "1"}, NOW) is None
