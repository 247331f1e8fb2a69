"""Money: from the settlements that jobs leave in Redis to the ledger in the database.

    finish script -> usage stream -> LedgerWriter -> usage table -> entry acknowledged and deleted

A database outage costs nothing but delay: the stream keeps what was not committed.
"""
