"""What no process starts with in production, and does in development: exit 78, one line, no value."""

from __future__ import annotations

import gc
import os
import secrets
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import api.main
import scheduler.main
from cli import main
from cli.production import weakness
from shared import faultpoints
from tests.fakes.redis_server import RedisServer

SECRET, OTHER, THIRD = (secrets.token_urlsafe(32) for _ in range(3))
NOWHERE = f"redis://:{THIRD}@127.0.0.1:1/0"

GOOD = {
    "HEADRACE_ENVIRONMENT": "production",
    "REDIS_URL": NOWHERE,
    "HEADRACE_KEY_PEPPER": SECRET,
    "JWT_SECRET": OTHER,
    "OPENAI_API_KEY": "sk-something",
}
WEAK = {
    "short": "s" + secrets.token_urlsafe(16),
    "one letter": "a" * 40,
    "two letters": "xyyxyxxyyxxyxyyxyxxyxyyxxyyxyxxyyxyx",
    "a pattern": "abcd1234" * 5,
    "an example": "your-super-secret-jwt-key-change-in-production-min-32-chars",
    "a placeholder": "replace_me_with_a_long_random_string_please",
    "digits in a row": "0123456789abcdef0123456789abcdef",
}


@pytest.fixture(autouse=True)
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Names of the processes that were about to run."""
    names: list[str] = []

    async def run_api(*_: object) -> None:
        names.append("api")

    async def run_scheduler(*_: object) -> None:
        names.append("scheduler")

    monkeypatch.chdir(tmp_path)
    # What is armed here must not kill this process in another test.
    monkeypatch.setattr(faultpoints, "_armed", {})
    monkeypatch.setattr(api.main, "run_api", run_api)
    monkeypatch.setattr(scheduler.main, "run_scheduler", run_scheduler)
    monkeypatch.setattr(main, "configure_logging", lambda *_, **__: None)
    monkeypatch.setattr(gc, "freeze", lambda: None)
    monkeypatch.setattr(gc, "set_threshold", lambda *_: None)
    return names


def run(process: str = "api", **environment: str) -> Result:
    return CliRunner().invoke(main.app, [process], env={**GOOD, **environment})


def is_refused(result: Result, variable: str, *, hides: str = "") -> bool:
    """With exit code 78 and one line that opens with the variable."""
    assert result.exit_code == os.EX_CONFIG, result.output
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith(variable), result.stderr
    assert not hides or hides not in result.output
    return True


def test_a_production_that_is_set_up_well_starts(started: list[str]) -> None:
    for process in ("api", "scheduler"):
        assert run(process).exit_code == 0, run(process).output

    assert set(started) == {"api", "scheduler"}


@pytest.mark.parametrize("kind", [name for name in WEAK if name != "short"])
@pytest.mark.parametrize(
    "variable",
    [
        *("JWT_SECRET", "HEADRACE_JWT_SECRET_BEFORE", "HEADRACE_KEY_PEPPER", "HEADRACE_MASTER_KEY"),
        "HEADRACE_ADMIN_TOKEN",
    ],
)
def test_a_secret_that_can_be_guessed_is_refused(variable: str, kind: str, started: list[str]) -> None:
    result = run(**{variable: WEAK[kind]})

    assert is_refused(result, variable, hides=WEAK[kind])
    assert started == []
    # A master key has a form, in development too.
    in_development = os.EX_CONFIG if variable == "HEADRACE_MASTER_KEY" else 0
    assert run(**{variable: WEAK[kind], "HEADRACE_ENVIRONMENT": "development"}).exit_code == in_development


@pytest.mark.parametrize(
    ("variable", "named"),
    [
        ("JWT_SECRET", "HEADRACE_JWT_SECRET or JWT_SECRET"),
        ("HEADRACE_KEY_PEPPER", "HEADRACE_KEY_PEPPER"),
        ("HEADRACE_MASTER_KEY", "HEADRACE_MASTER_KEY"),
        ("HEADRACE_ADMIN_TOKEN", "HEADRACE_ADMIN_TOKEN"),
    ],
)
def test_a_short_secret_is_refused(variable: str, named: str) -> None:
    assert is_refused(run(**{variable: WEAK["short"]}), named, hides=WEAK["short"])


def test_random_secrets_are_never_taken_for_words() -> None:
    for _ in range(2_000):
        assert weakness(secrets.token_urlsafe(32)) is None
        assert weakness(secrets.token_hex(16)) is None


def test_no_example_of_the_project_is_a_secret() -> None:
    root = Path(__file__).parents[2]
    example = (root / ".env.example").read_text(encoding="utf-8").splitlines()
    names = ("JWT_SECRET", "HEADRACE_KEY_PEPPER", "HEADRACE_MASTER_KEY", "HEADRACE_ADMIN_TOKEN")

    shown = [line.partition("=")[2] for line in example if line.lstrip("#").startswith(names)]

    assert len(shown) >= len(names)
    assert all(not value or weakness(value) for value in shown)


def test_one_secret_for_two_purposes_is_refused() -> None:
    result = run(JWT_SECRET=SECRET)

    assert is_refused(result, "HEADRACE_KEY_PEPPER is the same as JWT_SECRET", hides=SECRET)
    assert run(JWT_SECRET=SECRET, HEADRACE_ENVIRONMENT="development").exit_code == 0


def test_who_checks_keys_or_signs_webhooks_needs_the_pepper(tmp_path: Path, started: list[str]) -> None:
    kept = tmp_path / ".headrace" / "key-pepper"
    kept.parent.mkdir()
    kept.write_text(SECRET)

    for process in ("api", "scheduler", "up"):
        assert is_refused(run(process, HEADRACE_KEY_PEPPER=""), "HEADRACE_KEY_PEPPER is not set")
    assert started == []
    for process in ("api", "scheduler"):
        assert run(process, HEADRACE_KEY_PEPPER="", HEADRACE_ENVIRONMENT="development").exit_code == 0


@pytest.mark.parametrize(
    ("environment", "names"),
    [
        ({"HEADRACE_LOG__LEVEL": "DEBUG"}, "HEADRACE_LOG__LEVEL"),
        ({"HEADRACE_LOG__LEVEL": "TRACE"}, "HEADRACE_LOG__LEVEL"),
        ({"HEADRACE_API__DOCS": "on"}, "HEADRACE_API__DOCS"),
        (
            {"HEADRACE_CORS__ORIGINS": '["*"]', "HEADRACE_CORS__CREDENTIALS": "true"},
            "HEADRACE_CORS__ORIGINS",
        ),
        ({"HEADRACE_CORS__ORIGINS": '["http://app.example"]'}, "HEADRACE_CORS__ORIGINS"),
        ({"FAULTPOINTS": "W3@17"}, "FAULTPOINTS"),
        ({"REDIS_URL": "redis://127.0.0.1:1/0"}, "REDIS_URL"),
        ({"REDIS_URL": "redis://user@127.0.0.1:1/0"}, "REDIS_URL"),
        ({"REDIS_URL": "redis://:redis@127.0.0.1:1/0"}, "REDIS_URL"),
        ({"REDIS_URL": "redis://:Password123456@127.0.0.1:1/0"}, "REDIS_URL"),
        ({"REDIS_URL": "redis-cluster://127.0.0.1:1,127.0.0.1:2"}, "REDIS_URL"),
        ({"REDIS_URL": "redis-sentinel://127.0.0.1:1/mymaster?sentinel_password=x"}, "REDIS_URL"),
        (
            {"HEADRACE_ADMIN_EMAIL": "root@example.com", "HEADRACE_ADMIN_PASSWORD": "correcthor"},
            "HEADRACE_ADMIN_PASSWORD",
        ),
        (
            {"HEADRACE_ADMIN_EMAIL": "root@example.com", "HEADRACE_ADMIN_PASSWORD": "admin-password-123456"},
            "HEADRACE_ADMIN_PASSWORD",
        ),
        ({"OPENAI_BASE_URL": "http://proxy.example/v1"}, "OPENAI_BASE_URL"),
        ({"VLLM_BASE_URL": "http://10.0.0.7:8000/v1"}, "VLLM_BASE_URL"),
    ],
)
def test_what_only_development_takes_is_refused(
    environment: dict[str, str], names: str, started: list[str]
) -> None:
    result = run(**environment)

    (value, *_) = environment.values()
    assert is_refused(result, names, hides=value if "://" in value else "")
    assert started == []
    assert run(**environment, HEADRACE_ENVIRONMENT="development").exit_code == 0


@pytest.mark.parametrize(
    "environment",
    [
        {"HEADRACE_API__DOCS": "public"},
        {"HEADRACE_API__DOCS": "off"},
        {"HEADRACE_CORS__ORIGINS": '["*"]'},
        {"HEADRACE_CORS__ORIGINS": '["https://app.example"]', "HEADRACE_CORS__CREDENTIALS": "true"},
        {"REDIS_URL": f"redis-cluster://:{THIRD}@127.0.0.1:1,127.0.0.1:2"},
        {"REDIS_URL": "unix:///run/redis.sock"},
        {"VLLM_BASE_URL": "http://127.0.0.1:8000/v1"},
        {"VLLM_BASE_URL": "http://vllm:8000/v1", "HEADRACE_PROVIDER__PLAIN_HTTP_HOSTS": '["vllm"]'},
    ],
)
def test_what_is_meant_and_said_is_allowed(environment: dict[str, str]) -> None:
    result = run(**environment)

    assert result.exit_code == 0, result.output


def test_an_endpoint_of_the_providers_file_without_tls_is_named(tmp_path: Path) -> None:
    file = tmp_path / "providers.toml"
    file.write_text('[[endpoint]]\nid = "lab"\nbase_url = "http://lab.example/v1"\n')
    said = {"HEADRACE_PROVIDERS_FILE": str(file)}

    assert is_refused(run(**said), "HEADRACE_PROVIDERS_FILE: the base_url of lab", hides="lab.example")
    assert run(**said, HEADRACE_PROVIDER__PLAIN_HTTP_HOSTS='["lab.example"]').exit_code == 0


@pytest.mark.parametrize("origin", ["https://app.example/", "app.example", "null", "https://*.example", "**"])
def test_an_origin_that_no_browser_sends_is_refused_everywhere(origin: str) -> None:
    result = run(HEADRACE_CORS__ORIGINS=f'["{origin}"]', HEADRACE_ENVIRONMENT="development")

    assert is_refused(result, "HEADRACE_CORS__ORIGINS")


def test_a_key_set_that_would_never_be_fetched_is_refused_everywhere() -> None:
    def issuers(url: str) -> str:
        return f'[{{"issuer": "i", "audience": "a", "account": "acme", "jwks_url": "{url}"}}]'

    for environment in ("production", "development"):
        result = run(
            HEADRACE_ACCOUNTS__ISSUERS=issuers("http://idp.example/keys"), HEADRACE_ENVIRONMENT=environment
        )
        assert is_refused(result, "HEADRACE_ACCOUNTS__ISSUERS", hides="idp.example")
    assert run(HEADRACE_ACCOUNTS__ISSUERS=issuers("https://idp.example/keys")).exit_code == 0


def test_a_redis_that_evicts_is_refused_and_one_that_is_away_is_not(started: list[str]) -> None:
    server = RedisServer(
        appendonly=False, options=("--requirepass", THIRD, "--maxmemory-policy", "allkeys-lru")
    )
    server.start()
    url = server.url.replace("//", f"//:{THIRD}@")
    try:
        assert is_refused(run("scheduler", REDIS_URL=url), "REDIS_URL: its maxmemory-policy", hides=THIRD)
        assert run("scheduler", REDIS_URL=url, HEADRACE_ENVIRONMENT="development").exit_code == 0
        started.clear()
    finally:
        server.stop(forget=True)

    assert run("scheduler", REDIS_URL=url).exit_code == 0
    assert started == ["scheduler"]
