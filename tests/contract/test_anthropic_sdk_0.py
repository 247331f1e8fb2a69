"""The scenarios of `anthropic_sdk/` once more, with the last 0.x release of the client.

It still takes arguments that the 2.x client left behind, and lives in a folder of its own as
`test_openai_sdk_1.py` says.
"""

from __future__ import annotations

import pytest

from tests.contract.anthropic_sdk.test_version import MAJOR_VARIABLE
from tests.contract.broker import BrokerUnderTest
from tests.contract.second_run import folder_of_packages, passed_in_second_run

pytestmark = pytest.mark.xdist_group("contract")


@pytest.mark.timeout(660)
def test_every_scenario_holds_for_the_last_0_x_client(broker: BrokerUnderTest) -> None:
    passed = passed_in_second_run(
        broker,
        "tests/contract/anthropic_sdk",
        path=[folder_of_packages("anthropic-0")],
        variables={MAJOR_VARIABLE: "0"},
    )

    assert passed >= 129
