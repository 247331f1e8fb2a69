"""A broker of real processes and a real Prometheus that scrapes them, with the rules that ship."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tests.fakes.postgres_server import PostgresServer
from tests.fakes.prometheus_server import PrometheusServer
from tests.fakes.server_process import free_port
from tests.fakes.stack import Process, Stack

PROMETHEUS: Final = Path(__file__).parents[2] / "deploy" / "prometheus"
RULES: Final = sorted((PROMETHEUS / "rules").glob("*.yml"))
_HURRY: Final = (
    (re.compile(r"^( +for): \d+m$", re.MULTILINE), r"\1: 1s"),
    (re.compile(r"\[\d+[mh]\]"), "[5s]"),
    (re.compile(r"> 60$", re.MULTILINE), "> 1"),
)
"""What differs from the rules that ship: how long something lasts before it fires, the windows of rates,
and ages in seconds. Conditions, metrics and labels stay."""


def hurried(rules: str) -> str:
    for what, by in _HURRY:
        rules = what.sub(by, rules)
    return rules


def chat(text: str = "Hello", *, stream: bool = False) -> dict[str, Any]:
    return {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": text}], "stream": stream}


class Watched:
    """`stack` has one api, worker and scheduler; its database is `postgres`."""

    def __init__(self, postgres: PostgresServer, database_url: str, settings: Mapping[str, str]) -> None:
        self.postgres = postgres
        self.ports = {"worker": free_port(), "scheduler": free_port()}
        self.stack = Stack(workers=0, schedulers=0, database_url=database_url, settings=settings)
        self._prometheus: PrometheusServer | None = None

    @property
    def prometheus(self) -> PrometheusServer:
        assert self._prometheus is not None
        return self._prometheus

    async def start(self) -> None:
        await self.stack.start()
        targets = {
            "headrace-api": [self.stack.apis[0].port],
            "headrace-worker": [self.ports["worker"]],
            "headrace-scheduler": [self.ports["scheduler"]],
        }
        rules = {file.name: hurried(file.read_text(encoding="utf-8")) for file in RULES}
        self._prometheus = PrometheusServer(targets, rules)
        self._prometheus.start()
        await self.start_scheduler()
        await self.start_worker()

    async def start_worker(self) -> Process:
        return await self.stack.ready(self.spawn_worker())

    def spawn_worker(self, *, faultpoints: str = "") -> Process:
        port = str(self.ports["worker"])
        return self.stack.spawn_worker(faultpoints=faultpoints, HEADRACE_METRICS_PORT=port)

    async def start_scheduler(self) -> Process:
        return await self.stack.start_scheduler(HEADRACE_METRICS_PORT=str(self.ports["scheduler"]))

    def end_now(self) -> None:
        if self._prometheus is not None:
            self._prometheus.stop()
        self.stack.end_now()
