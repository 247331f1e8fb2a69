"""How long a lease lasts here: short, since most tests wait for one to lapse."""

from __future__ import annotations

from typing import Final

LEASE_SECONDS: Final = 2.0
RECOVERY_SECONDS: Final = LEASE_SECONDS + 2
"""From a worker's death until its jobs run elsewhere, at most."""
SHORT: Final = {
    "HEADRACE_QUEUE__HEARTBEAT_SECONDS": str(LEASE_SECONDS / 4),
    "HEADRACE_QUEUE__LEASE_IDLE_SECONDS": str(LEASE_SECONDS),
}
