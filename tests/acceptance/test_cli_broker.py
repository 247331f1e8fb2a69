"""`headrace jobs` and `headrace batch` as somebody types them, against real processes."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import fork_server
from tests.fakes.eventually import eventually
from tests.fakes.server_process import free_port
from tests.fakes.stack import Stack
from tests.fixtures.stack import FreshStack

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.xdist_group("batches")


def chat(text: str = "Hello", *, cue: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    content = f"!script {json.dumps(cue)}\n{text}" if cue else text
    return {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": content}], **more}


def line(custom_id: str, **cue: Any) -> bytes:
    body = chat(cue=cue or None)
    request = {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}
    return json.dumps(request).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class Command:
    """One that ended."""

    code: int
    out: str
    err: str

    def answer(self) -> Any:
        return json.loads(self.out)


def environment_of(stack: Stack) -> dict[str, str]:
    return {
        **stack.environment(),
        "HEADRACE_URL": stack.apis[0].url if stack.apis else "",
        "HEADRACE_API_KEY": stack.api_key,
    }


async def run(stack: Stack, folder: Path, *words: str, **environment: str) -> Command:
    done = await asyncio.to_thread(
        fork_server.run, *words, environment={**environment_of(stack), **environment}, folder=folder
    )
    return Command(done.returncode, done.stdout, done.stderr)


def body_in(folder: Path, body: dict[str, Any]) -> str:
    (folder / "body.json").write_text(json.dumps(body))
    return "body.json"


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def test_a_job_is_submitted_waited_for_listed_and_shown(stack: Stack, tmp_path: Path) -> None:
    body = body_in(tmp_path, chat())

    waited = await run(stack, tmp_path, "jobs", "submit", body, "--metadata", "order=17", "--wait")
    job_id = waited.err.split()[0]
    listed = await run(stack, tmp_path, "jobs", "list", "--metadata", "order=17", "--json")
    table = await run(stack, tmp_path, "jobs", "list", "--status", "succeeded", "--kind", "chat")
    shown = await run(stack, tmp_path, "jobs", "show", job_id)
    result = await run(stack, tmp_path, "jobs", "result", job_id)
    events = await run(stack, tmp_path, "jobs", "events", job_id)

    assert waited.code == 0, waited.err
    assert waited.answer()["choices"][0]["message"]["content"] == "You said: Hello"
    assert result.answer() == waited.answer()
    assert [job["id"] for job in listed.answer()["data"]] == [job_id]
    assert job_id in table.out
    assert "status " in shown.out
    assert "succeeded" in shown.out
    assert (events.code, events.out.startswith("event: status\n")) == (0, True)


async def test_a_stream_is_printed_as_it_comes(stack: Stack, tmp_path: Path) -> None:
    done = await run(stack, tmp_path, "jobs", "submit", body_in(tmp_path, chat(stream=True)), "--wait")

    assert done.code == 0, done.err
    assert done.out.count("data: [DONE]") == 1


async def test_a_job_that_failed_or_has_not_ended_says_so_by_its_exit_code(
    stack: Stack, tmp_path: Path
) -> None:
    failed = await run(
        stack, tmp_path, "jobs", "submit", body_in(tmp_path, chat(cue={"status": 400})), "--wait"
    )
    slow = body_in(tmp_path, chat(cue={"before_headers_ms": 60_000}))
    open_one = await run(stack, tmp_path, "jobs", "submit", slow, "--within", "0.3")
    job_id = open_one.err.split()[0]
    cancelled = await run(stack, tmp_path, "jobs", "cancel", job_id, "job_nobody")
    result = await run(stack, tmp_path, "jobs", "result", job_id, "--within", "20")

    assert (failed.code, "is failed:" in failed.err) == (1, True)
    assert (open_one.code, "has not ended" in open_one.err) == (75, True)
    assert cancelled.code == 3
    assert cancelled.out.startswith(f"{job_id}: ")
    assert "job_nobody: There is no such job. (404" in cancelled.err
    assert (result.code, "is cancelled:" in result.err) == (1, True)


async def test_what_goes_wrong_with_the_broker_is_one_sentence(stack: Stack, tmp_path: Path) -> None:
    wrong_key = await run(stack, tmp_path, "jobs", "list", HEADRACE_API_KEY="gw_live_wrong")
    no_key = await run(stack, tmp_path, "jobs", "list", HEADRACE_API_KEY="")
    away = await run(stack, tmp_path, "jobs", "list", "--url", f"http://127.0.0.1:{free_port()}")
    in_url = await run(stack, tmp_path, "batch", "list", "--url", "http://me:secret@127.0.0.1:8000")
    no_file = await run(stack, tmp_path, "batch", "submit", "nowhere.jsonl")
    no_folder = await run(stack, tmp_path, "batch", "wait", "batch_x", "--output", "nowhere/out.jsonl")
    no_id = await run(stack, tmp_path, "jobs", "show", "job_nobody/../x")

    codes = [c.code for c in (wrong_key, no_key, away, in_url, no_file, no_folder, no_id)]
    assert codes == [3, 2, 3, 2, 2, 2, 3]
    for command in (wrong_key, no_key, away, in_url, no_file, no_folder, no_id):
        assert (command.out, command.err.count("\n")) == ("", 1), command.err
    assert "(401 " in wrong_key.err
    assert "cannot be reached" in away.err
    assert "secret" not in in_url.err


async def test_a_batch_is_submitted_waited_for_and_its_errors_counted(stack: Stack, tmp_path: Path) -> None:
    good = b"".join(line(f"good-{n}") for n in range(5))
    bad = b"no\nno\n" + line("good-1") + line("refused", status=400)
    (tmp_path / "in.jsonl").write_bytes(good + bad)

    done = await run(
        stack, tmp_path, "batch", "submit", "in.jsonl", "--metadata", "night=17", "--wait",
        "--output", "out.jsonl", "--errors", "err.jsonl",
    )  # fmt: skip
    batch_id, *table = done.out.splitlines()
    repeated = await run(stack, tmp_path, "batch", "submit", "in.jsonl", "--metadata", "night=17")
    again = await run(stack, tmp_path, "batch", "submit", "in.jsonl", "--again", "--json")
    shown = await run(stack, tmp_path, "batch", "show", batch_id, "--json")
    listed = await run(stack, tmp_path, "batch", "list")
    results = await run(stack, tmp_path, "batch", "results", batch_id)
    errors = await run(stack, tmp_path, "batch", "errors", batch_id)

    assert done.code == 1, done.err
    answers = (tmp_path / "out.jsonl").read_text()
    assert {json.loads(one)["custom_id"] for one in answers.splitlines()} == {f"good-{n}" for n in range(5)}
    assert len((tmp_path / "err.jsonl").read_text().splitlines()) == 4
    assert table[0].split() == ["CODE", "LINES", "FIRST", "MESSAGE"]
    assert table[1].split()[:6] == ["invalid_json_line", "2", "line", "6,", "line", "7"]
    assert "uploading: " in done.err
    assert "completed: 5 completed, 4 failed of 9" in done.err
    assert names_in(tmp_path) == ["err.jsonl", "in.jsonl", "out.jsonl"]
    assert (repeated.code, repeated.out) == (0, f"{batch_id}\n")
    assert "made of this file before" in repeated.err
    assert again.answer()["id"] != batch_id
    assert again.answer()["input_file_id"] == shown.answer()["input_file_id"]
    assert batch_id in listed.out
    assert results.out == answers
    assert errors.out.splitlines() == table


async def test_waiting_goes_on_over_a_broker_that_restarts(fresh_stack: FreshStack, tmp_path: Path) -> None:
    stack = await fresh_stack()
    slow = line("slow", before_headers_ms=3_000)
    (tmp_path / "in.jsonl").write_bytes(slow)

    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(run(stack, tmp_path, "batch", "submit", "in.jsonl", "--wait", "--json"))
        await eventually(lambda: any(call.cue for call in stack.calls()), "a call")
        api = stack.apis[0]
        await stack.kill9(api)
        await stack.start_api(port=api.port)
    done = waiting.result()

    assert done.code == 0, done.err
    assert done.answer()["status"] == "completed"
    answers = (tmp_path / f"{done.answer()['id']}_output.jsonl").read_text()
    assert json.loads(answers)["custom_id"] == "slow"


async def test_an_interrupted_wait_leaves_the_batch_and_says_how_to_come_back(
    stack: Stack, tmp_path: Path
) -> None:
    (tmp_path / "in.jsonl").write_bytes(line("left-alone", before_headers_ms=60_000))

    waiting = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli", "batch", "submit", "in.jsonl", "--wait"),
        cwd=tmp_path,
        env=environment_of(stack),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert waiting.stdout is not None
    batch_id = (await waiting.stdout.readline()).decode().strip()
    assert waiting.stderr is not None
    while b"of " not in (told := await waiting.stderr.readline()) or b"uploading" in told:
        assert told
    waiting.send_signal(signal.SIGINT)
    _, said = await waiting.communicate()
    early = await run(stack, tmp_path, "batch", "results", batch_id)
    cancelled = await run(stack, tmp_path, "batch", "cancel", batch_id)
    after = await run(stack, tmp_path, "batch", "wait", batch_id)

    assert waiting.returncode == 130
    assert f"headrace batch wait {batch_id}" in said.decode()
    assert (early.code, "has not ended" in early.err) == (1, True)
    assert (cancelled.code, cancelled.out.startswith(f"{batch_id}: cancel")) == (0, True)
    assert after.code == 1
    assert "batch_cancelled" in after.out


COMMANDS = re.findall(r"^\$ headrace (.*)$", (ROOT / "docs" / "cli.md").read_text(), re.MULTILINE)


async def test_every_command_of_the_page_runs(stack: Stack, tmp_path: Path) -> None:
    """In their order, each on what those before it made."""
    body_in(tmp_path, chat())
    (tmp_path / "in.jsonl").write_bytes(line("a") + line("b"))
    job_id = batch_id = ""

    assert len(COMMANDS) > 10
    for command in COMMANDS:
        words = command.replace("job_018f...", job_id).replace("batch_018f...", batch_id)
        done = await run(stack, tmp_path, *shlex.split(words))
        assert done.code == 0, (command, done.err)
        if not job_id:
            job_id = done.out.strip()
        elif not batch_id and command.startswith("batch submit"):
            batch_id = done.out.split()[0]
