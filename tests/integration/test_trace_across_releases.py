"""Jobs that carry a trace, and the release before, which knows of none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from shared.domain.job import Job
from shared.domain.trace import TraceOrigin
from tests.fakes import previous_release
from tests.unit.observability.test_tracing import CALLER, a_job

_READ = """
import sys
from shared.domain.job import Job
sys.stdout.buffer.write(Job.from_wire(sys.stdin.buffer.read(), b"{}").header())
"""


def test_the_release_before_reads_a_job_with_a_trace_and_passes_that_over(tmp_path: Path) -> None:
    old = previous_release.unpack(tmp_path)
    job = a_job(TraceOrigin(CALLER, "vendor=1"))

    ran = subprocess.run(
        [sys.executable, "-c", _READ],
        input=job.header(),
        env={"PYTHONPATH": str(old)},
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )

    assert ran.returncode == 0, ran.stderr.decode()
    as_read = Job.from_wire(ran.stdout, b"{}")
    assert (as_read.id, as_read.plan, as_read.trace) == (job.id, job.plan, None)
