"""The scripts: each transition of a job is one of them, atomic and idempotent when replayed."""
