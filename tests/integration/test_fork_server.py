"""A fork is what its command is: the same words, the same end, nothing of the tests in it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from tests.fakes import fork_server
from tests.fakes.fork_server import Fork
from tests.fakes.stack import Stack

pytestmark = pytest.mark.skipif(not fork_server.SUPPORTED, reason="forks are for Linux alone")


def started(kind: str, folder: Path, environment: Mapping[str, str]) -> tuple[Fork, Path]:
    log = folder / "fork.log"
    with log.open("wb") as output:
        return fork_server.of(kind).fork([kind], environment, folder, output), log


def output_of(pid: int) -> set[Path]:
    """Where its standard output and error go."""
    return {Path(f"/proc/{pid}/fd/{number}").resolve() for number in (1, 2)}


@pytest.mark.parametrize("kind", list(fork_server.IMPORTS))
def test_a_fork_that_cannot_start_says_and_exits_as_its_command_does(kind: str, tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(fork_server.ROOT)}
    command = subprocess.run(
        [sys.executable, "-m", "cli", kind],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )

    fork, log = started(kind, tmp_path, environment)
    code = fork.wait(timeout=20)

    assert command.returncode != 0
    assert (code, log.read_text(encoding="utf-8")) == (command.returncode, command.stdout)


@pytest.mark.parametrize("words", [("config", "show"), ("keys", "list"), ("jobs", "list")])
def test_a_command_says_and_exits_as_in_an_interpreter_of_its_own(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(fork_server.ROOT),
        "DATABASE_URL": "sqlite:////nowhere/at/all.db",
    }
    command = subprocess.run(
        [sys.executable, "-m", "cli", *words],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    forked = fork_server.run(*words, environment=environment, folder=tmp_path)

    assert command.stdout or command.stderr
    assert (forked.returncode, forked.stdout) == (command.returncode, command.stdout)
    assert forked.stderr == command.stderr


async def test_a_fork_is_in_a_session_and_folder_of_its_own(sqlite_template: Path) -> None:
    async with Stack(database_template=sqlite_template) as stack:
        for process in stack.processes:
            assert os.getsid(process.pid) == process.pid
            assert psutil.Process(process.pid).cwd() == str(stack.folder)
            assert output_of(process.pid) == {process.log}


async def test_its_exit_code_is_told_as_popen_tells_it(sqlite_template: Path) -> None:
    async with Stack(database_template=sqlite_template) as stack:
        worker, scheduler = stack.workers[0], stack.schedulers[0]
        assert worker.exit_code is None

        with pytest.raises(subprocess.TimeoutExpired):
            worker.popen.wait(timeout=0.01)
        await stack.kill9(worker)
        stopped = await stack.sigterm(scheduler)

        assert worker.exit_code == worker.popen.wait() == -signal.SIGKILL
        assert stopped == scheduler.exit_code == 0
