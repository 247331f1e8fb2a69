"""A few providers, and routers over a routing file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

from shared.domain.conditions import ProviderCondition
from shared.domain.job import JobKind, Target
from shared.providers import anthropic, openai, openrouter, vllm
from shared.providers.catalogue import Catalogue, load_catalogue
from shared.providers.registry import Registry
from shared.routing.router import Plan, Router, Wish
from shared.routing.watch import RoutingWatch

PROVIDERS = Registry(
    [
        openai.PROFILE,
        anthropic.PROFILE,
        openrouter.PROFILE,
        vllm.PROFILE.with_base_url("http://gpu-1:8000/v1"),
    ]
)
HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}]}
IMAGE = {"type": "image_url", "image_url": {"url": "https://a.example/cat.png"}}

MINI = Target("openai", "gpt-4o-mini")
GPT = Target("openai", "gpt-4o")
HAIKU = Target("anthropic", "claude-haiku-4-5")
HOUSE = Target("vllm", "house-7b")


class Routed:
    """A router over `text`, and how its providers do."""

    def __init__(self, folder: Path, text: str = "", *, catalogue: Catalogue | None = None) -> None:
        path = folder / "routing.toml"
        path.write_text(text, encoding="utf-8")
        catalogue = catalogue or load_catalogue()
        self.watch = RoutingWatch(path, PROVIDERS, catalogue, "openai")
        self.rng = Random(7)
        self.router = Router(self.watch, PROVIDERS, catalogue, "openai", rng=self.rng)
        self.conditions: dict[str, ProviderCondition] = {}
        self.unserved: set[str] = set()

    def plan(
        self,
        model: str,
        document: Mapping[str, Any] = HELLO,
        *,
        kind: JobKind = JobKind.CHAT,
        **wish: Any,
    ) -> Plan:
        return self.router.plan(
            Wish(model, **wish),
            kind,
            document,
            conditions=self.conditions,
            serves=lambda provider: provider not in self.unserved,
        )

    def targets(self, model: str, document: Mapping[str, Any] = HELLO, **wish: Any) -> tuple[Target, ...]:
        return self.plan(model, document, **wish).targets
