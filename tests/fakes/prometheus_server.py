"""A real Prometheus that scrapes what a test names, twice a second."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.fakes.server_process import ServerProcess, free_port
from tests.fakes.tool_binaries import PROMETHEUS

EVERY: str = "500ms"


class PrometheusServer:
    """`targets`: ports on this machine by job; `rules`: the text of rule files by name; `namespaces`: of a
    job's series, as Kubernetes labels them.
    """

    def __init__(
        self,
        targets: Mapping[str, Sequence[int]],
        rules: Mapping[str, str] | None = None,
        *,
        namespaces: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="headrace-prometheus-"))
        for name, text in (rules or {}).items():
            (self.folder / name).write_text(text, encoding="utf-8")
        configuration = {
            "global": {"scrape_interval": EVERY, "scrape_timeout": EVERY, "evaluation_interval": EVERY},
            "rule_files": [str(self.folder / name) for name in rules or {}],
            "scrape_configs": [
                {
                    "job_name": job,
                    "static_configs": [
                        {
                            "targets": [f"127.0.0.1:{port}" for port in ports],
                            "labels": {"namespace": (namespaces or {}).get(job, "")},
                        }
                    ],
                }
                for job, ports in targets.items()
            ],
        }
        file = self.folder / "prometheus.yml"
        file.write_text(yaml.safe_dump(configuration), encoding="utf-8")
        self.port = free_port()
        self._server = ServerProcess(
            [
                str(PROMETHEUS.path()),
                f"--config.file={file}",
                f"--storage.tsdb.path={self.folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
                # Debian's looks for its console files where others have none.
                f"--web.console.templates={self.folder}",
                f"--web.console.libraries={self.folder}",
            ],
            ready="Server is ready to receive web requests",
            cwd=self.folder,
        )

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        self._server.kill9()
        shutil.rmtree(self.folder, ignore_errors=True)

    async def firing(self) -> set[str]:
        """Names of the alerts that fire."""
        found = await self._get("/api/v1/alerts")
        return {one["labels"]["alertname"] for one in found["alerts"] if one["state"] == "firing"}

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """The series it gives now. Raises httpx.HTTPStatusError where it is none."""
        found = await self._get("/api/v1/query", query=expression)
        result: list[dict[str, Any]] = found["result"] if found["resultType"] == "vector" else [found]
        return result

    async def series(self, selector: str) -> list[dict[str, str]]:
        """Labels of what there is of it."""
        found: list[dict[str, str]] = await self._get("/api/v1/series", **{"match[]": selector})
        return found

    async def _get(self, path: str, **parameters: str) -> Any:
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{self.port}", trust_env=False, timeout=10.0
        ) as client:
            answer = await client.get(path, params=parameters)
            answer.raise_for_status()
            return answer.json()["data"]
