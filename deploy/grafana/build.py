"""Writes deploy/grafana/dashboards: `python -m deploy.grafana.build`.

A dashboard is rows of panels, a panel is a few queries. Everything else that Grafana wants is the same for
all of them, and said here once. The data sources are variables, so that the files fit any Grafana.
"""

# ruff: noqa: S608 - these queries hold no value of anybody's

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).parent / "dashboards"
_WIDTH: Final = 24
_PROMETHEUS: Final = {"type": "prometheus", "uid": "${prometheus}"}
_POSTGRES: Final = {"type": "grafana-postgresql-datasource", "uid": "${postgres}"}
_RATE: Final = "$__rate_interval"


@dataclass(frozen=True)
class Panel:
    """`queries`: PromQL and the legend of its series, or SQL and "". `kind`: Grafana's name of the panel."""

    title: str
    queries: Sequence[tuple[str, str]]
    unit: str = "short"
    kind: str = "timeseries"
    about: str = ""
    sql: bool = False
    stacked: bool = False


@dataclass(frozen=True)
class Dashboard:
    """`rows`: each as wide as the screen, `heights` in Grafana's units."""

    uid: str
    title: str
    rows: Sequence[tuple[int, Sequence[Panel]]]
    provider: bool = False
    sql: bool = False


# Each series is of one broker: the label `namespace` tells them apart, and may be missing of one that is
# alone. All of them are ".*", which a missing label matches too; in a legend it is nothing.
_CHOSEN: Final = 'namespace=~"$namespace"'
_N: Final = f"{{{_CHOSEN}}}"
_P: Final = f'{{{_CHOSEN}, provider=~"$provider"}}'
_CACHED: Final = f'gateway_ledger_tokens_total{{{_CHOSEN}, type="cached"}}'
_PROMPT: Final = f'gateway_ledger_tokens_total{{{_CHOSEN}, type="prompt"}}'
_BAD: Final = f'{{{_CHOSEN}, status=~"provider|overloaded|timeout|internal"}}'


def _by(metric: str, *labels: str) -> str:
    return f"sum by ({', '.join(('namespace', *labels))}) (rate({metric}[{_RATE}]))"


def _share(part: str, whole: str) -> str:
    """0 where there is no part."""
    return f"({_by(part)} or 0 * {_by(whole)}) / {_by(whole)}"


def _quantiles(metric: str) -> list[tuple[str, str]]:
    return [
        (f"histogram_quantile({q}, {_by(f'{metric}_bucket{_N}', 'le')})", f"{name} {{{{namespace}}}}")
        for q, name in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))
    ]


def _by_provider(metric: str) -> list[tuple[str, str]]:
    return [
        (
            f"histogram_quantile(0.95, {_by(f'{metric}_bucket{_P}', 'provider', 'le')})",
            "{{provider}} {{namespace}}",
        )
    ]


