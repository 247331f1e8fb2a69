"""The logging policy: one line an event, nothing secret in it, nothing a caller wrote obeyed by it."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from loguru import logger as log

from shared.observability.logging import MASK, log_fast
from shared.settings import LogSettings
from tests.unit.observability.log_lines import LogLines, captured


@pytest.fixture
def lines() -> Iterator[LogLines]:
    with captured() as lines:
        yield lines


def test_an_event_is_one_json_line_with_its_fields(lines: LogLines) -> None:
    log.info("job reclaimed", job_id="job_1", attempt=2, idle_seconds=31.4, cached=True, error=None)

    (line,) = lines.events()
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "INFO",
        "event": "job reclaimed",
        "job_id": "job_1",
        "attempt": 2,
        "idle_seconds": 31.4,
        "cached": True,
        "error": None,
    }


def test_a_line_says_its_region_where_there_is_one() -> None:
    with captured(region="eu-west-1") as lines:
        log.info("told")
        log_fast("told", {"status": 200})
    with captured(LogSettings(format="text"), region="eu-west-1") as readable:
        log.info("told")

    assert [line["region"] for line in lines.events()] == ["eu-west-1"] * 2
    assert b"eu-west-1" not in readable.getvalue()


def test_the_short_way_writes_the_same_line(lines: LogLines) -> None:
    log.info("request", status=200, route="/v1/models")
    log_fast("request", {"status": 200, "route": "/v1/models"})

    long, short = ({name: line[name] for name in line if name != "time"} for line in lines.events())
    assert list(long.items()) == list(short.items())


def test_the_short_way_keeps_the_level() -> None:
    with captured(LogSettings(format="json", level="WARNING")) as lines:
        log_fast("request", {"status": 200})

    assert lines.events() == []


@pytest.mark.parametrize("text", ["{", "}", "{0}", "{x}", "{x.__class__}", "{x!r:>{width}}", "%s", "<red>"])
def test_braces_in_somebodys_text_do_nothing(lines: LogLines, text: str) -> None:
    log.warning("told", x=text)
    log_fast("told", {"x": text})
    logging.getLogger("httpx").warning(text)
    logging.getLogger("httpx").warning("told: %s", text)

    first, second, third, fourth = lines.events()
    assert (first["x"], second["x"], third["event"], fourth["event"]) == (text, text, text, f"told: {text}")


def test_control_characters_never_reach_the_stream(lines: LogLines) -> None:
    text = "\x1b[31mred\r\n{}\x00\x7f\x9b2J\u2028\u2029"

    log.info("told", x=text)

    raw = lines.getvalue().decode()
    assert raw.count("\n") == 1
    assert raw.rstrip("\n").isprintable()
    assert lines.events()[0]["x"] == text


@pytest.mark.parametrize(
    "secret",
    [
        "sk-proj-abcdefghijklmnop",
        "gw_live_0123456789abcdef",
        "AIzaSyA0123456789",
        "hrmaster_0123456789abcdef",
        "hf_abcdefghijk",
        "Bearer abc.def-ghi",
        "bearer  abc",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
        "redis://:hunter22@redis:6379/0",
        "postgresql+asyncpg://user:hunter22@db/x",
        "https://api.example/v1?key=hunter22&x=1",
    ],
)
def test_what_looks_like_a_secret_is_masked_wherever_it_stands(lines: LogLines, secret: str) -> None:
    log.info("told", x=f"before {secret} after", nested={"list": [secret]})
    logging.getLogger("httpx").warning("GET %s", secret)
    log_fast("told", {"x": secret})

    raw = lines.getvalue().decode()
    assert secret not in raw
    assert "hunter22" not in raw
    assert raw.count(MASK) == 4


@pytest.mark.parametrize(
    "name",
    [
        *("password", "api_key", "x-api-key", "authorization", "token", "refresh_token", "secret"),
        *("key_pepper", "cookie", "prompt", "messages", "completion", "body"),
    ],
)
def test_a_field_with_a_telling_name_is_masked_whatever_it_holds(lines: LogLines, name: str) -> None:
    log.info("told", **{name: "plain"}, nested={name: {"a": "plain"}})

    assert "plain" not in lines.getvalue().decode()


def test_fields_that_only_resemble_a_secret_are_kept(lines: LogLines) -> None:
    log.info("told", prompt_tokens=5, tokens="many", api_key_id="key_1", messages=3, redis="redis://h:1/0")

    (line,) = lines.events()
    assert line["prompt_tokens"] == 5
    assert (line["tokens"], line["api_key_id"], line["messages"]) == ("many", "key_1", 3)
    assert line["redis"] == "redis://h:1/0"


def test_a_traceback_shows_no_values_of_variables(lines: LogLines) -> None:
    def fail(secret: str) -> None:
        raise ValueError("sk-leaked-in-the-message")

    try:
        fail("a local " + "value")
    except ValueError as exc:
        log.opt(exception=exc).error("request failed", request_id="req_1")

    (line,) = lines.events()
    assert "ValueError" in line["traceback"]
    assert "in fail" in line["traceback"]
    assert "a local value" not in line["traceback"]
    assert "sk-leaked" not in line["traceback"]


def test_long_text_is_cut_and_says_how_long_it_was(lines: LogLines) -> None:
    log.info("told", x="x" * 10_000)

    assert len(lines.events()[0]["x"]) < 2_100
    assert "(10000 characters)" in lines.events()[0]["x"]


def test_values_that_json_does_not_know_are_written_as_text(lines: LogLines) -> None:
    log.info("told", half="\ud800", big=10**30, kind=ValueError, raw=b"\xff", several={1})

    (line,) = lines.events()
    assert line["kind"] == "<class 'ValueError'>"
    assert line["several"] == [1]


@pytest.mark.parametrize("name", ["uvicorn", "uvicorn.access", "httpx", "arq", "sqlalchemy.engine"])
def test_other_libraries_are_heard_from_warning_on(lines: LogLines, name: str) -> None:
    logging.getLogger(name).info("quiet")
    logging.getLogger(name).warning("loud")

    (line,) = lines.events()
    assert (line["event"], line["level"], line["logger"]) == ("loud", "WARNING", name)


def test_a_stream_that_breaks_loses_lines_and_nothing_else() -> None:
    with captured() as lines:
        lines.close()
        log.info("told")
        log_fast("told", {})


def test_a_terminal_gets_readable_text() -> None:
    with captured(LogSettings(format="auto"), terminal=True) as lines:
        log.warning("queue not reachable", failures=3, reason="a\nb", detail={"a": 1})

    text = lines.getvalue().decode()
    assert 'WARNING queue not reachable  failures=3  reason=a\\nb  detail={"a":1}' in text
    assert text.startswith("\x1b[33m")
    assert text.count("\n") == 1


def test_anything_else_gets_json() -> None:
    with captured(LogSettings(format="auto"), terminal=False) as lines:
        log.info("told")

    assert lines.events()[0]["event"] == "told"
