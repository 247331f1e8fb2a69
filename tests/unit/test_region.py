"""HEADRACE_REGION is a label of metrics, so it is of a closed form."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from shared.settings import Settings


@pytest.mark.parametrize("region", ["", "eu", "eu-west-1", "a" * 32])
def test_a_region_is_a_short_plain_name_or_none(region: str) -> None:
    assert Settings(_env_file=None, region=region).region == region


@pytest.mark.parametrize("region", ["EU", "eu west", "eu_west", "eu\n", 'eu"', "a" * 33])
def test_any_other_is_refused(region: str) -> None:
    with pytest.raises(ValidationError, match="region"):
        Settings(_env_file=None, region=region)
