"""Runs the scripted provider until SIGTERM or SIGINT."""

import argparse
import asyncio
import contextlib
import gc
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from cli.scripted_provider.call_log import CallLog
from cli.scripted_provider.cues import CueSheet
from cli.scripted_provider.replies import WallClock
from cli.scripted_provider.server import Connection, Provider

_BACKLOG = 4096


async def serve(provider: Provider, *, host: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        # Windows' loop has no signal handlers; there Ctrl-C ends the process by itself.
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, stopped.set)
    server = await loop.create_server(lambda: Connection(provider), host, port, backlog=_BACKLOG)
    bound_host, bound_port = server.sockets[0].getsockname()[:2]
    print(f"listening on http://{bound_host}:{bound_port}", flush=True)
    await stopped.wait()
    server.close()
    provider.stop()


def main() -> None:
    options = _parser().parse_args()
    provider = Provider(
        log=CallLog(options.log),
        delay_seconds=options.delay_ms / 1000,
        cues=CueSheet(),
        clock=WallClock(),
        connections=set(),
        golden=options.golden,
        records=options.record,
    )
    # What start-up made lives as long as the process: keep the collector off it.
    gc.freeze()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(serve(provider, host=options.host, port=options.port))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if sys.platform == "win32":
        return None
    import uvloop  # noqa: PLC0415 - not installed on Windows

    return uvloop.new_event_loop


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cli.scripted_provider", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9100, help="0 picks a free one")
    parser.add_argument("--log", type=Path, metavar="FILE", help="append two JSON lines a call")
    parser.add_argument("--delay-ms", type=float, default=0, help="wait before every reply")
    parser.add_argument("--golden", type=Path, metavar="DIR", help="where cues find golden bodies")
    parser.add_argument("--record", action="store_true", help="keep headers and bodies for GET /_calls")
    return parser


if __name__ == "__main__":
    main()
