"""`python -m bench.beside_batch --lines 50000`: how long callers wait who share the broker with a batch.

    alone     so many callers, nothing else: p50, p95, p99
    beside    the same callers while a batch of so many lines runs, in slices of some seconds, to its end

api, worker and scheduler as everywhere in bench: api and worker on one core, everything else on the other.
The provider takes as long for each call as it is told to, or CPU alone would be measured.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from array import array
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import httpx
import orjson

from bench.__main__ import Broker, cpus
from bench.load import render_chat, run_load

_SLICE_SECONDS: Final = 5.0
_CHAT: Final = render_chat(model="gpt-4o-mini", text="Hello", stream=False)


class Callers:
    """`errors`: of all their calls, by kind."""

    def __init__(self, broker: Broker, concurrency: int) -> None:
        self._url = f"http://127.0.0.1:{broker.port}/v1/chat/completions"
        self._headers = {"authorization": f"Bearer {broker.key}"}
        self._concurrency = concurrency
        self.errors: dict[str, int] = {}

    def call(self, seconds: float) -> array[float]:
        """How long each call took, in s."""
        result = asyncio.run(
            run_load(self._url, self._headers, _CHAT, concurrency=self._concurrency, duration_s=seconds)
        )
        for kind, count in result.error_kinds.items():
            self.errors[kind] = self.errors.get(kind, 0) + count
        return array("d", result.latencies_s)


def begin_batch(client: httpx.Client, lines: int) -> str:
    line = b'{"custom_id":"%d","method":"POST","url":"/v1/chat/completions","body":%s}\n'
    with tempfile.TemporaryFile() as file:
        for number in range(lines):
            file.write(line % (number, _CHAT))
        file.seek(0)
        uploaded = client.post("/v1/files", files={"file": ("in.jsonl", file)}, data={"purpose": "batch"})
    uploaded.raise_for_status()
    made = client.post(
        "/v1/batches",
        json={
            "input_file_id": uploaded.json()["id"],
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        },
    )
    made.raise_for_status()
    return str(made.json()["id"])


def state_of(client: httpx.Client, batch: str) -> dict[str, Any]:
    found: dict[str, Any] = client.get(f"/v1/batches/{batch}").raise_for_status().json()
    return found


def percentiles(latencies: array[float]) -> str:
    return "  ".join(f"p{rank} {1000 * percentile(latencies, rank):.1f} ms" for rank in (50, 95, 99))


def percentile(latencies: array[float], rank: int) -> float:
    ordered = sorted(latencies)
    return ordered[min(len(ordered) - 1, len(ordered) * rank // 100)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.beside_batch", description=__doc__)
    parser.add_argument("--lines", type=int, default=5_000)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--provider-ms", type=float, default=1_000)
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headrace-bench-")))
        broker = Broker(folder, cpus())
        stack.callback(broker.stop)
        broker.start(provider_ms=options.provider_ms)
        client = stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{broker.port}", timeout=300))
        client.headers["authorization"] = f"Bearer {broker.key}"
        callers = Callers(broker, options.concurrency)
        callers.call(_SLICE_SECONDS)  # warm
        alone = callers.call(4 * _SLICE_SECONDS)
        print(f"alone: {len(alone)} calls, {percentiles(alone)}", flush=True)
        began = time.monotonic()
        batch = begin_batch(client, options.lines)
        while (found := state_of(client, batch))["status"] == "validating":
            time.sleep(0.1)
        beside: array[float] = array("d")
        worst = 0.0
        before = broker.cpu_seconds()
        while found["status"] == "in_progress":
            of_slice = callers.call(_SLICE_SECONDS)
            beside += of_slice
            worst = max(worst, percentile(of_slice, 95))
            found = state_of(client, batch)
        after = broker.cpu_seconds()
        while found["status"] == "finalizing":
            time.sleep(0.1)
            found = state_of(client, batch)
        seconds = time.monotonic() - began
        print(
            f"beside: {len(beside)} calls, {percentiles(beside)}, worst p95 of {_SLICE_SECONDS:g} s "
            f"{1000 * worst:.1f} ms; p95 is {percentile(beside, 95) / percentile(alone, 95):.3f} of alone"
        )
        busy = {name: round((after[name] - before[name]) / seconds, 2) for name in before}
        print(
            f"batch: {orjson.dumps(found['request_counts']).decode()} in {seconds:.0f} s, "
            f"{options.lines / seconds:.0f} lines/s, cores used {busy}"
        )
        if callers.errors or found["request_counts"]["completed"] != options.lines:
            print(f"errors: {callers.errors}, {found['status']}")
            sys.exit(1)


if __name__ == "__main__":
    main()
