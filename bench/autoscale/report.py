"""What the commands write: docs/autoscaling/*.json, and from them the pictures and the page's tables."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from bench.autoscale import exact, pictures, sizing
from bench.autoscale import live as live_run
from bench.autoscale.live_scenario import END_AT, LIVE, STEP_AT, TIMES_FASTER
from bench.autoscale.scenario import Scenario, Service, Trace, absorbed

FOLDER: Final = Path(__file__).parents[2] / "docs" / "autoscaling"
LIVE_JSON: Final = FOLDER / "live.json"
PAGE: Final = FOLDER.with_suffix(".md")
MODEL_JSON: Final = FOLDER / "model.json"
_RUNS: Final = 200
COMPARED: Final = {
    "seconds": "seconds until depth is back under target",
    "waiting_seconds": "seconds until no job waits",
    "peak_queued": "peak of jobs that wait",
    "peak_oldest_seconds": "seconds the oldest waits, at most",
    "most_ready": "workers at most",
    "back_seconds": "seconds until 1 worker again, from the end of the load",
}


async def live(seed: int) -> str:
    found = await live_run.run(LIVE, seed=seed, forks=False)
    taken = absorbed(found.trace, target=LIVE.spec.target, step_at=STEP_AT, end_at=END_AT)
    summary = {
        "times_faster": TIMES_FASTER,
        "seed": seed,
        "accepted": len(found.accepted),
        "refused": dict(found.refused),
        "ended": found.ended,
        "lost": found.lost,
        "calls": found.calls,
        "doubles": found.doubles,
        "start_seconds": found.start_seconds,
        "stop_seconds": found.stop_seconds,
        "exit_codes": found.exit_codes,
        "slot_seconds": found.slot_seconds,
        "late_samples": found.late_samples,
        "machine": found.machine,
        "absorbed": taken.as_json(),
    }
    write(LIVE_JSON, {**summary, "trace": compact(found.trace)})
    return json.dumps(summary, indent=1)


def write(path: Path, data: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(value)}" for name, value in data.items())
    path.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


def compact(trace: Trace) -> dict[str, Any]:
    """Twice a second is enough for a picture; the last sample stays."""
    return {
        name: value[::-2][::-1] if isinstance(value, list) else value for name, value in asdict(trace).items()
    }


def as_measured(found: dict[str, Any]) -> Scenario:
    """The live run's scenario with what it measured: how long a worker starts and a job holds a slot."""
    return replace(
        LIVE,
        start_seconds=float(np.mean(found["start_seconds"])),
        service=Service(mean_seconds=found["slot_seconds"]),
    )


def model(seed: int) -> str:
    """What the live run should have shown, by what it measured of a worker's start and a job's length."""
    live_found = json.loads(LIVE_JSON.read_text(encoding="utf-8"))
    scenario = as_measured(live_found)
    runs = []
    for number in range(_RUNS):
        trace = exact.simulate(scenario, seed=seed + number)
        runs.append((trace, absorbed(trace, target=LIVE.spec.target, step_at=STEP_AT, end_at=END_AT)))
    predicted = {}
    for name in COMPARED:
        values = [getattr(one, name) for _, one in runs]
        there = [value for value in values if value is not None]
        low, middle, high = np.percentile(there, [2.5, 50, 97.5])
        predicted[name] = {
            "low": round(float(low), 2),
            "median": round(float(middle), 2),
            "high": round(float(high), 2),
            "never": len(values) - len(there),
        }
    began = time.perf_counter()
    sizes = sizing.table(seed)
    data = {
        "runs": _RUNS,
        "start_seconds": round(scenario.start_seconds, 3),
        "slot_seconds": scenario.service.mean_seconds,
        "predicted": predicted,
        "measured": {name: live_found["absorbed"][name] for name in COMPARED},
        "sizing": sizes,
        "targets": sizing.targets(seed),
        "provider": sizing.provider_limit(seed),
        "computed_in_seconds": round(time.perf_counter() - began, 1),
        "trace": compact(runs[0][0]),
    }
    million, data["million"] = sizing.million(seed)
    data["million_trace"] = asdict(million)
    write(MODEL_JSON, data)
    return json.dumps({k: v for k, v in data.items() if "trace" not in k}, indent=1)


def plots() -> None:
    found = json.loads(LIVE_JSON.read_text(encoding="utf-8"))
    reckoned = json.loads(MODEL_JSON.read_text(encoding="utf-8"))
    pictures.step(found["trace"], reckoned["trace"], FOLDER / "step.svg")
    pictures.million(reckoned["million_trace"], FOLDER / "million.svg")
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8"), found, reckoned), encoding="utf-8")


def with_tables(page: str, found: dict[str, Any], reckoned: dict[str, Any]) -> str:
    """The page with the tables between its `<!-- name -->` and `<!-- /name -->` made anew."""
    for name, rows in tables(found, reckoned).items():
        head, rest = page.split(f"<!-- {name} -->\n")
        _, tail = rest.split(f"<!-- /{name} -->")
        lines = ["| " + " | ".join(map(str, row)) + " |" for row in rows]
        lines.insert(1, "| " + " | ".join("---" for _ in rows[0]) + " |")
        page = head + f"<!-- {name} -->\n" + "\n".join(lines) + f"\n<!-- /{name} -->" + tail
    return page


def tables(found: dict[str, Any], reckoned: dict[str, Any]) -> dict[str, list[list[Any]]]:
    predicted, measured = reckoned["predicted"], reckoned["measured"]
    counted = [
        ("accepted", found["accepted"]),
        ("succeeded", found["ended"].get("succeeded", 0)),
        ("lost", found["lost"]),
        ("refused", sum(found["refused"].values())),
        ("calls to the provider", found["calls"]),
        ("jobs called for twice", found["doubles"]),
    ]
    shown = ["pods at the steady load", "pods at most", "depth under target after", "jobs waiting, peak"]
    shown += ["oldest job, worst", "pods back after", "moments with a job over 1 s old"]
    return {
        "counted": [["of the live run", "jobs"], *map(list, counted)],
        "compared": [
            ["", "measured", "predicted, median", "95 % of the predicted"],
            *(
                [text, _cell(measured[name]), _cell(one["median"]), f"{one['low']:g} to {one['high']:g}"]
                for name, text in COMPARED.items()
                for one in [predicted[name]]
            ),
        ],
        "sizing": [
            ["jobs a minute", *shown],
            *([f"{row['jobs_per_minute']:,}", *_sized(row)] for row in reckoned["sizing"]),
        ],
        "targets": [
            ["target / slots", "pods, mean", *shown],
            *([row["share"], _cell(row["pods_mean"]), *_sized(row)] for row in reckoned["targets"]),
        ],
        "provider": [
            ["limit of the account", *shown],
            *([row["limit"], *_sized(row)] for row in reckoned["provider"]),
        ],
    }


def _sized(row: dict[str, Any]) -> list[str]:
    return [
        _cell(row["pods_steady"]),
        _cell(row["pods_most"]),
        _cell(row["seconds"], " s") if row["seconds"] or row["peak_queued"] else "never over",
        _cell(row["peak_queued"]),
        _cell(row["peak_oldest_seconds"], " s"),
        _cell(row["back_seconds"], " s"),
        f"{row['waited_share']:.1%}",
    ]


def _cell(value: float | None, unit: str = "") -> str:
    return "never" if value is None else f"{round(value, 1):,g}{unit}" if value < 1e6 else f"{value:,.0f}"
