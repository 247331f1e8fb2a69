"""Chaos: real processes under load, killed, frozen and cut off, and a judge who comes afterwards.

    callers.py    ask, and write down what they read          ┐
    nemesis.py    does the harm, and writes down to whom      ├──> history.py ──> checker.py
    evidence.py   what the provider, Redis and the ledger say ┘

No test asserts while the load runs: what happened is judged as a whole once everything has
ended. A failing run prints its seed, its kills and where its history is.
size.py says how to run the full form; fault_matrix.toml says which fault which test shows.
"""
