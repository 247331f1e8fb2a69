"""The pictures of docs/autoscaling.md. The same data makes the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams.update(
    {"svg.hashsalt": "headrace", "svg.fonttype": "none", "font.size": 9, "path.simplify_threshold": 0.5}
)

from matplotlib import pyplot  # noqa: E402  after the choice of where it draws


def step(measured: dict[str, Any], reckoned: dict[str, Any], path: Path) -> None:
    """The live run and one run of the model, one above the other in time."""
    figure, (jobs, pods) = pyplot.subplots(2, 1, sharex=True, figsize=(8, 5), layout="constrained")
    for trace, name, style in ((measured, "measured", "-"), (reckoned, "model, one run", ":")):
        depth = [queued + held for queued, held in zip(trace["queued"], trace["in_flight"], strict=True)]
        jobs.plot(trace["at"], depth, style, color="tab:blue", label=f"queued + in flight, {name}")
        jobs.plot(trace["at"], trace["queued"], style, color="tab:red", label=f"queued, {name}")
        pods.step(trace["at"], trace["ready"], style, where="post", color="tab:green", label=f"ready, {name}")
    pods.step(
        measured["at"], measured["replicas"], "--", where="post", color="0.6", label="asked for, measured"
    )
    jobs.set_ylabel("jobs")
    pods.set_ylabel("workers")
    pods.set_xlabel("seconds, every period a tenth of the shipped one")
    for axes in (jobs, pods):
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    _save(figure, path)


def million(trace: dict[str, Any], path: Path) -> None:
    figure, (jobs, pods) = pyplot.subplots(2, 1, sharex=True, figsize=(8, 5), layout="constrained")
    minutes = [at / 60 for at in trace["at"]]
    jobs.plot(minutes, [held / 1000 for held in trace["in_flight"]], label="in flight")
    jobs.plot(minutes, [queued / 1000 for queued in trace["queued"]], color="tab:red", label="queued")
    pods.step(minutes, trace["replicas"], where="post", color="0.6", linestyle="--", label="asked for")
    pods.step(minutes, trace["ready"], where="post", color="tab:green", label="ready")
    jobs.set_ylabel("thousand jobs")
    pods.set_ylabel("pods")
    pods.set_xlabel("minutes")
    for axes in (jobs, pods):
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    pyplot.close(figure)
    # No blanks at the ends of lines, which matplotlib leaves there.
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(line.rstrip() for line in lines) + "\n", encoding="utf-8")
