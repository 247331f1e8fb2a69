"""The HPA's algorithm against cases worked out by hand from Kubernetes' pages and controller."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.autoscale.hpa import (
    DEFAULT_DOWN,
    DEFAULT_UP,
    SHIPPED,
    SHIPPED_SLOTS,
    TARGET_SHARE,
    Autoscaler,
    Policy,
    PolicyType,
    Rules,
    Select,
    Spec,
    wanted_replicas,
)
from tests.shipping.manifests import Object, named, of_kind, rendered, settings_of

PODS, PERCENT = PolicyType.PODS, PolicyType.PERCENT
AT_ONCE = Rules((Policy(PERCENT, 100, 15),), 0)


@pytest.mark.parametrize(
    ("total", "there", "wanted"),
    [
        (200, 1, 2),  # Kubernetes' page: 200m against 100m doubles
        (50, 2, 1),  # 50m a pod of two would halve: 50 in all is half a pod's worth of 100
        (110, 1, 1),  # a ratio of 1.1 is within the tolerance
        (111, 1, 2),
        (90, 1, 1),
        (180, 2, 2),  # 0.9
        (179, 2, 2),  # outside of it, but 1.79 pods are 2
        (1_000, 3, 10),
        (1_001, 3, 11),  # rounded up
        (0, 3, 0),
        (30, 0, 1),  # from none
    ],
)
def test_replicas_are_the_total_over_the_target_rounded_up(total: float, there: int, wanted: int) -> None:
    assert wanted_replicas(total, Spec(target=100), there) == wanted


def run(spec: Spec, totals: list[float | None], *, replicas: int, every: float = 15) -> list[int]:
    """The replicas after each sync."""
    scaler = Autoscaler(spec)
    found = []
    for number, total in enumerate(totals):
        replicas = scaler.sync(number * every, replicas=replicas, total=total)
        found.append(replicas)
    return found


def test_the_default_adds_four_pods_or_doubles_every_15_seconds_whichever_is_more() -> None:
    spec = Spec(target=1, max_replicas=100)

    assert run(spec, [60.0] * 6, replicas=1) == [5, 10, 20, 40, 60, 60]


def test_no_more_than_the_maximum_and_no_fewer_than_the_minimum() -> None:
    spec = Spec(target=1, min_replicas=2, max_replicas=7, down=AT_ONCE)

    assert run(spec, [60.0, 60.0, 0.0], replicas=2) == [6, 7, 2]


def test_bounds_apply_at_once_and_without_a_metric() -> None:
    spec = Spec(target=1, min_replicas=3, max_replicas=7)

    assert run(spec, [None], replicas=12) == [7]
    assert run(spec, [None], replicas=1) == [3]


def test_without_a_metric_nothing_changes() -> None:
    assert run(Spec(target=1, down=AT_ONCE), [None, None], replicas=4) == [4, 4]


def test_what_was_scaled_to_none_by_hand_stays_there() -> None:
    assert run(Spec(target=1), [50.0], replicas=0) == [0]


def test_ten_percent_a_minute_or_four_pods_as_kubernetes_page_counts_it_down() -> None:
    down = Rules((Policy(PODS, 4, 60), Policy(PERCENT, 10, 60)), 0)
    spec = Spec(target=1, max_replicas=100, down=down)

    counted = run(spec, [10.0] * 14, replicas=80, every=60.5)

    # 80 - 8 = 72; 7.2 is rounded up to 8: 64; 57.6 -> 57; 51.3 -> 51; 45.9 -> 45; 40.5 -> 40; then by fours.
    assert counted == [72, 64, 57, 51, 45, 40, 36, 32, 28, 24, 20, 16, 12, 10]


def test_within_its_period_a_policy_counts_what_was_removed_already() -> None:
    spec = Spec(target=1, max_replicas=100, down=Rules((Policy(PERCENT, 10, 60),), 0))

    # At 60 s the change of 0 s is no longer younger than a minute.
    assert run(spec, [10.0] * 5, replicas=80) == [72, 72, 72, 72, 64]


def test_min_takes_the_policy_that_changes_least() -> None:
    down = Rules((Policy(PERCENT, 10, 60), Policy(PODS, 5, 60)), 0, Select.MIN)
    up = replace(DEFAULT_UP, select=Select.MIN)

    assert run(Spec(target=1, max_replicas=100, down=down), [10.0], replicas=80) == [75]
    assert run(Spec(target=1, max_replicas=100, down=down), [10.0], replicas=30) == [27]
    assert run(Spec(target=1, max_replicas=100, up=up), [60.0], replicas=10) == [14]
    assert run(Spec(target=1, max_replicas=100, up=up), [60.0], replicas=2) == [4]


def test_disabled_never_scales_that_way() -> None:
    down = replace(DEFAULT_DOWN, select=Select.DISABLED, stabilization_seconds=0)
    up = replace(DEFAULT_UP, select=Select.DISABLED)

    assert run(Spec(target=1, down=down), [1.0] * 3, replicas=8) == [8, 8, 8]
    assert run(Spec(target=1, up=up), [9.0] * 3, replicas=2) == [2, 2, 2]


def test_a_small_pool_can_always_move() -> None:
    slow = Spec(
        target=1,
        up=Rules((Policy(PERCENT, 10, 15),), 0),
        down=Rules((Policy(PERCENT, 10, 15),), 0),
    )

    assert run(slow, [9.0] * 3, replicas=1) == [2, 3, 4]
    assert run(slow, [1.0] * 3, replicas=4) == [3, 2, 1]


def test_scaling_down_waits_until_nothing_in_the_window_asked_for_more() -> None:
    spec = Spec(target=1, down=replace(DEFAULT_DOWN, stabilization_seconds=60))

    # The last sync that wanted 8 is at 15 s; it counts until it is a minute old.
    assert run(spec, [8.0, 8.0, 2.0, 2.0, 2.0, 2.0, 2.0], replicas=8) == [8, 8, 8, 8, 8, 2, 2]


def test_scaling_down_goes_to_the_highest_of_the_window_not_to_the_last() -> None:
    spec = Spec(target=1, down=replace(DEFAULT_DOWN, stabilization_seconds=60))

    assert run(spec, [8.0, 2.0, 5.0, 2.0, 2.0, 2.0, 2.0], replicas=8) == [8, 8, 8, 8, 5, 5, 2]


def test_what_there_was_at_first_counts_as_recommended() -> None:
    spec = Spec(target=1, down=replace(DEFAULT_DOWN, stabilization_seconds=30))

    assert run(spec, [1.0] * 3, replicas=6) == [6, 6, 1]


def test_scaling_up_can_be_stabilised_too() -> None:
    spec = Spec(target=1, up=replace(DEFAULT_UP, stabilization_seconds=30))

    # A single spike does nothing; what lasts does, once the old recommendations are 30 s old.
    assert run(spec, [2.0, 9.0, 2.0, 2.0], replicas=2) == [2, 2, 2, 2]
    assert run(spec, [2.0, 9.0, 9.0, 9.0], replicas=2) == [2, 2, 6, 9]


def test_pods_that_are_not_ready_yet_count_as_there_for_an_external_metric() -> None:
    scaler = Autoscaler(Spec(target=10))

    assert scaler.sync(0, replicas=4, total=42, status_replicas=4) == 4
    assert scaler.sync(15, replicas=4, total=42, status_replicas=2) == 5


def test_what_was_removed_may_be_added_again() -> None:
    up = Rules((Policy(PODS, 1, 60),), 0)
    spec = Spec(target=1, up=up, down=AT_ONCE)

    # 6 at the start of the minute, so 7 is as far as one pod a minute goes, whatever went meanwhile.
    assert run(spec, [6.0, 2.0, 9.0], replicas=6) == [6, 2, 7]


def test_a_faster_clock_decides_the_same() -> None:
    totals = [90.0, 700.0, 900.0, 900.0, *([90.0] * 60)]

    assert run(SHIPPED.faster(10), list(totals), replicas=2, every=1.5) == run(
        SHIPPED, list(totals), replicas=2
    )


def rules_of(behavior: Object) -> Rules:
    return Rules(
        tuple(
            Policy(PolicyType(one["type"]), one["value"], one["periodSeconds"])
            for one in behavior["policies"]
        ),
        behavior["stabilizationWindowSeconds"],
        Select(behavior["selectPolicy"]),
    )


def test_the_manifests_say_what_the_model_reckons_with() -> None:
    objects = rendered("overlays/production")
    scaler = named(objects, "HorizontalPodAutoscaler", "headrace-worker-openai")["spec"]
    (metric,) = scaler["metrics"]

    assert metric["external"]["target"] == {"type": "AverageValue", "averageValue": f"{SHIPPED.target:g}"}
    assert rules_of(scaler["behavior"]["scaleUp"]) == SHIPPED.up
    assert rules_of(scaler["behavior"]["scaleDown"]) == SHIPPED.down
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (SHIPPED.min_replicas, SHIPPED.max_replicas)
    assert settings_of(objects)["HEADRACE_WORKER__SLOTS"] == str(SHIPPED_SLOTS)
    assert SHIPPED.target == SHIPPED_SLOTS * TARGET_SHARE


def test_keda_scales_by_the_same_rules() -> None:
    scaled = of_kind(rendered("overlays/keda"), "ScaledObject")

    assert scaled
    for one in scaled:
        behavior = one["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        assert rules_of(behavior["scaleUp"]) == SHIPPED.up
        assert rules_of(behavior["scaleDown"]) == SHIPPED.down
        assert float(one["spec"]["triggers"][0]["metadata"]["threshold"]) == SHIPPED.target