OVERVIEW: Final = Dashboard(
    "headrace-overview",
    "Headrace: overview",
    [
        (
            4,
            [
                Panel("Requests", [(_by(f"gateway_requests_total{_N}"), "{{namespace}}")], "reqps", "stat"),
                Panel(
                    "Failed, not by their caller",
                    [
                        (
                            _share(f"gateway_requests_total{_BAD}", f"gateway_requests_total{_N}"),
                            "{{namespace}}",
                        )
                    ],
                    "percentunit",
                    "stat",
                ),
                Panel(
                    "Jobs waiting",
                    [(f"sum by (namespace) (provider:gateway_queue_depth:sum{_N})", "{{namespace}}")],
                    "short",
                    "stat",
                ),
                Panel(
                    "Ready processes",
                    [(f"sum by (namespace, process) (gateway_ready{_N})", "{{process}} {{namespace}}")],
                    "short",
                    "stat",
                ),
                Panel(
                    "Alerts that fire",
                    # Also those that no broker is named in: there may be none left.
                    [('count(ALERTS{alertstate="firing", namespace=~"|$namespace"}) or vector(0)', "")],
                    "short",
                    "stat",
                ),
            ],
        ),
        (
            8,
            [
                Panel(
                    "Requests by how they ended",
                    [(_by(f"gateway_requests_total{_N}", "status"), "{{status}} {{namespace}}")],
                    "reqps",
                    stacked=True,
                ),
                Panel("From request to the end of its answer", _quantiles("gateway_request_seconds"), "s"),
                Panel("Waiting for a worker", _quantiles("gateway_queue_wait_seconds"), "s"),
            ],
        ),
        (
            8,
            [
                Panel(
                    "Tokens a second",
                    [(_by(f"gateway_ledger_tokens_total{_N}", "type"), "{{type}} {{namespace}}")],
                    "short",
                    about="As the ledger has them: background jobs and batches too.",
                ),
                Panel(
                    "Callers that wait",
                    [
                        (f"sum by (namespace) (gateway_waiting_requests{_N})", "for a job {{namespace}}"),
                        (f"sum by (namespace) (gateway_open_streams{_N})", "being sent events {{namespace}}"),
                    ],
                ),
                Panel(
                    "Turned away, by reason",
                    [(_by(f"gateway_refusals_total{_N}", "reason"), "{{reason}} {{namespace}}")],
                    "reqps",
                    stacked=True,
                ),
            ],
        ),
        (
            8,
            [
                Panel(
                    "CPU of each process",
                    [(f"rate(process_cpu_seconds_total{_N}[{_RATE}])", "{{job}} {{instance}} {{namespace}}")],
                    "percentunit",
                ),
                Panel(
                    "Event loop lag, p99",
                    [
                        (
                            "histogram_quantile(0.99, "
                            f"{_by(f'gateway_event_loop_lag_seconds_bucket{_N}', 'job', 'instance', 'le')})",
                            "{{job}} {{instance}} {{namespace}}",
                        )
                    ],
                    "s",
                ),
                Panel(
                    "Memory",
                    [
                        (f"process_resident_memory_bytes{_N}", "{{job}} {{instance}} {{namespace}}"),
                        (
                            f"max by (namespace, kind) (gateway_redis_memory_bytes{_N})",
                            "Redis, {{kind}} {{namespace}}",
                        ),
                    ],
                    "bytes",
                ),
                Panel(
                    "Stores",
                    [
                        (f"max by (namespace) (gateway_database_up{_N})", "database answers {{namespace}}"),
                        (f"max by (namespace) (gateway_scheduler_up{_N})", "scheduler at work {{namespace}}"),
                    ],
                ),
            ],
        ),
    ],
)

PROVIDERS: Final = Dashboard(
    "headrace-providers",
    "Headrace: providers",
    [
        (
            8,
            [
                Panel(
                    "Calls by how they ended",
                    [
                        (
                            _by(f"gateway_provider_calls_total{_P}", "provider", "outcome"),
                            "{{provider}} {{outcome}} {{namespace}}",
                        )
                    ],
                    "reqps",
                    stacked=True,
                ),
                Panel(
                    "Breaker: 1 half-open, 2 open",
                    [
                        (
                            f"max by (namespace, provider) (gateway_breaker_state{_P})",
                            "{{provider}} {{namespace}}",
                        )
                    ],
                ),
                Panel(
                    "Paused for its rate",
                    [
                        (
                            f"max by (namespace, provider) (gateway_provider_paused_seconds{_P})",
                            "{{provider}} {{namespace}}",
                        )
                    ],
                    "s",
                ),
            ],
        ),
        (
            8,
            [
                Panel("Call, p95", _by_provider("gateway_provider_call_seconds"), "s"),
                Panel("Time to first token, p95", _by_provider("gateway_time_to_first_token_seconds"), "s"),
                Panel(
                    "Output tokens a second of a stream, median",
                    [
                        (
                            "histogram_quantile(0.5, "
                            f"{_by(f'gateway_output_tokens_per_second_bucket{_P}', 'provider', 'le')})",
                            "{{provider}} {{namespace}}",
                        )
                    ],
                ),
            ],
        ),
        (
            8,
            [
                Panel(
                    "Calls held back",
                    [
                        (
                            _by(f"gateway_calls_held_back_total{_P}", "provider", "reason"),
                            "{{provider}} {{reason}} {{namespace}}",
                        )
                    ],
                    "reqps",
                ),
                Panel(
                    "Jobs sent back to the queue",
                    [
                        (
                            _by(f"gateway_requeues_total{_P}", "provider", "reason"),
                            "{{provider}} {{reason}} {{namespace}}",
                        )
                    ],
                    "reqps",
                ),
                Panel(
                    "Cost an hour",
                    [
                        (
                            f"3600 * {_by(f'gateway_ledger_cost_usd_total{_P}', 'provider')}",
                            "{{provider}} {{namespace}}",
                        )
                    ],
                    "currencyUSD",
                ),
                Panel(
                    "Tokens a second",
                    [
                        (
                            _by(f"gateway_ledger_tokens_total{_P}", "provider", "type"),
                            "{{provider}} {{type}} {{namespace}}",
                        )
                    ],
                ),
            ],
        ),
    ],
    provider=True,
)

