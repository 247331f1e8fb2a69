"""Files and batches in OpenAI's form, message batches in Anthropic's.

    POST /_batches    how batches run and which steps fail from now on, see `Script`
    GET  /_batches    every batch that was created, oldest first
    PUT  /_batches    other `metadata` for the batch `id`
    DELETE /_batches  forget all of it

A batch runs when it is first asked after as one that has ended. Each request in it is answered as if it had
come by itself, with the cue that its text holds; one named `expires` comes out as expired, one named `lost`
does not come out at all. What one credential made, another one does not find.
"""

import itertools
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import parse_qs

import orjson
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

_PATH = re.compile(r"(?P<messages>/messages)?/batches(?:/(?P<id>[^/]+)(?:/(?P<what>cancel|results))?)?\Z")
_FILES = re.compile(r"/files(?:/(?P<id>[^/]+)(?P<content>/content)?)?\Z")

Ask = Callable[[str, dict[str, Any]], tuple[int, str | None, bytes]]
"""From path and body of a request to its status, the name of its cue, and its answer."""
Step = Literal["list", "upload", "create", "poll", "cancel", "results"]


@dataclass(frozen=True)
class Failure:
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    on: Step
    status: Annotated[int, Field(ge=400, le=599)] = 500
    after: bool = False
    """What was asked for is done all the same."""
    times: Annotated[int, Field(ge=1)] = 1


@dataclass(frozen=True)
class Script:
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    polls: Annotated[int, Field(ge=0)] = 0
    """How often a batch is told as running."""
    ends: Literal["completed", "expired", "failed"] = "completed"
    held: bool = False
    """It runs until it is cancelled."""
    answers: Annotated[int, Field(ge=0)] | None = None
    """How many requests are answered in one that does not complete; None: none."""
    failures: tuple[Failure, ...] = ()


_SCRIPT = TypeAdapter(Script)


@dataclass(slots=True)
class Batch:
    id: str
    owner: str
    path: str
    endpoint: str
    is_anthropic: bool
    requests: list[tuple[str, dict[str, Any]]]
    notes: dict[str, str] | None
    input_file: str
    created: float
    headers: dict[str, str]
    script: Script
    polls: int = 0
    is_cancelled: bool = False
    results: list[bytes] | None = None
    output_file: str | None = None
    error_file: str | None = None
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def status(self) -> str:
        if self.results is None:
            return "in_progress"
        return "cancelled" if self.is_cancelled else self.script.ends


