"""The scripted provider as a test's own process, with waiting instead of polling."""

import asyncio
import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_ROOT = Path(__file__).parents[2]
_STOP_SECONDS = 5


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One call as the provider saw it; `cli/scripted_provider/call_log.py` says what each field means."""

    call: int
    job: str | None
    attempt: int | str | None
    path: str
    model: str | None
    stream: bool
    cue: str | None
    open_at: float
    close_at: float | None
    status: int | None
    chunks_sent: int
    outcome: str | None
    received: dict[str, Any] | None = None
    """`headers` (lower-case names) and `body`; not in the log file."""

    @property
    def is_open(self) -> bool:
        return self.close_at is None


class ScriptedProvider:
    """`python -m cli.scripted_provider` on a port of its own.

    `start` and `stop` block for the fraction of a second they take, so that a
    session-scoped fixture needs no event loop. The rest is async and opens one
    connection per question.
    """

    def __init__(self, *, port: int = 0, log: Path | None = None, delay_ms: float = 0) -> None:
        self._port, self._log, self._delay_ms = port, log, delay_ms
        self._process: subprocess.Popen[str] | None = None
        self.url = ""
        """Scheme, host and port, without a path."""

    @property
    def base_url(self) -> str:
        """What an OpenAI client takes as base URL; Anthropic's client takes `url`."""
        return f"{self.url}/v1"

    @property
    def is_running(self) -> bool:
        """Whether it was started, and has not ended by itself or otherwise."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._running().pid

    def start(self) -> "ScriptedProvider":
        """Return once it listens. After `stop` or `kill` it starts again on the same port."""
        command = [sys.executable, "-m", "cli.scripted_provider", "--port", str(self._port)]
        command += ["--delay-ms", str(self._delay_ms)]
        command += ["--log", str(self._log)] if self._log else []
        command += ["--record", "--golden", str(_ROOT / "tests" / "golden")]
        process = subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("listening on "):
            process.kill()
            raise RuntimeError(f"The scripted provider did not start: it said {line!r}.")
        self._process = process
        self.url = line.split()[-1]
        self._port = urlsplit(self.url).port or 0
        return self

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        return self._end(signal.SIGTERM)

    def kill(self) -> int:
        """SIGKILL, and the exit code."""
        return self._end(signal.SIGKILL)

    async def script(self, *cues: dict[str, Any], match: str | None = None, repeat: bool = False) -> None:
        """Queue cues for later calls; with `match`, for those whose last user text contains it."""
        await self._ask("POST", "/_script", {"cues": cues, "match": match, "repeat": repeat})

    async def calls(self, *, opened: int = 0, closed: int = 0) -> list[CallRecord]:
        """The calls since the last `clear`, once at least so many were opened and closed."""
        rows = await self._ask("GET", f"/_calls?opened={opened}&closed={closed}")
        return [CallRecord(**row) for row in rows]

    async def script_batches(self, **script: Any) -> None:
        """How batches that are created from now on run; see `cli/scripted_provider/batches.py`."""
        await self._ask("POST", "/_batches", script)

    async def remark_batch(self, batch: str, metadata: dict[str, Any]) -> None:
        await self._ask("PUT", "/_batches", {"id": batch, "metadata": metadata})

    async def batches(self) -> list[dict[str, Any]]:
        """Every batch that was created, oldest first."""
        found: list[dict[str, Any]] = await self._ask("GET", "/_batches")
        return found

    async def stats(self) -> dict[str, Any]:
        stats: dict[str, Any] = await self._ask("GET", "/_stats")
        return stats

    async def clear(self) -> None:
        """Forget cues, `fail_times` counts and calls."""
        await self._ask("DELETE", "/_script")
        await self._ask("DELETE", "/_calls")
        await self._ask("DELETE", "/_batches")

    async def _ask(self, method: str, target: str, payload: object = None) -> Any:
        address = urlsplit(self.url)
        body = b"" if payload is None else json.dumps(payload).encode()
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        try:
            head = f"{method} {target} HTTP/1.1\r\nhost: {address.netloc}\r\nconnection: close\r\n"
            writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
            reply = await reader.read(-1)
        finally:
            writer.close()
            await writer.wait_closed()
        status_line, _, rest = reply.partition(b"\r\n")
        answer = rest.partition(b"\r\n\r\n")[2]
        if b" 200 " not in status_line:
            raise ValueError(f"{method} {target}: {status_line.decode()} {answer.decode()}")
        return json.loads(answer)

    def _end(self, number: signal.Signals) -> int:
        process = self._running()
        process.send_signal(number)
        code = process.wait(timeout=_STOP_SECONDS)
        assert process.stdout is not None
        process.stdout.close()
        self._process = None
        return code

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            raise RuntimeError("The scripted provider is not running.")
        return self._process