QUEUE: Final = Dashboard(
    "headrace-queue",
    "Headrace: queue and autoscaling",
    [
        (
            8,
            [
                Panel(
                    "Jobs and slots",
                    [
                        (f"provider:gateway_jobs:sum{_P}", "{{provider}} queued and in flight {{namespace}}"),
                        (f"provider:gateway_slots:max{_P}", "{{provider}} slots {{namespace}}"),
                    ],
                    about="What workers are scaled by: jobs for each slot, aiming at 0.8.",
                ),
                Panel(
                    "Jobs a slot",
                    [
                        (
                            f"provider:gateway_jobs:sum{_P} / (provider:gateway_slots:max{_P} > 0)",
                            "{{provider}} {{namespace}}",
                        )
                    ],
                ),
                Panel(
                    "Worker slots in use",
                    [(f"gateway_worker_jobs{_N} / gateway_worker_slots{_N}", "{{instance}} {{namespace}}")],
                    "percentunit",
                ),
            ],
        ),
        (
            8,
            [
                Panel(
                    "Waiting, by lane",
                    [
                        (
                            f"max by (namespace, provider, lane) (gateway_queue_depth{_P})",
                            "{{provider}} {{lane}} {{namespace}}",
                        )
                    ],
                    stacked=True,
                ),
                Panel(
                    "In flight, by lane",
                    [
                        (
                            f"max by (namespace, provider, lane) (gateway_jobs_in_flight{_P})",
                            "{{provider}} {{lane}} {{namespace}}",
                        )
                    ],
                    stacked=True,
                ),
                Panel(
                    "Oldest job",
                    [
                        (
                            f"lane:gateway_queue_oldest_age_seconds:max{_P}",
                            "{{provider}} {{lane}} {{namespace}}",
                        )
                    ],
                    "s",
                ),
                Panel("Waiting for a worker, p95", _by_provider("gateway_queue_wait_seconds"), "s"),
            ],
        ),
        (
            8,
            [
                Panel(
                    "Jobs ended",
                    [(_by(f"gateway_jobs_ended_total{_P}", "outcome"), "{{outcome}} {{namespace}}")],
                    "ops",
                    stacked=True,
                ),
                Panel(
                    "Dead letters",
                    [
                        (
                            f"max by (namespace, provider) (gateway_dead_letters{_P})",
                            "{{provider}} {{namespace}}",
                        )
                    ],
                ),
                Panel(
                    "Batch lines without an answer",
                    [(f"max by (namespace) (gateway_batch_lines_open{_N})", "lines {{namespace}}")],
                ),
                Panel(
                    "Webhooks",
                    [
                        (f"max by (namespace) (gateway_webhooks_due{_N})", "due {{namespace}}"),
                        (
                            f"3600 * {_by(f'gateway_webhook_deliveries_total{_N}', 'outcome')}",
                            "{{outcome}} an hour {{namespace}}",
                        ),
                    ],
                ),
            ],
        ),
        (
            8,
            [
                Panel(
                    "Behind the database",
                    [
                        (f"max by (namespace) (gateway_ledger_lag_seconds{_N})", "ledger {{namespace}}"),
                        (f"max by (namespace) (gateway_unkept_job_seconds{_N})", "results {{namespace}}"),
                    ],
                    "s",
                ),
                Panel(
                    "Since each duty succeeded",
                    [
                        (
                            "time() - max by (namespace, duty) "
                            f"(gateway_duty_last_success_timestamp_seconds{_N})",
                            "{{duty}} {{namespace}}",
                        )
                    ],
                    "s",
                ),
                Panel(
                    "Rounds that failed",
                    [
                        (
                            _by(f'gateway_duty_rounds_total{{{_CHOSEN}, outcome="failure"}}', "duty"),
                            "{{duty}} {{namespace}}",
                        )
                    ],
                    "ops",
                ),
                Panel(
                    "Jobs reconciled",
                    [(_by(f"gateway_jobs_reconciled_total{_N}", "what"), "{{what}} {{namespace}}")],
                    "ops",
                ),
            ],
        ),
    ],
    provider=True,
)

