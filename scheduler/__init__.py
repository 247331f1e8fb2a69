"""The scheduler does what must happen once, or often enough: due retries, the ledger, housekeeping.

Every duty is idempotent, so two schedulers at the same time only share the work.
"""
