"""Webhooks: what happened to an account's work, told to URLs that it names.

    a transaction changes a job ── note() in it ──> a delivery row for each place that wants to know
    the scheduler ── claims what is due ──> signs ──> posts ──> marks, or tries again by the schedule

At least once: whoever sent a delivery and died before it said so leaves it to be sent again, under the same
webhook-id, by which receivers know it. Bodies are thin: a type and an id to look up. Signatures are those of
Standard Webhooks (github.com/standard-webhooks/standard-webhooks, spec/standard-webhooks.md).
"""
