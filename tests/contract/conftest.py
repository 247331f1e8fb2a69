"""One broker for all contract tests; official clients of several kinds are its callers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from shared.ids import AccountId
from tests.contract.broker import SETTINGS, BrokerUnderTest
from tests.contract.echo_provider import EchoProvider
from tests.contract.library_provider import LibraryProvider
from tests.fakes.provider import ScriptedProvider
from tests.fakes.stack import Stack, start_apart

collect_ignore = ["clients"]
"""They run in an environment of their own: test_python_clients.py."""

_PROVIDERS_FILE = """
[[endpoint]]
id = "echo"
base_url = "{base_url}"
api_key = "sk-of-the-echo"

[[endpoint]]
id = "library"
base_url = "{library_url}"
capabilities = ["completion", "embeddings", "rerank"]
"""


@pytest.fixture(scope="package")
def broker(request: pytest.FixtureRequest) -> BrokerUnderTest:
    """The one named in the environment, else one of our own."""
    found = BrokerUnderTest.from_environment()
    if found is None:
        started = request.getfixturevalue("own_broker")
        assert isinstance(started, BrokerUnderTest)
        found = started
    return found


# It ends with these tests: for the rest of the run its loops would take a tenth of a core.
@pytest.fixture(scope="package")
def own_broker(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerUnderTest]:
    echo, library = EchoProvider(), LibraryProvider()
    providers_file = tmp_path_factory.mktemp("contract") / "providers.toml"
    file = _PROVIDERS_FILE.format(base_url=echo.base_url, library_url=library.base_url)
    providers_file.write_text(file, encoding="utf-8")
    settings = {**SETTINGS, "HEADRACE_PROVIDERS_FILE": str(providers_file)}
    stack = Stack(database_template=sqlite_template, settings=settings)
    echo.start()
    library.start()
    try:
        start_apart(stack)
        yield BrokerUnderTest(
            url=stack.url,
            api_key=stack.api_key,
            other_api_key=_key_of_another_account(stack),
            provider_url=stack.provider.url,
            redis_pid=stack.redis.pid,
        )
    finally:
        stack.end_now()
        echo.stop()
        library.stop()


@pytest.fixture
async def provider(broker: BrokerUnderTest) -> ScriptedProvider:
    """The scripted provider behind the broker, without memory of earlier tests."""
    found = broker.provider()
    await found.clear()
    return found


@pytest.fixture
def http(broker: BrokerUnderTest) -> Iterator[httpx.Client]:
    """Plain HTTP with an API key, where a client library would hide what is on the wire."""
    with httpx.Client(base_url=broker.url, headers=broker.headers, trust_env=False, timeout=30) as client:
        yield client


def _key_of_another_account(stack: Stack) -> str:
    with ThreadPoolExecutor(max_workers=1) as apart:
        return apart.submit(asyncio.run, stack.new_api_key(AccountId("acc_other"))).result()
