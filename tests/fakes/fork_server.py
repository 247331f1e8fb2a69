"""Processes of the broker that start with their imports done: forks of one that only imported them.

Importing is most of what a start costs, and the tests start hundreds. There is one fork server for each
kind of process, so that each holds what its command imports and nothing else; one more is for all other
commands. From `cli.main.main()` on a fork is what `headrace <words>` is: its own session, environment,
folder, log and exit.

    tests ── folder, environment, log ──> fork server ── fork ──> headrace api
      <────────────── pid ────────────────────┘  <───── exit code ──────┘

The code goes through a pipe of each process. A fork server ends when the tests have, and all its forks.
Forks of one server share their hash seed. Where that could matter, start them by `Stack(forks=False)`.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO, Any, Final

ROOT: Final = Path(__file__).parents[2]
IMPORTS: Final = {"api": "api.main", "worker": "workers.main", "scheduler": "scheduler.main"}
COMMAND: Final = "command"
"""The fork server of whatever imports no more than `cli.main`."""
SUPPORTED: Final = sys.platform == "linux"
_LONGEST: Final = 100_000


class Fork:
    """As much of subprocess.Popen as is asked of it."""

    def __init__(self, pid: int, ending: int) -> None:
        self.pid = pid
        self._ending: int | None = ending
        self._code = 0

    def poll(self) -> int | None:
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._look(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(f"fork {self.pid}", timeout or 0)
        return code

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, sig)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _look(self, timeout: float | None) -> int | None:
        if self._ending is None:
            return self._code
        if not select.select([self._ending], [], [], timeout)[0]:
            return None
        said = os.read(self._ending, 16)
        os.close(self._ending)
        self._ending = None
        if not said:
            raise RuntimeError(f"The fork server of process {self.pid} ended before it.")
        self._code = int(said)
        return self._code

    def __del__(self) -> None:
        if self._ending is not None:
            os.close(self._ending)


class ForkServer:
    def __init__(self, kind: str) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._one_at_a_time = threading.Lock()
        with theirs:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "tests.fakes.fork_server", kind, str(theirs.fileno())],
                cwd=ROOT,
                env={
                    "PATH": os.environ.get("PATH", ""),
                    "PYTHONPATH": str(ROOT),
                    "PYTHONUNBUFFERED": "1",
                },
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        atexit.register(self._close)

    def fork(
        self,
        words: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        output: IO[bytes],
        errors: IO[bytes] | None = None,
    ) -> Fork:
        """One that runs; `output` and `errors`, which else go there too, are closed by the caller."""
        fields = {"words": list(words), "environment": dict(environment), "folder": str(folder)}
        request = json.dumps(fields).encode()
        assert len(request) < _LONGEST
        ending, theirs = os.pipe()
        try:
            with self._one_at_a_time:
                socket.send_fds(
                    self._channel, [request], [output.fileno(), (errors or output).fileno(), theirs]
                )
                pid = self._channel.recv(16)
        except BaseException:
            os.close(ending)
            raise
        finally:
            os.close(theirs)
        if not pid:
            os.close(ending)
            raise RuntimeError("The fork server ended; its error is in the output of the tests.")
        return Fork(int(pid), ending)

    def _close(self) -> None:
        self._channel.close()
        # It stays for forks that are still to be ended.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(1)


@cache
def of(kind: str) -> ForkServer:
    """The one of this test process, started on first use."""
    return ForkServer(kind)


def run(
    *words: str, environment: Mapping[str, str], folder: Path, timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    """`headrace <words>` to its end, as subprocess.run does it with captured output."""
    if not SUPPORTED:
        return subprocess.run(
            [sys.executable, "-m", "cli", *words],
            env=environment,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    server = of(words[0] if words[0] in IMPORTS else COMMAND)
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        fork = server.fork(words, environment, folder, output, errors)
        try:
            code = fork.wait(timeout)
        except subprocess.TimeoutExpired:
            fork.kill()
            fork.wait()
            raise
        said = []
        for file in (output, errors):
            file.seek(0)
            said.append(file.read().decode())
    return subprocess.CompletedProcess(["headrace", *words], code, *said)


def main() -> None:
    """Forks until the tests end. In a fork it returns from `_serve`, and runs what the fork is for."""
    kind, channel = sys.argv[1], socket.socket(fileno=int(sys.argv[2]))
    # What imports made is shared by all forks as long as no collection touches it.
    gc.disable()
    door = importlib.import_module("cli.main")
    if kind in IMPORTS:
        importlib.import_module(IMPORTS[kind])
    gc.freeze()
    words = _serve(channel)
    if words is None:
        return
    gc.enable()
    sys.argv = ["headrace", *words]
    door.main()


def _serve(channel: socket.socket) -> list[str] | None:
    """In a fork the words of its command, None at the end of the server."""
    woken, waker = os.pipe()
    for end in (woken, waker):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(waker)
    signal.signal(signal.SIGCHLD, _noticed)
    endings: dict[int, int] = {}
    asked = channel.fileno()
    listens = True
    while listens or endings:
        ready = select.select([woken, asked] if listens else [woken], [], [])[0]
        if woken in ready:
            os.read(woken, 4096)
            _tell_ended(endings)
        if asked not in ready:
            continue
        request, (*handed,), _, _ = socket.recv_fds(channel, _LONGEST, 3)
        if not request:
            listens = False
            continue
        output, errors, ending = handed
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            channel.close()
            for inherited in (woken, waker, ending, *endings.values()):
                os.close(inherited)
            fields = json.loads(request)
            _settle(fields, output, errors)
            return list(fields["words"])
        os.close(output)
        os.close(errors)
        endings[pid] = ending
        channel.send(b"%d" % pid)
    return None


def _noticed(*_: object) -> None:
    """SIGCHLD: the wakeup descriptor is what wakes us."""


def _tell_ended(endings: dict[int, int]) -> None:
    while endings:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        ending = endings.pop(pid)
        try:
            os.write(ending, b"%d" % os.waitstatus_to_exitcode(status))
        except BrokenPipeError:
            pass  # nobody asks any more
        finally:
            os.close(ending)


def _settle(request: dict[str, Any], output: int, errors: int) -> None:
    """As Popen leaves a process: its own session, folder, environment and standard streams."""
    os.setsid()
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(output, 1)
    os.dup2(errors, 2)
    for handed in (nothing, output, errors):
        os.close(handed)


if __name__ == "__main__":
    main()
