"""What people put between their programs and a provider: LangChain, Pydantic AI, Instructor, Cohere's client.

They need other versions of the official clients than our own tests, so they live in a virtual
environment of their own, whose pytest talks to the broker of this one.
"""

from __future__ import annotations

import pytest

from tests.contract.broker import BrokerUnderTest
from tests.contract.second_run import environment_of_packages, passed_in_second_run

pytestmark = pytest.mark.xdist_group("contract")

_FOLDER = "tests/contract/clients"
_OPTIONS = (
    # Above it are fixtures that need what our own environment holds.
    f"--confcutdir={_FOLDER}",
    # These libraries share one connection pool among all their clients, and close it never.
    "-oasyncio_default_test_loop_scope=session",
    "-oasyncio_default_fixture_loop_scope=session",
    "-Wignore::ResourceWarning",
    "-pno:unraisableexception",
)


@pytest.mark.timeout(900)
def test_the_libraries_around_the_official_clients_work(broker: BrokerUnderTest) -> None:
    passed = passed_in_second_run(broker, _FOLDER, *_OPTIONS, python=environment_of_packages("clients"))

    assert passed >= 66
