"""The variables that set a grouped setting by a name of its own."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from shared.settings import Settings

TIMEOUT, RETRIES = "AI_GATEWAY_REQUEST_TIMEOUT", "AI_GATEWAY_MAX_RETRIES"


def settings() -> Settings:
    return Settings(_env_file=None)


def test_a_timeout_in_milliseconds_is_the_request_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TIMEOUT, "30000")

    assert settings().api.request_timeout_seconds == 30


def test_retries_are_the_attempts_after_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RETRIES, "0")

    assert settings().queue.max_attempts == 1


def test_other_settings_of_their_groups_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TIMEOUT, "30000")
    monkeypatch.setenv(RETRIES, "4")
    monkeypatch.setenv("HEADRACE_API__HEARTBEAT_SECONDS", "3")
    monkeypatch.setenv("HEADRACE_QUEUE__MAX_DELIVERIES", "7")

    found = settings()

    assert (found.api.request_timeout_seconds, found.api.heartbeat_seconds) == (30, 3)
    assert (found.queue.max_attempts, found.queue.max_deliveries) == (5, 7)


def test_our_own_names_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TIMEOUT, "30000")
    monkeypatch.setenv(RETRIES, "4")
    monkeypatch.setenv("HEADRACE_API__REQUEST_TIMEOUT_SECONDS", "45")
    monkeypatch.setenv("HEADRACE_QUEUE__MAX_ATTEMPTS", "2")

    found = settings()

    assert found.api.request_timeout_seconds == 45
    assert found.queue.max_attempts == 2


def test_without_them_nothing_changes() -> None:
    assert settings().api.request_timeout_seconds == 600
    assert settings().queue.max_attempts == 3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (TIMEOUT, "0"),
        (TIMEOUT, "30s"),
        (RETRIES, "-1"),
        (RETRIES, "two"),
        ("OPENAI_MODEL", "gpt 4"),
        ("OPENAI_MAX_TOKENS", "0"),
    ],
)
def test_a_bad_value_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(ValidationError, match=name):
        settings()


def test_the_default_model_and_length_are_those_of_the_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (settings().openai_model, settings().openai_max_tokens) == ("gpt-3.5-turbo", 2000)
    monkeypatch.setenv("OPENAI_MODEL", "gpt-4o")
    monkeypatch.setenv("OPENAI_MAX_TOKENS", "50")

    assert (settings().openai_model, settings().openai_max_tokens) == ("gpt-4o", 50)