REPLAYS: Final = Dashboard(
    "headrace-replays",
    "Headrace: replays and prompt caches",
    [
        (
            8,
            [
                Panel(
                    "Requests that another one's job answered",
                    [(_by(f"gateway_replays_total{_N}", "kind"), "{{kind}} {{namespace}}")],
                    "reqps",
                    stacked=True,
                ),
                Panel(
                    "Share of all requests",
                    [
                        (
                            _share(f"gateway_replays_total{_N}", f"gateway_requests_total{_N}"),
                            "replayed {{namespace}}",
                        )
                    ],
                    "percentunit",
                ),
            ],
        ),
        (
            8,
            [
                Panel(
                    "Prompt tokens that providers had cached",
                    [
                        (
                            f"{_by(_CACHED, 'provider')} / {_by(_PROMPT, 'provider')}",
                            "{{provider}} {{namespace}}",
                        )
                    ],
                    "percentunit",
                ),
            ],
        ),
    ],
)

_WITHIN: Final = "WHERE $__timeFilter(u.created_at)"

TENANTS: Final = Dashboard(
    "headrace-tenants",
    "Headrace: usage of tenants",
    [
        (
            4,
            [
                Panel("Jobs", [(f"SELECT count(*) FROM usage u {_WITHIN}", "")], kind="stat", sql=True),
                Panel(
                    "Accounts that asked",
                    [(f"SELECT count(DISTINCT u.account_id) FROM usage u {_WITHIN}", "")],
                    kind="stat",
                    sql=True,
                ),
                Panel(
                    "Cost",
                    [
                        (
                            "SELECT coalesce(sum(u.cost_micro_usd), 0) / 1000000.0 AS usd "
                            f"FROM usage u {_WITHIN}",
                            "",
                        )
                    ],
                    "currencyUSD",
                    "stat",
                    sql=True,
                ),
                Panel(
                    "Billed",
                    [
                        (
                            "SELECT coalesce(sum(u.billed_micro_usd), 0) / 1000000.0 AS usd "
                            f"FROM usage u {_WITHIN}",
                            "",
                        )
                    ],
                    "currencyUSD",
                    "stat",
                    sql=True,
                ),
            ],
        ),
        (
            9,
            [
                Panel(
                    "Accounts by cost",
                    [
                        (
                            "SELECT coalesce(a.name, u.account_id) AS account, count(*) AS jobs, "
                            "sum(u.prompt_tokens) AS prompt_tokens, "
                            "sum(u.completion_tokens) AS completion_tokens, "
                            "sum(u.cost_micro_usd) / 1000000.0 AS cost_usd, "
                            "sum(u.billed_micro_usd) / 1000000.0 AS billed_usd "
                            f"FROM usage u LEFT JOIN account a ON a.id = u.account_id {_WITHIN} "
                            "GROUP BY u.account_id, a.name ORDER BY cost_usd DESC, jobs DESC LIMIT 50",
                            "",
                        )
                    ],
                    kind="table",
                    sql=True,
                ),
                Panel(
                    "Models by cost",
                    [
                        (
                            "SELECT u.provider, u.model, count(*) AS jobs, "
                            "sum(u.prompt_tokens + u.completion_tokens) AS tokens, "
                            "sum(u.cost_micro_usd) / 1000000.0 AS cost_usd "
                            f"FROM usage u {_WITHIN} GROUP BY u.provider, u.model "
                            "ORDER BY cost_usd DESC, jobs DESC LIMIT 50",
                            "",
                        )
                    ],
                    kind="table",
                    sql=True,
                ),
            ],
        ),
        (
            9,
            [
                Panel(
                    "Tokens by account",
                    [
                        (
                            "SELECT $__timeGroupAlias(u.created_at, $__interval), u.account_id AS metric, "
                            f"sum(u.prompt_tokens + u.completion_tokens) AS tokens FROM usage u {_WITHIN} "
                            "GROUP BY 1, 2 ORDER BY 1",
                            "",
                        )
                    ],
                    sql=True,
                    stacked=True,
                ),
                Panel(
                    "Jobs by how they ended",
                    [
                        (
                            "SELECT $__timeGroupAlias(u.created_at, $__interval), u.outcome AS metric, "
                            f"count(*) AS jobs FROM usage u {_WITHIN} GROUP BY 1, 2 ORDER BY 1",
                            "",
                        )
                    ],
                    sql=True,
                    stacked=True,
                ),
            ],
        ),
        (
            9,
            [
                Panel(
                    "API keys by cost",
                    [
                        (
                            "SELECT coalesce(k.name, u.api_key_id) AS api_key, u.account_id AS account, "
                            "count(*) AS jobs, sum(u.cost_micro_usd) / 1000000.0 AS cost_usd "
                            f"FROM usage u LEFT JOIN api_key k ON k.id = u.api_key_id {_WITHIN} "
                            "GROUP BY u.api_key_id, k.name, u.account_id "
                            "ORDER BY cost_usd DESC, jobs DESC LIMIT 50",
                            "",
                        )
                    ],
                    kind="table",
                    sql=True,
                ),
                Panel(
                    "What they waited for, p95",
                    [
                        (
                            "SELECT u.account_id AS account, u.lane, "
                            "percentile_cont(0.95) WITHIN GROUP (ORDER BY u.queue_ms) AS queue_ms, "
                            "percentile_cont(0.95) WITHIN GROUP (ORDER BY u.provider_ms) AS provider_ms "
                            f"FROM usage u {_WITHIN} GROUP BY u.account_id, u.lane "
                            "ORDER BY queue_ms DESC LIMIT 50",
                            "",
                        )
                    ],
                    kind="table",
                    sql=True,
                ),
            ],
        ),
    ],
    sql=True,
)