class Refusal(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


class Batches:
    """One a process."""

    def __init__(self) -> None:
        self._script = Script()
        self._failures: list[list[Any]] = []
        self._files: dict[str, tuple[str, str, bytes]] = {}
        self._batches: dict[str, Batch] = {}
        self._numbers = itertools.count(1)

    def control(self, method: str, body: bytes) -> tuple[int, bytes]:
        match method:
            case "POST":
                try:
                    self._script = _SCRIPT.validate_json(body)
                except ValidationError as exc:
                    return 400, orjson.dumps({"error": str(exc)})
                self._failures = [[failure, failure.times] for failure in self._script.failures]
            case "PUT":
                said = orjson.loads(body)
                self._batches[said["id"]].notes = said["metadata"]
            case "DELETE":
                self._script, self._failures = Script(), []
                self._files.clear()
                self._batches.clear()
            case _:
                return 200, orjson.dumps([_shown(batch) for batch in self._batches.values()])
        return 200, b"{}"

    def serves(self, path: str) -> bool:
        return bool(_PATH.search(path) or _FILES.search(path)) and not path.startswith("/_")

    def answer(
        self, method: str, path: str, query: str, headers: dict[bytes, bytes], body: bytes, ask: Ask
    ) -> bytes:
        """Raises Refusal."""
        credential = headers.get(b"authorization") or headers.get(b"x-api-key") or b""
        owner, wanted = credential.decode("latin-1"), parse_qs(query)
        found = _PATH.search(path)
        if found is None:
            return self._file(method, path, owner, headers, body)
        is_anthropic = found["messages"] is not None
        name, what = found["id"], found["what"]
        if name is None and method == "GET":
            return self._step("list", lambda: self._list(owner, wanted, is_anthropic=is_anthropic))
        if name is None:
            return self._step("create", lambda: self._create(path, owner, headers, body, is_anthropic))
        batch = self._batches.get(name)
        if batch is None or batch.owner != owner or batch.is_anthropic != is_anthropic:
            raise Refusal(404, "There is no such batch.")
        if what == "cancel":
            return self._step("cancel", lambda: self._cancel(batch, ask))
        if what == "results":
            return self._step("results", lambda: b"".join(line + b"\n" for line in batch.results or ()))
        return self._step("poll", lambda: self._poll(batch, ask))

    def _step(self, step: Step, do: Callable[[], bytes]) -> bytes:
        for spent in self._failures:
            failure: Failure = spent[0]
            if failure.on == step and spent[1]:
                spent[1] -= 1
                if failure.after:
                    do()
                raise Refusal(failure.status, f"Scripted status {failure.status}.")
        return do()

    def _file(self, method: str, path: str, owner: str, headers: dict[bytes, bytes], body: bytes) -> bytes:
        found = _FILES.search(path)
        name = found["id"] if found is not None else None
        if name is None and method == "POST":
            return self._step("upload", lambda: self._upload(owner, headers, body))
        file = self._files.get(name or "")
        if file is None or file[0] != owner:
            raise Refusal(404, "There is no such file.")
        if found is not None and found["content"]:
            return self._step("results", lambda: file[2])
        return orjson.dumps({"id": name, "object": "file", "filename": file[1], "bytes": len(file[2])})

    def _upload(self, owner: str, headers: dict[bytes, bytes], body: bytes) -> bytes:
        boundary = headers.get(b"content-type", b"").partition(b"boundary=")[2]
        for part in body.split(b"--" + boundary) if boundary else ():
            head, _, content = part.partition(b"\r\n\r\n")
            if b'name="file"' in head:
                name = f"file-{next(self._numbers):08d}"
                filename = head.partition(b'filename="')[2].partition(b'"')[0].decode()
                self._files[name] = owner, filename, content.removesuffix(b"\r\n")
                return orjson.dumps({"id": name, "object": "file", "filename": filename, "purpose": "batch"})
        raise Refusal(400, "There is no file in this form.")

    def _create(
        self, path: str, owner: str, headers: dict[bytes, bytes], body: bytes, is_anthropic: bool
    ) -> bytes:
        said = orjson.loads(body)
        notes, file_id, endpoint = None, "", "/v1/messages"
        if is_anthropic:
            requests = [(one["custom_id"], one["params"]) for one in said["requests"]]
        else:
            file_id, endpoint, notes = said["input_file_id"], said["endpoint"], said.get("metadata")
            file = self._files.get(file_id)
            if file is None or file[0] != owner:
                raise Refusal(400, "There is no such input file.")
            lines = [orjson.loads(line) for line in file[2].splitlines() if line]
            if any(line["url"] != endpoint or line["method"] != "POST" for line in lines):
                raise Refusal(400, "A request has another URL than its batch.")
            requests = [(line["custom_id"], line["body"]) for line in lines]
            if len({body.get("model") for _, body in requests}) > 1:
                raise Refusal(400, "All requests of a batch name one model.")
        if len({name for name, _ in requests}) < len(requests):
            raise Refusal(400, "Two requests have the same custom_id.")
        prefix = "msgbatch" if is_anthropic else "batch"
        batch = Batch(
            id=f"{prefix}_{next(self._numbers):08d}",
            owner=owner,
            path=path,
            endpoint=endpoint,
            is_anthropic=is_anthropic,
            requests=requests,
            notes=notes,
            input_file=file_id,
            created=time.time(),
            headers={name.decode(): value.decode("latin-1") for name, value in headers.items()},
            script=self._script,
        )
        self._batches[batch.id] = batch
        return self._told(batch)

    def _list(self, owner: str, wanted: dict[str, list[str]], *, is_anthropic: bool) -> bytes:
        limit = int(wanted.get("limit", ["20"])[0])
        after = wanted.get("after_id" if is_anthropic else "after", [None])[0]
        found = [b for b in self._batches.values() if b.owner == owner and b.is_anthropic == is_anthropic]
        found.reverse()
        if after is not None:
            found = list(itertools.dropwhile(lambda batch: batch.id != after, found))[1:]
        page = found[:limit]
        return orjson.dumps(
            {
                "object": "list",
                "data": [orjson.loads(self._told(batch)) for batch in page],
                "first_id": page[0].id if page else None,
                "last_id": page[-1].id if page else None,
                "has_more": len(found) > limit,
            }
        )

    def _poll(self, batch: Batch, ask: Ask) -> bytes:
        batch.polls += 1
        if batch.results is None and batch.polls > batch.script.polls and not batch.script.held:
            self._run(batch, ask)
        return self._told(batch)

    def _cancel(self, batch: Batch, ask: Ask) -> bytes:
        if batch.results is not None:
            raise Refusal(409, f"A batch that is {batch.status} cannot be cancelled.")
        batch.is_cancelled = True
        self._run(batch, ask)
        return self._told(batch)

    def _run(self, batch: Batch, ask: Ask) -> None:
        script, rest = batch.script, "canceled" if batch.is_cancelled else "expired"
        is_whole = script.ends == "completed" and not batch.is_cancelled
        answered = len(batch.requests) if is_whole else script.answers or 0
        if script.ends == "failed" and not batch.is_cancelled:
            batch.results = []
            return
        good: list[bytes] = []
        bad: list[bytes] = []
        counts = dict.fromkeys(("succeeded", "errored", "canceled", "expired"), 0)
        segment = batch.path[: batch.path.find("/", 1)]
        # Not in the order they came in: nobody may count on it.
        for index, (name, body) in reversed(list(enumerate(batch.requests))):
            status, cue, answer = 0, None, b""
            if index < answered:
                status, cue, answer = ask(f"{segment}{batch.endpoint}", body)
            if cue == "lost":
                continue
            if not status or cue == "expires":
                counts["expired" if cue else rest] += 1
                bad.append(_not_run(batch, name, "expired" if cue else rest))
                continue
            counts["succeeded" if status == 200 else "errored"] += 1
            (good if status == 200 else bad).append(_result(batch, name, status, answer))
        batch.results, batch.counts = [*good, *bad], counts
        if not batch.is_anthropic:
            batch.output_file = self._keep(batch, good)
            batch.error_file = self._keep(batch, bad)

    def _keep(self, batch: Batch, lines: list[bytes]) -> str | None:
        if not lines:
            return None
        name = f"file-{next(self._numbers):08d}"
        # The last line has no end, as files may have it.
        self._files[name] = batch.owner, f"{batch.id}.jsonl", b"\n".join(lines)
        return name

    def _told(self, batch: Batch) -> bytes:
        return orjson.dumps(_message_batch(batch) if batch.is_anthropic else _openai_batch(batch))


def _openai_batch(batch: Batch) -> dict[str, Any]:
    failed = {"data": [{"code": "invalid_model", "message": "This model cannot be used in a batch."}]}
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "errors": failed if batch.status == "failed" else None,
        "input_file_id": batch.input_file,
        "completion_window": "24h",
        "status": batch.status,
        "output_file_id": batch.output_file,
        "error_file_id": batch.error_file,
        "created_at": int(batch.created),
        "request_counts": {
            "total": len(batch.requests),
            "completed": batch.counts.get("succeeded", 0),
            "failed": batch.counts.get("errored", 0),
        },
        "metadata": batch.notes,
    }


