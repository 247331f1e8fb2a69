"""The worker pools' autoscaler without a cluster: the HPA's algorithm, on real processes and in a model.

    python -m bench.autoscale live      1 -> 8 -> 1 real workers on a load step, about 3 minutes
    python -m bench.autoscale model     the same run predicted, and loads no machine here could carry
    python -m bench.autoscale plots     pictures and tables of docs/autoscaling.md, from what the two wrote

hpa.py is pure and drives both. See docs/autoscaling.md.
"""
