"""Which providers `headrace worker` serves when it is not told."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path

import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

import workers.main
from cli import main
from shared.crypto import new_master_key
from shared.providers.registry import BUILT_IN, Registry
from shared.settings import Settings


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    names: list[str] = []

    async def run_worker(_: Settings, __: str, providers: Sequence[str]) -> None:
        names.extend(providers)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(workers.main, "run_worker", run_worker)
    monkeypatch.setattr(main, "configure_logging", lambda *_, **__: None)
    monkeypatch.setattr(gc, "freeze", lambda: None)
    monkeypatch.setattr(gc, "set_threshold", lambda *_: None)
    for profile in BUILT_IN.values():
        for name in (*profile.key_variables, profile.base_url_variable):
            monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")
    return names


def test_those_it_has_a_key_for(served: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "key")

    assert CliRunner().invoke(main.app, ["worker"]).exit_code == 0

    assert served == ["anthropic"]


def test_without_any_key_those_with_an_address(served: list[str]) -> None:
    assert CliRunner().invoke(main.app, ["worker"]).exit_code == 0

    assert served == [name for name, profile in BUILT_IN.items() if profile.base_url]
    assert "openai" in served
    assert "vllm" not in served


def test_with_a_master_key_those_too_that_only_accounts_have_a_key_for(
    served: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "key")
    monkeypatch.setenv("HEADRACE_MASTER_KEY", new_master_key()[0])

    assert CliRunner().invoke(main.app, ["worker"]).exit_code == 0

    assert served == [name for name, profile in BUILT_IN.items() if profile.base_url]


def test_it_says_which_it_serves_with_accounts_own_keys_alone() -> None:
    key = SecretStr(new_master_key()[0])
    registry = Registry(BUILT_IN.values(), with_credential=["anthropic"])

    def keyless(settings: Settings) -> frozenset[str]:
        return workers.main.keyless_of(settings, registry, ["anthropic", "openai"])

    assert keyless(Settings(master_key=key)) == {"openai"}
    assert keyless(Settings(master_key=None)) == frozenset()
