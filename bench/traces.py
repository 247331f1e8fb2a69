"""`python -m bench.traces`: what traces cost, as CPU of api and worker per request.

A broker for each way to trace, all there at once and loaded in turns, so that whatever else the machine does
meets them alike. The collector is a process of its own on the other core, and takes whatever it is sent.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

from bench.__main__ import Broker, Load, cpus, measure

OFF: Final = "off"
WAYS: Final[Mapping[str, Mapping[str, str]]] = {
    OFF: {},
    **{
        f"{share:.1f}": {
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": f"{share}",
        }
        for share in (0.0, 0.1, 1.0)
    },
}


class Sink(BaseHTTPRequestHandler):
    """Takes it all, and looks at nothing."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nowhere."""


def sink() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Sink)
    print(server.server_port, flush=True)
    server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.traces", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each turn")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--before", help="another checkout, with its traces off, to compare with")
    options = parser.parse_args()
    ways = {**WAYS, **({"before": {"PYTHONPATH": options.before}} if options.before else {})}
    load = Load("chat", options.concurrency)
    measured: dict[str, list[float]] = {way: [] for way in ways}
    with ExitStack() as stack:
        collector = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-c", "from bench.traces import sink; sink()"], stdout=subprocess.PIPE
            )
        )
        stack.callback(collector.kill)
        assert collector.stdout is not None
        url = f"http://127.0.0.1:{int(collector.stdout.readline())}"
        brokers: dict[str, Broker] = {}
        for way, settings in ways.items():
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headrace-bench-")))
            brokers[way] = broker = Broker(folder, cpus())
            stack.callback(broker.stop)
            on = {"OTEL_EXPORTER_OTLP_ENDPOINT": url} if "OTEL_TRACES_SAMPLER" in settings else {}
            broker.start(also={**settings, **on})
            broker.load(load, direct=False, seconds=1)
        for turn in range(options.turns):
            # Not always the same one first.
            order = list(ways)[turn % len(ways) :] + list(ways)[: turn % len(ways)]
            for way in order:
                row = measure(brokers[way], load, direct=False, seconds=options.seconds)
                measured[way].append(row.cpu_s_per_1k)
        print(f"{'traces':<8}{'cpu ms a request':>18}{'to off, by turn':>18}   each turn")
        for way, found in measured.items():
            ratio = statistics.median(one / off for one, off in zip(found, measured[OFF], strict=True))
            turns = " ".join(f"{one:.3f}" for one in found)
            print(f"{way:<8}{statistics.median(found):>18.3f}{ratio:>18.3f}   {turns}")


if __name__ == "__main__":
    main()
