"""`python -m bench.queued --jobs 200000`: what jobs cost that nobody waits for.

    submit   no worker runs, so all of them wait: submissions a second, and memory by queue length
    drain    one worker starts: jobs a second until the last one is kept in the database

api and worker have one core, everything else the other, as in `make bench`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import orjson
import redis

from bench.__main__ import Broker, cpus
from bench.load import render_chat

_ENDPOINT = "/v1/chat/completions"
_STEPS = 4
_ROOM = {
    "HEADRACE_QUEUE__MAX_LANE_ENTRIES": "1000000",
    "HEADRACE_QUEUE__TENANT_MAX_WAITING": "1000000",
    "HEADRACE_API__REQUEST_TIMEOUT_SECONDS": "600",
    "HEADRACE_QUEUE__UNSERVED_SECONDS": "3600",
}


def submit(broker: Broker, requests: int, concurrency: int) -> dict[str, Any]:
    body = {
        "endpoint": _ENDPOINT,
        "body": orjson.loads(render_chat(model="gpt-4o-mini", text="Hello", stream=False)),
    }
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        file.write(orjson.dumps(body))
        file.flush()
        command = [
            *(sys.executable, "-m", "bench.load", "--url", f"http://127.0.0.1:{broker.port}/api/v1/jobs"),
            *("--key", broker.key, "--concurrency", str(concurrency), "--requests", str(requests)),
            *("--body", file.name, "--json"),
        ]
        output = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    result: dict[str, Any] = orjson.loads(output)
    return result


def memory_mb(broker: Broker) -> dict[str, float]:
    """Of each process; of Redis, what it uses itself."""
    held = {
        name: process.memory_info().rss / 1e6
        for name, process in broker.processes.items()
        if name in {"api", "scheduler", "worker"}
    }
    with redis.Redis.from_url(broker.environment["REDIS_URL"]) as client:
        held["redis"] = client.info("memory")["used_memory"] / 1e6
    return {name: round(size, 1) for name, size in held.items()}


def drain(broker: Broker, jobs: int) -> float:
    """Seconds until no job is left that the database does not know the end of."""
    began = time.monotonic()
    broker.run("worker")
    with httpx.Client(base_url=f"http://127.0.0.1:{broker.port}", timeout=30) as client:
        client.headers["authorization"] = f"Bearer {broker.key}"
        while True:
            open_jobs = client.get("/api/v1/jobs", params={"status": "queued", "limit": 1}).json()["data"]
            if not open_jobs:
                return time.monotonic() - began
            time.sleep(0.5)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.queued", description=__doc__)
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--concurrency", type=int, default=64)
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headrace-bench-")))
        broker = Broker(folder, cpus())
        stack.callback(broker.stop)
        broker.start(also=_ROOM, kinds=("scheduler", "api"))
        print(f"{0:>8} queued: memory in MB {memory_mb(broker)}", flush=True)
        for step in range(1, _STEPS + 1):
            before = broker.cpu_seconds()
            result = submit(broker, options.jobs // _STEPS, options.concurrency)
            after = broker.cpu_seconds()
            spent = {
                name: round((after[name] - before[name]) * 1000 / result["requests"], 3) for name in before
            }
            print(
                f"{step * options.jobs // _STEPS:>8} queued: {result['rps']:.0f} submitted/s, "
                f"p50 {result['p50_ms']:.1f} ms, p99 {result['p99_ms']:.1f} ms, errors {result['errors']}, "
                f"CPU in s per 1,000 {spent}, memory in MB {memory_mb(broker)}",
                flush=True,
            )
        before = broker.cpu_seconds()
        seconds = drain(broker, options.jobs)
        after = broker.cpu_seconds()
        spent = {name: round((after[name] - before.get(name, 0)) * 1000 / options.jobs, 3) for name in after}
        print(
            f"drained: {options.jobs / seconds:.0f} jobs/s, CPU in s per 1,000 {spent}, "
            f"memory in MB {memory_mb(broker)}"
        )


if __name__ == "__main__":
    main()
