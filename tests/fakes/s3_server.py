"""A real S3-compatible store that tests may kill and freeze: SeaweedFS, one bucket, one key."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Final

import httpx

from shared.clock import SystemClock
from shared.sigv4 import AccessKey, sha256, signed_headers
from tests.fakes import server_binaries
from tests.fakes.server_process import START_SECONDS, ServerDidNotStart, ServerProcess, free_port

BUCKET: Final = "files-of-tests"
REGION: Final = "us-east-1"
KEY: Final = AccessKey("AKIDOFTHETESTS", "secret-key-of-the-store-of-tests")


class S3Server:
    """It refuses whatever is not signed by `KEY`."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="headrace-s3-"))
        config = self._folder / "s3.json"
        credentials = [{"accessKey": KEY.id, "secretKey": KEY.secret}]
        identity = {
            "name": "tests",
            "credentials": credentials,
            "actions": ["Admin", "Read", "Write", "List"],
        }
        config.write_text(json.dumps({"identities": [identity]}), encoding="utf-8")
        self._config = config
        self.port = 0
        self._server = self._on_free_ports()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def settings(self) -> dict[str, str]:
        """Environment variables of a broker that keeps its files here."""
        return {
            "HEADRACE_STORAGE__KIND": "s3",
            "HEADRACE_STORAGE__S3_ENDPOINT": self.endpoint,
            "HEADRACE_STORAGE__S3_BUCKET": BUCKET,
            "HEADRACE_STORAGE__S3_ACCESS_KEY_ID": KEY.id,
            "HEADRACE_STORAGE__S3_SECRET_ACCESS_KEY": KEY.secret,
        }

    def start(self, *, tries: int = 3) -> None:
        """Returns once it has the bucket and takes objects."""
        for left in reversed(range(tries)):
            try:
                self._server.start()
            except ServerDidNotStart:
                # It takes eight ports: somebody may have taken one between our look and its start.
                if not left:
                    raise
                self._server = self._on_free_ports()
            else:
                break
        give_up_at = time.monotonic() + START_SECONDS
        while not (self._put(f"/{BUCKET}") and self._put(f"/{BUCKET}/ready")):
            if time.monotonic() > give_up_at:
                raise TimeoutError("the store takes no objects:\n" + "\n".join(self._server.output))
            time.sleep(0.05)

    def stop(self) -> None:
        # Politely it takes half a minute.
        self._server.kill9()
        shutil.rmtree(self._folder, ignore_errors=True)

    def sigstop(self) -> None:
        self._server.sigstop()

    def sigcont(self) -> None:
        self._server.sigcont()

    def _on_free_ports(self) -> ServerProcess:
        self.port = free_port()
        return ServerProcess(
            [
                *(str(server_binaries.s3_server()), "-logtostderr=true", "server"),
                *(f"-dir={self._folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
                *(f"-{service}={free_port()}" for service in _PORTS),
                *("-s3", f"-s3.port={self.port}", f"-s3.config={self._config}", "-s3.iam=false"),
                *("-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"),
                *("-master.volumeSizeLimitMB=1024", "-master.volumePreallocate=false", "-volume.max=100"),
            ],
            ready="Start Seaweed S3 API Server",
            cwd=self._folder,
        )

    def _put(self, path: str) -> bool:
        url = f"{self.endpoint}{path}"
        headers = signed_headers(
            KEY,
            region=REGION,
            service="s3",
            method="PUT",
            url=url,
            body_sha256=sha256(b""),
            now=SystemClock().now(),
        )
        try:
            status = httpx.put(url, headers=headers, trust_env=False, timeout=10).status_code
        except httpx.TransportError:
            return False
        return status in {200, 409}


_PORTS: Final = (
    *("master.port", "master.port.grpc", "volume.port", "volume.port.grpc"),
    *("filer.port", "filer.port.grpc", "s3.port.grpc"),
)
