"""The scenarios of `openai_sdk/` once more, with the last 1.x release of the client.

Both generations are in wide use. The older one lives in a folder of its own, put before
the virtual environment on the path of a second pytest, which talks to the same broker.
"""

from __future__ import annotations

import pytest

from tests.contract.broker import BrokerUnderTest
from tests.contract.openai_sdk.test_version import MAJOR_VARIABLE
from tests.contract.second_run import folder_of_packages, passed_in_second_run

pytestmark = pytest.mark.xdist_group("contract")


@pytest.mark.timeout(660)
def test_every_scenario_holds_for_the_last_1_x_client(broker: BrokerUnderTest) -> None:
    passed = passed_in_second_run(
        broker,
        "tests/contract/openai_sdk",
        path=[folder_of_packages("openai-1")],
        variables={MAJOR_VARIABLE: "1"},
    )

    assert passed >= 100
