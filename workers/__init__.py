"""Workers run jobs: the only processes that talk to providers and open their keys.

    lane ── StreamWorker ──> run_job ──> call_provider ──> transport ──> provider
                                 │
                                 └──> finish | retry_later | hand_back

A worker that stops renewing its leases loses its jobs to another one. One that is asked
to stop finishes what it can and hands the rest back, uncounted.
"""
