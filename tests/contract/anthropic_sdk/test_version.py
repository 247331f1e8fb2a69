"""Which generation of the official Anthropic client this run is about."""

from __future__ import annotations

import os
from typing import Final

import anthropic
import pytest

pytestmark = pytest.mark.xdist_group("contract")

MAJOR_VARIABLE: Final = "HEADRACE_TEST_ANTHROPIC_MAJOR"


def test_the_client_is_of_the_generation_under_test() -> None:
    assert anthropic.__version__.partition(".")[0] == os.environ.get(MAJOR_VARIABLE, "2")
