"""What StreamWorker overrides and counts on in arq, which promises none of it.

arq is pinned. When this fails after an upgrade, read arq/worker.py again before touching the test.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import signal
import textwrap
from importlib.metadata import version
from typing import Any

import arq
import pytest

from workers.stream_worker import StreamWorker

SIGNATURES = {
    "main": "(self) -> None",
    "_poll_iteration": "(self) -> None",
    "record_health": "(self) -> None",
    "heart_beat": "(self) -> None",
    "async_run": "(self) -> None",
    "close": "(self) -> None",
    "handle_sig": "(self, signum: signal.Signals) -> None",
    "handle_sig_wait_for_completion": "(self, signum: signal.Signals) -> None",
    "_sleep_until_tasks_complete": "(self) -> None",
    "_wait_for_tasks_to_complete": "(self, signum: signal.Signals) -> None",
    "start_jobs": "(self, job_ids: list[bytes]) -> None",
    "run_job": "(self, job_id: str, score: int) -> None",
    "run_cron": "(self, n: datetime.datetime, delay: float, num_windows: int = 2) -> None",
    "_cancel_aborted_jobs": "(self) -> None",
}

CONSTRUCTED_WITH = {
    *("functions", "queue_name", "health_check_key", "redis_settings", "redis_pool", "max_jobs"),
    *("poll_delay", "job_completion_wait", "retry_jobs", "on_startup", "on_shutdown", "handle_signals"),
}


def test_the_pinned_release_is_the_one_that_was_read() -> None:
    assert version("arq") == "0.28.0"


@pytest.mark.parametrize("name", SIGNATURES)
def test_a_method_has_the_signature_that_was_read(name: str) -> None:
    found = str(inspect.signature(getattr(arq.Worker, name)))

    assert found.replace("'", "") == SIGNATURES[name]


def test_the_constructor_takes_what_it_is_given() -> None:
    assert set(inspect.signature(arq.Worker.__init__).parameters) >= CONSTRUCTED_WITH


def test_only_delivery_health_and_closing_are_replaced() -> None:
    ours = {name for name in vars(StreamWorker) if hasattr(arq.Worker, name) and name not in vars(object)}

    # The last two since Python 3.13.
    assert ours - {"__module__", "__doc__", "__firstlineno__", "__static_attributes__"} == {
        "_poll_iteration",
        "record_health",
        "close",
    }


@pytest.mark.parametrize("name", ["_poll_iteration", "record_health", "close"])
def test_what_is_replaced_is_still_a_coroutine_function_of_the_same_form(name: str) -> None:
    theirs, ours = getattr(arq.Worker, name), getattr(StreamWorker, name)

    assert inspect.iscoroutinefunction(theirs)
    assert inspect.iscoroutinefunction(ours)
    assert list(inspect.signature(ours).parameters) == list(inspect.signature(theirs).parameters)


def awaited(function: Any) -> list[str]:
    """Dotted names of the calls that `function` awaits, in order."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    calls = [node.value for node in ast.walk(tree) if isinstance(node, ast.Await)]
    return [ast.unparse(call.func) for call in calls if isinstance(call, ast.Call)]


def test_main_awaits_each_poll_iteration() -> None:
    assert "self._poll_iteration" in awaited(arq.Worker.main)
    assert "self.on_startup" in awaited(arq.Worker.main)


def test_nothing_but_the_replaced_poll_iteration_beats_arqs_heart() -> None:
    """Its cron and its health key read a queue of ours that does not exist."""
    callers = [
        name
        for name, method in inspect.getmembers(arq.Worker, inspect.iscoroutinefunction)
        if "self.heart_beat" in awaited(method)
    ]

    assert callers == ["_poll_iteration"]


class Bare(arq.Worker):
    """An arq worker of which only the parts under test exist."""

    def __init__(self) -> None:
        self.tasks: dict[str, asyncio.Task[Any]] = {}
        self.main_task = None
        self.allow_pick_jobs = True
        self.on_stop = None
        self.jobs_complete = self.jobs_failed = self.jobs_retried = 0
        self._job_completion_wait = 30
        self.loop = asyncio.get_running_loop()
        self.iterations = 0

    async def _poll_iteration(self) -> None:
        self.iterations += 1
        raise StopAsyncIteration


async def test_arqs_sigterm_path_waits_for_what_is_in_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = asyncio.Event()

    async def look(_: float) -> None:
        looked.set()
        await sleep(0)

    sleep = asyncio.sleep
    monkeypatch.setattr("arq.worker.asyncio.sleep", look)
    worker = Bare()
    worker.tasks["job"] = asyncio.create_task(asyncio.Event().wait())

    waiting = asyncio.create_task(worker._sleep_until_tasks_complete())
    await looked.wait()
    assert not waiting.done()
    worker.tasks.pop("job").cancel()

    await waiting


async def test_a_first_signal_stops_the_picking_and_cancels_nothing() -> None:
    worker = Bare()
    worker.tasks["job"] = job = asyncio.create_task(asyncio.Event().wait())

    before = asyncio.all_tasks()
    worker.handle_sig_wait_for_completion(signal.SIGTERM)

    assert worker.allow_pick_jobs is False
    assert not job.cancelling()
    for task in (asyncio.all_tasks() - before) | {job}:
        task.cancel()
    await asyncio.gather(job, return_exceptions=True)


async def test_handle_sig_cancels_every_task_and_the_main_one() -> None:
    worker = Bare()
    worker.tasks["job"] = job = asyncio.create_task(asyncio.Event().wait())
    worker.main_task = main = asyncio.create_task(asyncio.Event().wait())  # type: ignore[assignment]  # arq types it as a task of None

    worker.handle_sig(signal.SIGTERM)

    await asyncio.wait({job, main})
    assert job.cancelled()
    assert main is not None
    assert main.cancelled()
