"""Batches that a provider's own batch API runs, where their creator wished so.

    survey    do all lines go to one provider that has one?         (while the batch is checked)
    reserve   the limits of its key, line by line
    build     its lines become files of requests, in the provider's words
    steps     handed over, asked after, fetched: jobs that workers run, who alone hold keys
    settle    what was answered becomes the lines' ends; what was not is left to jobs, or told

How far it is stands in the batch's row and changes by its version, so that of several schedulers one goes
on. A step is noted before it is queued and its job has an id of its own: dying in between, the same step is
queued again, and is the same job. What it does at a provider may be done twice: workers/provider_batch.py.
"""
