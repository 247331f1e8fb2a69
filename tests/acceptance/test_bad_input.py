"""Bad input over real sockets against the whole broker: refused in good order, and forgotten.

The matrix itself is data: `bad_input_matrix.py`.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import psutil
import pytest

from shared.ids import AccountId
from shared.providers.registry import BUILT_IN
from tests.acceptance.bad_input import CANARY, JSON_TYPE, Case, Route, Writer
from tests.acceptance.bad_input_matrix import ELSEWHERE, NOT_APPLICABLE, ROWS, cases
from tests.acceptance.raw_http import RawAnswer, exchange, flood
from tests.fakes.stack import Stack, start_apart

pytestmark = pytest.mark.xdist_group("bad_input")

_PLACEHOLDER: Final = "gw_live_" + "0" * 57
"""As long as a key: the cases are named before there is a broker to have one of."""
_REQUEST_ID: Final = re.compile(r"req_[0-9a-f]{24}")
_MEGABYTE: Final = 1024 * 1024
_CASES: Final = [case for route in Route for case in cases(route, _PLACEHOLDER)]


@pytest.fixture(scope="module")
def broker(sqlite_template: Path) -> Iterator[Stack]:
    stack = Stack(database_template=sqlite_template)
    start_apart(stack)
    yield stack
    stack.end_now()


@pytest.fixture
async def client(broker: Stack) -> AsyncIterator[httpx.AsyncClient]:
    async with broker.client() as client:
        yield client


@pytest.mark.parametrize("case", _CASES, ids=lambda case: case.label)
async def test_bad_input_is_answered_as_the_matrix_says(broker: Stack, case: Case) -> None:
    answer = await _send(broker, case)

    _judge(case, answer)


def test_every_row_has_cases_or_a_reason_to_have_none() -> None:
    labels = [case.label for case in _CASES]
    for route in Route:
        covered = {case.row for case in _CASES if case.route is route}
        assert covered | set(NOT_APPLICABLE) | set(ELSEWHERE) == set(ROWS)
    assert len(set(labels)) == len(labels)


async def test_after_the_whole_matrix_the_broker_is_as_it_was(
    broker: Stack, client: httpx.AsyncClient
) -> None:
    for case in _CASES:
        await _send(broker, case)
    await _answers_well(client)
    before = _resident_bytes(broker)

    for _ in range(3):
        for case in _CASES:
            _judge(case, await _send(broker, case))

    await _answers_well(client)
    assert _resident_bytes(broker) - before < 50 * _MEGABYTE
    assert (await client.get("/health")).json()["inference"]["waiting_requests"] == 0
    assert all(process.is_running for process in (*broker.apis, *broker.workers, *broker.schedulers))


async def test_no_log_repeats_what_was_sent_or_tells_of_a_failure(broker: Stack) -> None:
    for case in _CASES:
        await _send(broker, case)

    for name, output in broker.logs().items():
        assert CANARY not in output, name
        assert broker.api_key not in output, name
        assert "Traceback" not in output, name
    assert broker.log_events("request failed") == []


async def test_refused_input_counts_under_labels_of_a_closed_set(
    broker: Stack, client: httpx.AsyncClient
) -> None:
    page = (await client.get("/metrics")).text

    providers = set(re.findall(r'^gateway_\w+{.*?provider="([^"]*)"', page, re.MULTILINE))
    assert providers <= {*BUILT_IN, "other"}
    assert CANARY not in page


@pytest.mark.parametrize("route", Route)
async def test_too_complex_a_body_costs_50_ms_of_cpu_at_most(broker: Stack, route: Route) -> None:
    api = psutil.Process(broker.apis[0].pid)
    rounds = 5

    for case in (case for case in _CASES if case.row == 2 and case.route is route):
        before = api.cpu_times()
        for _ in range(rounds):
            await _send(broker, case)
        after = api.cpu_times()
        spent = (after.user + after.system - before.user - before.system) / rounds
        # The kernel counts in steps of 10 ms.
        assert spent <= 0.05 + 0.01 / rounds, case.label


@pytest.mark.parametrize("route", Route)
@pytest.mark.parametrize("by", ["length", "chunks", "a header"])
async def test_a_flood_is_cut_off_early_and_keeps_no_memory(broker: Stack, route: Route, by: str) -> None:
    write = Writer(route, broker.api_key)
    many = 300
    if by == "length":
        head = write.framed((b"Content-Length", b"%d" % (many * _MEGABYTE)), body=b"")
        filler, status, limit = b" " * _MEGABYTE, 413, 0
    elif by == "chunks":
        head = write.framed((b"Transfer-Encoding", b"chunked"), body=b"")
        filler, status, limit = b"100000\r\n" + b" " * _MEGABYTE + b"\r\n", 413, 10 * _MEGABYTE
    else:
        head = b"POST " + route.value + b" HTTP/1.1\r\nHost: broker.example\r\nX-Flood: "
        filler, status, limit = b"a" * _MEGABYTE, 431, 0
    await flood(broker.url, head, filler, times=many)
    before = _resident_bytes(broker)

    sent, answer = await flood(broker.url, head, filler, times=many)

    assert answer is None or answer.status == status
    # What two sockets of the kernel hold comes on top of what was read.
    assert sent < limit + 32 * _MEGABYTE
    assert _resident_bytes(broker) - before < limit + 5 * _MEGABYTE


@pytest.mark.parametrize("route", Route)
async def test_a_slash_too_many_is_not_sent_on_to_the_host_that_the_caller_wrote(
    broker: Stack, route: Route
) -> None:
    write = Writer(route, broker.api_key)
    (slashed,) = write.headers(12, "", [], _ANY, target=route.value + b"/", host=b"evil.example").writes

    answer = await exchange(broker.url, slashed)

    assert answer.status == 404
    assert "evil.example" not in answer.text


@pytest.mark.parametrize("route", Route)
async def test_a_key_with_a_known_beginning_opens_nothing(broker: Stack, route: Route) -> None:
    for key in (broker.api_key[:-1], broker.api_key[:-6] + "000000", broker.api_key + "x", CANARY, "ключ"):
        headers = [(b"Authorization", b"Bearer " + key.encode()), JSON_TYPE]
        write = Writer(route, "")
        write.key = headers[0]
        answer = await exchange(broker.url, *write.headers(1, "key", [], _ANY).writes)

        assert answer.status == 401
        assert key not in answer.text
        _in_form(route, answer)


@pytest.mark.parametrize("route", Route)
async def test_an_idempotency_key_used_for_another_body_is_refused(
    client: httpx.AsyncClient, route: Route
) -> None:
    path, headers = route.value.decode(), {"Idempotency-Key": f"reused-{route.name}"}
    first = await client.post(path, json=route.chat(), headers=headers)
    again = await client.post(path, json=route.chat(), headers=headers)
    other = await client.post(path, json=route.chat(temperature=0.5), headers=headers)

    assert first.status_code == again.status_code == 200
    assert again.json() == first.json()
    assert other.status_code == 422
    assert _code(route, other.json()) == "idempotency_key_reused"


async def test_an_idempotency_key_used_for_another_provider_is_not_answered_by_the_first(
    client: httpx.AsyncClient,
) -> None:
    ask, headers = Route.UNIFIED.chat, {"Idempotency-Key": "one-model-two-providers"}
    body = ask(model="same-name")
    slashed = Route.OPENAI.chat(model="openai/same-name")

    first = await client.post("/api/v1/chat", json=body, headers=headers)
    other = await client.post("/api/v1/chat", json={**body, "provider": "anthropic"}, headers=headers)
    third = await client.post("/v1/chat/completions", json=slashed, headers=headers)
    fourth = await client.post(
        "/v1/chat/completions", json={**slashed, "model": "anthropic/same-name"}, headers=headers
    )

    assert (first.status_code, other.status_code) == (200, 422)
    assert (third.status_code, fourth.status_code) == (200, 422)


@pytest.mark.parametrize("route", Route)
async def test_an_idempotency_key_of_another_account_is_another_key(
    broker: Stack, client: httpx.AsyncClient, route: Route
) -> None:
    path, headers = route.value.decode(), {"Idempotency-Key": f"shared-{route.name}"}
    stranger = await broker.new_api_key(AccountId("acc_stranger"))

    ours = await client.post(path, json=route.chat(), headers=headers)
    theirs = await client.post(
        path, json=route.chat(top_p=0.5), headers={**headers, "authorization": f"Bearer {stranger}"}
    )

    assert ours.status_code == theirs.status_code == 200
    assert ours.headers["x-headrace-job-id"] != theirs.headers["x-headrace-job-id"]


@pytest.mark.parametrize("route", Route)
async def test_the_same_idempotency_key_at_the_same_time_is_one_call_to_the_provider(
    broker: Stack, client: httpx.AsyncClient, route: Route
) -> None:
    body = route.chat(messages=[{"role": "user", "content": '!script {"before_headers_ms": 300}\nonce'}])
    headers = {"Idempotency-Key": f"at-once-{route.name}"}
    known = {call.call for call in broker.calls()}

    answers = await asyncio.gather(
        *(client.post(route.value.decode(), json=body, headers=headers) for _ in range(10))
    )

    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert len([call for call in broker.calls() if call.call not in known]) == 1


@pytest.mark.parametrize("route", Route)
async def test_a_job_of_another_account_does_not_exist(
    broker: Stack, client: httpx.AsyncClient, route: Route
) -> None:
    stranger = await broker.new_api_key(AccountId("acc_stranger"))
    path, theirs = route.value.decode(), {"authorization": f"Bearer {stranger}"}
    streamed = await client.post(path, json=route.chat(stream=True))
    job = streamed.headers["x-headrace-job-id"]

    resumed = await client.post(
        path, json=route.chat(stream=True), headers={**theirs, "last-event-id": f"{job}:1"}
    )
    read = await client.get(f"/api/v1/jobs/{job}/events", headers=theirs)
    absent = await client.get(f"/api/v1/jobs/job_{'0' * 32}/events", headers=theirs)

    assert resumed.status_code == read.status_code == absent.status_code == 404
    assert _code(route, resumed.json()) == "not_found"
    hidden, missing = read.json()["error"], absent.json()["error"]
    assert {**hidden, "trace_id": ""} == {**missing, "trace_id": ""}
    assert (await client.get(f"/api/v1/jobs/{job}/events")).status_code == 200


@pytest.mark.parametrize("after", ["-1", "1000000000", "x", "%C2%A0", "1.5", "", "'%20OR%201=1"])
async def test_a_forged_place_in_a_stream_is_refused(client: httpx.AsyncClient, after: str) -> None:
    streamed = await client.post("/api/v1/chat", json=Route.UNIFIED.chat(stream=True))
    job = streamed.headers["x-headrace-job-id"]

    response = await client.get(f"/api/v1/jobs/{job}/events?after={after}")

    assert response.status_code == 422
    assert response.json()["error"]["type"] == "validation_error"


_ANY: Final = _CASES[0].answer


async def _send(broker: Stack, case: Case) -> RawAnswer:
    writes = [part.replace(_PLACEHOLDER.encode(), broker.api_key.encode()) for part in case.writes]
    return await exchange(broker.url, *writes, then_eof=case.then_eof, expect_close=case.closes)


def _judge(case: Case, answer: RawAnswer) -> None:
    expected = case.answer
    assert answer.status in expected.statuses, answer
    assert CANARY not in answer.text
    if answer.status in {0, 200}:
        return
    assert _REQUEST_ID.fullmatch(answer.headers["x-request-id"])
    error = _in_form(case.form, answer)
    if expected.kind is not None and case.form is Route.UNIFIED:
        assert error["type"] == expected.kind
    if expected.code is not None:
        assert _code(case.form, answer.json()) == expected.code
    if expected.param is not None:
        where = error if case.form is Route.OPENAI else error["details"]
        assert where["param"] == expected.param


def _in_form(form: Route, answer: RawAnswer) -> dict[str, Any]:
    """The error, held to the form of its route."""
    assert answer.headers["content-type"] == "application/json"
    document = answer.json()
    assert list(document) == ["error"]
    error: dict[str, Any] = document["error"]
    assert isinstance(error["message"], str)
    assert error["message"]
    if form is Route.OPENAI:
        assert set(error) == {"message", "type", "param", "code"}
        assert error["type"] == "invalid_request_error"
    else:
        assert set(error) == {"type", "message", "details", "trace_id"}
        assert error["type"].endswith("_error") or error["type"] == "payload_too_large"
        assert error["trace_id"] == answer.headers["x-request-id"]
    assert "input" not in json.dumps(error.get("details", {}))
    return error


def _code(form: Route, document: dict[str, Any]) -> Any:
    error = document["error"]
    return error["code"] if form is Route.OPENAI else error["details"].get("code")


async def _answers_well(client: httpx.AsyncClient) -> None:
    for route in Route:
        response = await client.post(route.value.decode(), json=route.chat())
        assert response.status_code == 200
        assert response.json()["choices"][0]["message"]["content"] == "You said: Hello"


def _resident_bytes(broker: Stack) -> int:
    processes = (*broker.apis, *broker.workers, *broker.schedulers)
    return sum(psutil.Process(process.pid).memory_info().rss for process in processes)
