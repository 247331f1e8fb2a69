"""A histogram that costs the hot path little: its processes have one thread that observes, and no lock."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.utils import floatToGoString


class Bins:
    """What was observed under one set of labels."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Histogram:
    """Bins by the values of its labels. `bounds`: upper ones, inclusive, without infinity."""

    def __init__(self, name: str, about: str, labels: Sequence[str], bounds: Sequence[float]) -> None:
        self._name, self._about, self._labels = name, about, tuple(labels)
        self._bounds = tuple(bounds)
        self._bins: dict[tuple[str, ...], Bins] = {}

    def of(self, *values: str) -> Bins:
        bins = self._bins.get(values)
        if bins is None:
            bins = self._bins[values] = Bins(self._bounds)
        return bins

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily(self._name, self._about, labels=self._labels)
        ends = [*map(floatToGoString, self._bounds), "+Inf"]
        for values, bins in self._bins.items():
            buckets = list(zip(ends, accumulate(bins.counts), strict=True))
            family.add_metric(values, buckets, sum_value=bins.sum)
        yield family
