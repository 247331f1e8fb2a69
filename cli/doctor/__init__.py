"""`headrace doctor`: looks at everything a broker stands on, and says what is wrong and how to mend it.

    settings ──> Patient ──> checks, all at once, each with a time limit ──> findings ──> table or JSON

A check is a function in the file of its subject; examine.py lists them all. It returns findings: ok, warn
or fail, and skip where something before it has to be mended first (a Redis that is away, say, is told
once). Nothing is changed, save that the file store is written to and what was written is deleted again.
No finding holds a secret.
"""
