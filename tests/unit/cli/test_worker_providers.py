"""Which providers `headrace worker` serves when it is not told."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

import workers.main
from cli import main
from shared.providers.registry import BUILT_IN
from shared.settings import Settings


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    names: list[str] = []

    async def run_worker(_: Settings, __: str, providers: Sequence[str]) -> None:
        names.extend(providers)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(workers.main, "run_worker", run_worker)
    monkeypatch.setattr(main, "configure_logging", lambda _: None)
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
