from __future__ import annotations

import pytest
from pydantic import ValidationError

from shared.settings import QueueSettings


def test_a_lease_that_one_late_heartbeat_would_lose_is_refused_by_both_names() -> None:
    with pytest.raises(ValidationError) as refused:
        QueueSettings(heartbeat_seconds=5, lease_idle_seconds=14.9)

    assert "HEADRACE_QUEUE__LEASE_IDLE_SECONDS" in str(refused.value)
    assert "HEADRACE_QUEUE__HEARTBEAT_SECONDS" in str(refused.value)


def test_a_lease_of_three_heartbeats_is_long_enough() -> None:
    assert QueueSettings(heartbeat_seconds=5, lease_idle_seconds=15).lease_idle_seconds == 15
