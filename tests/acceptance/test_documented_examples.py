"""The OpenAPI document: every route tells its error answers, and every example in it works as it stands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from shared.domain.roles import Role
from shared.ids import AccountId
from tests.acceptance.people import ADMIN_TOKEN, SETTINGS, Person, a_person
from tests.fakes.stack import Stack, start_apart

pytestmark = pytest.mark.xdist_group("documented")

OPEN: Final = {
    *("/health", "/health/live", "/health/ready", "/metrics"),
    *("/api/v1/auth/register", "/api/v1/auth/login", "/api/v1/auth/refresh"),
}
OTHERWISE: Final = {
    "/api/v1/auth/refresh": 401,  # the example's token is nobody's
    "/v1/batches": 404,  # its file was uploaded by nobody
    "/api/v1/members": 404,  # and its person has not registered here
    "/api/v1/admin/users": 404,  # nor is its account one of these
}
"""Examples that cannot succeed as they stand, and what they get."""


@pytest.fixture(scope="module")
def stack(sqlite_template: Path) -> Iterator[Stack]:
    broker = Stack(database_template=sqlite_template, settings=SETTINGS)
    start_apart(broker)
    yield broker
    broker.end_now()


@pytest.fixture(scope="module")
def document(stack: Stack) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{stack.apis[0].url}/openapi.json", trust_env=False).json()
    return found


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (method.upper(), path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def examples(document: dict[str, Any]) -> list[tuple[str, str, Any]]:
    return [
        (method, path, kind["example"])
        for method, path, operation in operations(document)
        for kind in operation.get("requestBody", {}).get("content", {}).values()
        if "example" in kind
    ]


def as_sent(operation: dict[str, Any], example: Any) -> dict[str, Any]:
    """What httpx takes, by the kind of body that is asked for."""
    if "multipart/form-data" not in operation["requestBody"]["content"]:
        return {"json": example}
    fields = {name: value for name, value in example.items() if name != "file"}
    return {"files": {"file": ("example.jsonl", example["file"])}, "data": fields}


def test_every_route_tells_what_it_answers_when_something_is_wrong(document: dict[str, Any]) -> None:
    untold = []
    for method, path, operation in operations(document):
        told = set(operation["responses"])
        expected = set() if path in OPEN else {"401"}
        if "requestBody" in operation:
            # Anthropic's clients know no 422.
            anthropic = path.startswith("/v1/messages")
            expected |= {"400", "413", "415"} | (set() if anthropic else {"422"})
        if "{" in path:
            expected |= {"404"}
        if path.startswith("/api/v1/admin/"):
            expected |= {"403"}
        if expected - told:
            untold.append(f"{method} {path}: {sorted(expected - told)}")

    assert not untold, "\n".join(untold)


def test_every_route_with_a_body_shows_one(document: dict[str, Any]) -> None:
    shown = {(method, path) for method, path, _ in examples(document)}
    with_body = {
        (method, path) for method, path, operation in operations(document) if "requestBody" in operation
    }

    assert with_body - shown == set()


async def test_every_example_works_as_it_stands(stack: Stack, document: dict[str, Any]) -> None:
    person: Person = await a_person(stack, "Reader")
    key = await stack.new_api_key(AccountId(person.account), role=Role.ADMIN)
    wrong: list[str] = []
    tried = 0
    async with stack.client() as client:
        for method, path, example in examples(document):
            if "{" in path or path == "/api/v1/auth/logout":
                continue
            tried += 1
            token = ADMIN_TOKEN if path.startswith("/api/v1/admin/") else key
            if path == "/api/v1/auth/password":
                token = person.token
            headers = {} if path == "/api/v1/auth/refresh" else {"authorization": f"Bearer {token}"}
            sent = as_sent(document["paths"][path][method.lower()], example)
            answer = await client.request(method, path, headers=headers, **sent)
            expected = OTHERWISE.get(path)
            fine = answer.status_code == expected if expected is not None else answer.is_success
            if not fine:
                wrong.append(f"{method} {path}: {answer.status_code} {answer.text[:200]}")

    assert not wrong, "\n".join(wrong)
    assert tried > 15
