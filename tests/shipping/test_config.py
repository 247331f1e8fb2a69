"""`headrace config`: everything that is wrong at once, with its line; and every setting with its source."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cli.main import app

SECRET = "xK9-canary-Zq3vT7mW1pL5sR8uY2bN6hD4"

Settle = Callable[..., Result]


@pytest.fixture
def headrace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settle:
    """A command in an empty folder, with these variables alone."""
    for name in list(os.environ):
        if name.upper().startswith("HEADRACE_") or name.endswith(("_API_KEY", "_BASE_URL", "_TOKEN", "_URL")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def run(*words: str, **environment: str) -> Result:
        return CliRunner().invoke(app, ["config", *words], env=environment)

    return run


def test_settings_that_can_be_used(headrace: Settle) -> None:
    done = headrace("check")

    assert (done.exit_code, done.output) == (0, "The settings can be used.\n")


def test_all_that_is_wrong_is_told_at_once(headrace: Settle) -> None:
    done = headrace(
        "check",
        HEADRACE_ENVIRONMENT="production",
        JWT_SECRET="a" * 40,
        DATABASE_URL="mysql://somewhere",
        REDIS_URL="redis://127.0.0.1:6379/0",
        HEADRACE_LOG__LEVEL="DEBUG",
        HEADRACE_ADMIN_EMAIL="me@example.com",
        FAULTPOINTS="W2@x",
    )

    assert done.exit_code == os.EX_CONFIG
    assert sorted({line.split()[0].rstrip(":") for line in done.stderr.splitlines()}) == [
        *("DATABASE_URL", "FAULTPOINTS", "HEADRACE_ADMIN_EMAIL", "HEADRACE_KEY_PEPPER"),
        *("HEADRACE_LOG__LEVEL", "JWT_SECRET", "REDIS_URL"),
    ]


def test_settings_of_a_wrong_form_are_all_told(headrace: Settle) -> None:
    done = headrace("check", PORT="http", HEADRACE_QUEUE__SHARDS="0", HEADRACE_WORKER__SLOT="4")

    assert done.exit_code == os.EX_CONFIG
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == [
        "HEADRACE_PORT or PORT",
        "HEADRACE_QUEUE__SHARDS",
        "HEADRACE_WORKER__SLOT",
    ]


PROVIDERS = """
[[endpoint]]
id = "lab"
base_url = "ftp://lab.example"

[[endpoint]]
id = "openai"
base_url = "https://other.example/v1"
colour = "red"

[providers.openai]
limits = { requests_per_minute = 0 }
"""
CATALOGUE = """
# House models.
[[model]]
id = "house-7b"
provider = "vllm"
context_tokens = -1
capabilities = ["chat"]
"""
ROUTING = """
[routes.house]
policy = "coin"
targets = ["openai/gpt-4o-mini"]

[fallbacks]
"openai/gpt-4o" = []
"""


@pytest.mark.parametrize(
    ("variable", "text", "lines"),
    [
        ("HEADRACE_PROVIDERS_FILE", PROVIDERS, [4, 9, 12]),
        ("HEADRACE_CATALOGUE_FILE", CATALOGUE, [6]),
        ("HEADRACE_ROUTING_FILE", ROUTING, [3, 7]),
        (
            "HEADRACE_ROUTING_FILE",
            '[routes.house]\ntargets = ["openai/gpt-4o-mini", "nobody/nothing"]\n',
            [2],
        ),
        ("HEADRACE_CATALOGUE_FILE", "[[model]\n", [1]),
    ],
)
def test_what_is_wrong_in_a_file_is_told_by_its_line(
    headrace: Settle, tmp_path: Path, variable: str, text: str, lines: list[int]
) -> None:
    file = tmp_path / "file.toml"
    file.write_text(text)

    done = headrace("check", **{variable: str(file)})

    assert done.exit_code == os.EX_CONFIG
    told = done.stderr.splitlines()
    assert len(told) == len(lines), done.stderr
    for line, number in zip(told, lines, strict=True):
        assert line.startswith(f"{variable}: {file}, line {number}: "), line


def test_a_file_that_is_not_there(headrace: Settle) -> None:
    done = headrace("check", HEADRACE_ROUTING_FILE="nowhere.toml")

    assert done.exit_code == os.EX_CONFIG
    assert done.stderr == "HEADRACE_ROUTING_FILE: nowhere.toml: No such file or directory\n"


def test_unknown_variables_are_warned_of_with_what_was_meant(headrace: Settle) -> None:
    done = headrace("check", "--json", HEADRACE_KEY_PEPER=SECRET, HEADRACE_URL="http://broker.example")

    assert done.exit_code == 0
    assert json.loads(done.stdout) == {
        "problems": [],
        "warnings": [
            "HEADRACE_KEY_PEPER: no setting has this name, so nothing reads it. Is HEADRACE_KEY_PEPPER meant?"
        ],
    }


def test_every_setting_is_shown_with_its_source_and_no_secret(headrace: Settle, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("HEADRACE_WORKER__SLOTS=32\nPORT=9001\n")

    done = headrace(
        "show",
        "--json",
        HEADRACE_KEY_PEPPER=SECRET,
        DATABASE_URL=f"postgresql://me:{SECRET}@db/headrace",
        PORT="9000",
        AI_GATEWAY_MAX_RETRIES="4",
    )

    shown = json.loads(done.stdout)
    assert SECRET not in done.output
    assert shown["HEADRACE_KEY_PEPPER"] == {"value": "********", "from": "HEADRACE_KEY_PEPPER (environment)"}
    assert shown["HEADRACE_DATABASE_URL"]["from"] == "DATABASE_URL (environment)"
    assert shown["HEADRACE_PORT"] == {"value": 9000, "from": "PORT (environment)"}
    assert shown["HEADRACE_WORKER__SLOTS"] == {"value": 32, "from": "HEADRACE_WORKER__SLOTS (.env)"}
    assert shown["HEADRACE_QUEUE__MAX_ATTEMPTS"] == {
        "value": 5,
        "from": "AI_GATEWAY_MAX_RETRIES (environment)",
    }
    assert shown["HEADRACE_QUEUE__SHARDS"] == {"value": 1, "from": "default"}


def test_only_what_was_set_is_shown_as_a_table(headrace: Settle) -> None:
    done = headrace("show", "--set", HEADRACE_WORKER__SLOTS="32")

    assert done.stdout.splitlines()[0].split() == ["SETTING", "VALUE", "FROM"]
    assert [line.split()[:2] for line in done.stdout.splitlines()[1:]] == [["HEADRACE_WORKER__SLOTS", "32"]]
