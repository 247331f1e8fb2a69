"""The database: SQLite by itself on one machine, PostgreSQL where there are several. Same tables, same code.

    engine.py        connections with their timeouts, on either database
    tables.py        the tables; they never cross the wire, schemas in api/ do
    repositories/    the questions we ask, each scoped to the account that asks
    migrations/      how the tables came to be; migrate.py runs them

Code in here never commits: whoever opened the transaction does.
"""
