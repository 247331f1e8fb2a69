"""Requests made up from the OpenAPI document: whatever is sent, no answer is a 500 and none hangs.

SCHEMA_CASES sets how many there are in all; the figure of the docs was run with 20,000.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import httpx
import psutil
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from shared.domain.roles import Role
from shared.ids import AccountId
from tests.acceptance.people import ADMIN_TOKEN, SETTINGS
from tests.fakes.stack import Stack, start_apart

pytestmark = [pytest.mark.xdist_group("openapi"), pytest.mark.timeout(3_600)]

CASES: Final = int(os.environ.get("SCHEMA_CASES", "1300"))
GROWTH_BYTES: Final = 50 * 1024 * 1024
FINE: Final = {501, 502, 503, 504}
"""What a provider, or a part of the broker that is not set up, may cause; each is meant."""
SKIPPED: Final = {"/api/v1/auth/password", "/api/v1/auth/logout"}
"""They would end the session that asks; tests of their own send them bad input."""


@pytest.fixture(scope="module")
def stack(sqlite_template: Path) -> Iterator[Stack]:
    settings_ = {**SETTINGS, "HEADRACE_QUEUE__MAX_ATTEMPTS": "1"}
    broker = Stack(database_template=sqlite_template, settings=settings_)
    start_apart(broker)
    yield broker
    broker.end_now()


class Asked:
    """What was sent, and what came of it."""

    def __init__(self, stack: Stack) -> None:
        self.url = stack.apis[0].url
        self.client = httpx.Client(base_url=self.url, timeout=10, trust_env=False)
        self.statuses: Counter[int] = Counter()
        self.wrong: list[str] = []

    def ask(self, case: schemathesis.Case[Any], token: str) -> None:
        sent = case.as_transport_kwargs(base_url=self.url)
        made_up = {n: v for n, v in (sent.get("headers") or {}).items() if n.lower() != "authorization"}
        sent["headers"] = {**made_up, "Authorization": f"Bearer {token}"}
        try:
            request = self.client.build_request(**_for_httpx(sent))
        except (httpx.InvalidURL, UnicodeError, TypeError, ValueError):
            return  # nothing that could be put on a wire
        answer = self.client.send(request)
        self.statuses[answer.status_code] += 1
        if answer.status_code >= 500 and answer.status_code not in FINE:
            self.wrong.append(f"{case.method} {case.path}: {answer.status_code} to {sent!r}"[:2_000])

    def all_of(self, operation: Any, count: int, token: str) -> None:
        """Half of them against the document, where that is possible, and half as it says."""
        for mode in GenerationMode.NEGATIVE, GenerationMode.POSITIVE:

            @settings(
                max_examples=max(1, count // 2),
                database=None,
                deadline=None,
                derandomize=True,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def ask(case: schemathesis.Case[Any]) -> None:
                self.ask(case, token)

            with suppress(Unsatisfiable):  # nothing can be said wrong where nothing is said
                ask()


def test_made_up_requests_get_an_answer_that_was_meant(stack: Stack) -> None:
    key = asyncio.run(stack.new_api_key(AccountId("made-up"), role=Role.ADMIN))
    api = psutil.Process(stack.apis[0].pid)
    asked = Asked(stack)
    schema = schemathesis.openapi.from_dict(asked.client.get("/openapi.json").json())
    operations = [found.ok() for found in schema.get_all_operations()]  # type: ignore[union-attr]  # a document without faults has only those
    wanted = [one for one in operations if one.path not in SKIPPED]

    def ask_all(count: int) -> int:
        """Of each operation; the memory of the api then."""
        for operation in wanted:
            token = ADMIN_TOKEN if operation.path.startswith("/api/v1/admin") else key
            asked.all_of(operation, count, token)
        return int(api.memory_info().rss)

    each = -(-CASES // len(wanted))
    # The first time each route loads what it needs, and passwords take their 19 MiB each.
    warm = ask_all(each // 2)
    grown = ask_all(each - each // 2) - warm

    asked.client.close()
    requests = sum(asked.statuses.values())
    print(f"{requests} requests over {len(wanted)} operations: {dict(asked.statuses)}; +{grown >> 20} MB")
    assert asked.wrong == []
    assert requests > CASES / 2
    assert asked.statuses[422] + asked.statuses[400] > 0
    assert grown < GROWTH_BYTES


def _for_httpx(sent: dict[str, Any]) -> dict[str, Any]:
    """As requests takes it to as httpx does."""
    sent = {name: value for name, value in sent.items() if value is not None}
    data = sent.pop("data", None)
    if "files" in sent:
        # Numbers among the fields of a form.
        as_text = [
            (name, (filename, value if isinstance(value, str | bytes) else str(value)))
            for name, (filename, value, *_) in sent["files"]
        ]
        sent["files"] = as_text
    if data is not None:
        sent["content" if isinstance(data, str | bytes) else "data"] = data
    return sent