def _message_batch(batch: Batch) -> dict[str, Any]:
    has_ended = batch.results is not None
    counts = {"processing": 0, **batch.counts} if has_ended else {"processing": len(batch.requests)}
    host = batch.headers.get("host", "")
    return {
        "id": batch.id,
        "type": "message_batch",
        "processing_status": "ended" if has_ended else "in_progress",
        "request_counts": counts,
        "created_at": datetime.fromtimestamp(batch.created, UTC).isoformat(),
        "results_url": f"http://{host}{batch.path}/{batch.id}/results" if has_ended else None,
    }


def _result(batch: Batch, name: str, status: int, answer: bytes) -> bytes:
    said = orjson.loads(answer)
    if batch.is_anthropic:
        told = {"type": "succeeded", "message": said} if status == 200 else {"type": "errored", "error": said}
        return orjson.dumps({"custom_id": name, "result": told})
    response = {"status_code": status, "request_id": f"req_{name}", "body": said}
    return orjson.dumps({"id": f"batch_req_{name}", "custom_id": name, "response": response, "error": None})


def _not_run(batch: Batch, name: str, why: str) -> bytes:
    if batch.is_anthropic:
        return orjson.dumps({"custom_id": name, "result": {"type": why}})
    code = "batch_expired" if why == "expired" else "batch_cancelled"
    error = {"code": code, "message": "This request could not be executed."}
    return orjson.dumps({"id": f"batch_req_{name}", "custom_id": name, "response": None, "error": error})


def _shown(batch: Batch) -> dict[str, Any]:
    return {
        "id": batch.id,
        "owner": batch.owner,
        "endpoint": batch.endpoint,
        "status": batch.status,
        "requests": [name for name, _ in batch.requests],
        "bodies": [body for _, body in batch.requests],
        "metadata": batch.notes,
        "headers": batch.headers,
        "polls": batch.polls,
    }