DASHBOARDS: Final = (OVERVIEW, PROVIDERS, QUEUE, REPLAYS, TENANTS)


def document(dashboard: Dashboard) -> dict[str, Any]:
    """As Grafana imports it."""
    panels: list[dict[str, Any]] = []
    top = 0
    for height, row in dashboard.rows:
        width = _WIDTH // len(row)
        for place, panel in enumerate(row):
            at = {"x": place * width, "y": top, "w": width, "h": height}
            panels.append(_panel(panel, len(panels) + 1, at))
        top += height
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "tags": ["headrace"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-24h" if dashboard.sql else "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": _variables(dashboard)},
        "panels": panels,
    }


def _variables(dashboard: Dashboard) -> list[dict[str, Any]]:
    name, kind = ("postgres", _POSTGRES["type"]) if dashboard.sql else ("prometheus", "prometheus")
    found: list[dict[str, Any]] = [
        {"name": name, "label": "Data source", "type": "datasource", "query": kind, "current": {}}
    ]
    if not dashboard.sql:
        found.append(_chosen("namespace", "Namespace", "gateway_ready"))
    if dashboard.provider:
        found.append(_chosen("provider", "Provider", f"gateway_queue_depth{_N}"))
    return found


def _chosen(label: str, title: str, metric: str) -> dict[str, Any]:
    return {
        "name": label,
        "label": title,
        "type": "query",
        "datasource": _PROMETHEUS,
        "query": f"label_values({metric}, {label})",
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _panel(panel: Panel, number: int, at: dict[str, int]) -> dict[str, Any]:
    source = _POSTGRES if panel.sql else _PROMETHEUS
    targets: list[dict[str, Any]] = []
    for place, (query, legend) in enumerate(panel.queries):
        target: dict[str, Any] = {"refId": chr(ord("A") + place), "datasource": source}
        if panel.sql:
            over_time = panel.kind == "timeseries"
            target |= {
                "rawSql": query,
                "rawQuery": True,
                "format": "time_series" if over_time else "table",
                "editorMode": "code",
            }
        else:
            target |= {"expr": query, "legendFormat": legend, "editorMode": "code", "range": True}
        targets.append(target)
    options: dict[str, Any] = {}
    custom: dict[str, Any] = {}
    if panel.kind == "timeseries":
        options = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}
        custom = {"fillOpacity": 10, "stacking": {"mode": "normal" if panel.stacked else "none"}}
    elif panel.kind == "stat":
        options = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "none"}
    return {
        "id": number,
        "title": panel.title,
        "description": panel.about,
        "type": panel.kind,
        "datasource": source,
        "gridPos": at,
        "targets": targets,
        "options": options,
        "fieldConfig": {"defaults": {"unit": panel.unit, "custom": custom}, "overrides": []},
    }


def text_of(dashboard: Dashboard) -> str:
    return json.dumps(document(dashboard), indent=2) + "\n"


def main() -> None:
    for dashboard in DASHBOARDS:
        (FOLDER / f"{dashboard.uid}.json").write_text(text_of(dashboard), encoding="utf-8")


if __name__ == "__main__":
    main()
