"""A server run as a child process: started until it says it is ready, killed, frozen, started again.

Its address survives a restart. Ports are drawn below the ephemeral range, so that no outgoing
connection can take the port of a server that is down for a moment.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import psutil

START_SECONDS: Final = 30.0
STOP_SECONDS: Final = 15.0
PORTS: Final = range(15_000, 32_000)


class ServerDidNotStart(Exception):
    def __init__(self, command: Sequence[str], output: Sequence[str]) -> None:
        super().__init__(f"{' '.join(command)} did not become ready; it said:\n" + "\n".join(output))


@dataclass(frozen=True, slots=True)
class RunAs:
    uid: int
    gid: int


def free_port(ports: range = PORTS) -> int:
    rng = random.Random()  # seeded from the system: a test that seeds `random` must not fix the ports
    for _ in range(200):
        port = rng.choice(ports)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError(f"no free port between {ports.start} and {ports.stop}")


class ServerProcess:
    """One child process whose output tells when it is ready."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        ready: str,
        cwd: Path,
        stop_signal: signal.Signals = signal.SIGTERM,
        environment: Mapping[str, str] | None = None,
        run_as: RunAs | None = None,
    ) -> None:
        self._command = list(command)
        self._ready = ready
        self._cwd = cwd
        self._stop_signal = stop_signal
        self._environment = {**os.environ, **(environment or {})}
        self._run_as = run_as
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._watcher: subprocess.Popen[bytes] | None = None
        self.output: deque[str] = deque(maxlen=200)

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError("the server is not running")
        return self._process.pid

    def start(self) -> None:
        if self.is_running:
            return
        self._reap()
        settled = threading.Event()
        became_ready = threading.Event()
        self.output.clear()
        run_as = self._run_as
        self._process = subprocess.Popen(
            self._command,
            cwd=self._cwd,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            # Its own session: Ctrl-C in the terminal reaches the tests, which then stop it.
            start_new_session=True,
            user=run_as.uid if run_as else None,
            group=run_as.gid if run_as else None,
            extra_groups=[] if run_as else None,
        )

        # Outlives us only to end the server when we were killed: its input closes with us.
        self._watcher = subprocess.Popen(
            ["/bin/sh", "-c", 'read _; kill -9 "$0"', str(self._process.pid)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

        def read(lines: IO[str]) -> None:
            for line in lines:
                self.output.append(line.rstrip())
                if self._ready in line:
                    became_ready.set()
                    settled.set()
            settled.set()

        assert self._process.stdout is not None
        self._reader = threading.Thread(target=read, args=(self._process.stdout,), daemon=True)
        self._reader.start()
        settled.wait(START_SECONDS)
        if not became_ready.is_set():
            self.kill9()
            raise ServerDidNotStart(self._command, list(self.output))

    def stop(self) -> None:
        """Politely, then not."""
        if self._process is not None and self.is_running:
            self.sigcont()
            self._process.send_signal(self._stop_signal)
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill9()
        self._reap()

    def kill9(self) -> None:
        """SIGKILL to it and to its children; returns when they are gone."""
        if self._process is not None and self.is_running:
            family = self._family()
            for member in family:
                _signal(member, signal.SIGKILL)
            self._process.wait(STOP_SECONDS)
            psutil.wait_procs(family, timeout=STOP_SECONDS)
        self._reap()

    def restart(self) -> None:
        """Up again on the same address with the same data, whether it was up, down or killed."""
        self.stop()
        self.start()

    def sigstop(self) -> None:
        """Freeze it: connections stay open and nothing answers."""
        for member in self._family():
            _signal(member, signal.SIGSTOP)

    def sigcont(self) -> None:
        for member in self._family():
            _signal(member, signal.SIGCONT)

    def _family(self) -> list[psutil.Process]:
        try:
            parent = psutil.Process(self.pid)
            return [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _reap(self) -> None:
        if self._process is None:
            return
        if self._watcher is not None:
            self._watcher.kill()
            self._watcher.communicate()
            self._watcher = None
        self._process.wait(STOP_SECONDS)
        if self._reader is not None:
            self._reader.join(STOP_SECONDS)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._process = None


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)
