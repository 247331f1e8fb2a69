"""Batches: what a line of the input says, the job it becomes, and the line its answer becomes.

    input file ── lines ──> checked ──> rows ── jobs of the batch lane ──> answers ──> output, errors

Nothing here knows a database or a queue, and nothing holds more of a file than a line.
"""
