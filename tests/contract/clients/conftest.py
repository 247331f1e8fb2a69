from __future__ import annotations

import pytest

from tests.contract.broker import BrokerUnderTest


@pytest.fixture(scope="session")
def broker() -> BrokerUnderTest:
    """The one of the run that started this one."""
    found = BrokerUnderTest.from_environment()
    assert found is not None, "run test_python_clients.py, which starts a broker"
    return found
