"""The official clients for Node and the AI SDK, in Node's own test runner against the broker."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable

import pytest

from tests.contract import node_packages
from tests.contract.broker import BROKER_VARIABLE, BrokerUnderTest

pytestmark = pytest.mark.xdist_group("contract")


@pytest.mark.timeout(420)
def test_the_clients_for_node_work(
    broker: BrokerUnderTest, record_property: Callable[[str, object], None]
) -> None:
    if (missing := node_packages.missing_program()) is not None:
        record_property("left_out", f"{missing} is not installed: the Node clients were not run")
        return
    node_packages.install()

    run = subprocess.run(
        ["node", "--test", "--test-reporter=tap"],
        cwd=node_packages.FOLDER,
        env={**os.environ, BROKER_VARIABLE: broker.to_environment()},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert run.returncode == 0, run.stdout + run.stderr
    passed = re.search(r"^# pass (\d+)$", run.stdout, re.MULTILINE)
    assert passed is not None, run.stdout
    assert int(passed[1]) >= 49
