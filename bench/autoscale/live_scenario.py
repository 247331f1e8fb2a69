"""The load step that the live run takes and the model predicts."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from bench.autoscale.hpa import SHIPPED, TARGET_SHARE
from bench.autoscale.scenario import RULE_SECONDS, SCRAPE_SECONDS, Scenario, Service

TIMES_FASTER: Final = 10.0
"""Every period of the HPA and of Prometheus is so many times as short as the shipped one."""
SLOTS: Final = 4
STEP_AT: Final = 15.0
END_AT: Final = 75.0
_SHORT: Final = replace(
    SHIPPED.faster(TIMES_FASTER), target=SLOTS * TARGET_SHARE, min_replicas=1, max_replicas=8
)

LIVE: Final = Scenario(
    spec=_SHORT,
    slots=SLOTS,
    service=Service(mean_seconds=1.5),
    rates=((0.0, 0.5), (STEP_AT, 15.0), (END_AT, 0.5)),
    seconds=150.0,
    pods=1,
    start_seconds=2.0,
    drain_seconds=10.0,
    scrape_seconds=SCRAPE_SECONDS / TIMES_FASTER,
    rule_seconds=RULE_SECONDS / TIMES_FASTER,
)
