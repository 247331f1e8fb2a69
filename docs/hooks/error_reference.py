"""Reference of the errors, made of the classes that are raised; what to do about each is said here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import api.main
import scheduler.main
import workers.main
from shared.domain.job import Surface
from shared.error_forms import error_view
from shared.errors import BrokerError
from shared.ids import RequestId

LOADED: Final = (api.main, scheduler.main, workers.main)
"""Imported so that every error class is there to be found."""

PAGE: Final = "reference/errors.md"

ADVICE: Final = {
    "internal_error": "The broker failed. Its log has the traceback under the request's id.",
    "validation_error": "A field is wrong; `param` names it. Change the request.",
    "invalid_json": "The body is no JSON.",
    "too_complex": "The JSON is nested too deeply, or has too many parts.",
    "bad_request": "The HTTP message itself is wrong: a header, the framing, the query string.",
    "unsupported_content": "The content type or encoding is one that this route does not read.",
    "no_fitting_target": "No model behind this name can take the request; `details.lacking` says what each lacks.",
    "method_not_allowed": "The path is right, the method is not.",
    "headers_too_large": "Too many headers, or too large ones (`HEADRACE_API__MAX_HEADER_BYTES`).",
    "payload_too_large": "The body is larger than `HEADRACE_API__MAX_BODY_BYTES`, or than a file may be.",
    "range_not_satisfiable": "The file has no such range of bytes.",
    "storage_quota_exceeded": "The account's files take all that they may. Delete some.",
    "invalid_api_key": "The key or token is unknown, revoked or expired.",
    "forbidden": "The credential is good, and may not do this: see [accounts](../accounts.md#roles).",
    "model_not_priced": "The caller has a budget of money and the model no price: see "
    "[limits](../limits.md#models-without-a-price).",
    "not_found": "There is no such thing, or it is another account's.",
    "model_not_found": "No provider has this model; `details.available_models` has the closest names.",
    "conflict": "It is in a state in which this cannot be done.",
    "idempotency_key_reused": "The key was used for another body within 24 hours. Take a new key for a new request.",
    "dead_letter_expired": "What was asked is no longer kept, so it cannot run again.",
    "job_deleted": "It was deleted while it was asked for again. Ask once more.",
    "job_cancelled": "The job was cancelled.",
    "key_not_usable": "The key was rotated or revoked before.",
    "account_taken": "There is an account of this id.",
    "email_taken": "There is a user of this email.",
    "last_admin": "An account always keeps an admin: make another one first.",
    "already_member": "The user is a member of this account.",
    "too_many_members": "The account has as many members as it may have.",
    "too_many_keys": "The owner has as many good keys as he may have. Revoke some.",
    "too_many_webhooks": "The account has as many endpoints as it may have.",
    "webhook_disabled": "The endpoint is disabled. Enable it first.",
    "not_oneself": "Operators do not disable themselves.",
    "rate_limit_exceeded": "A limit of the caller's, or of the provider's. Wait as long as `Retry-After` says.",
    "too_many_waiting": "The account's own jobs fill its share of the queue. Send fewer at once.",
    "quota_exceeded": "A budget of requests or money is used up until its period ends. Trying again does not help.",
    "overloaded": "The broker cannot take this now. Try again.",
    "server_draining": "The process that was asked stops before the request is whole, or its stream at an end: send it again, "
    "or go on with `Last-Event-ID`.",
    "queue_full": "The queue is as long as it may be, or Redis' memory is nearly full. Try again later.",
    "queue_unavailable": "Redis is away. Try again.",
    "storage_unavailable": "Where files are kept cannot be reached. Try again.",
    "wait_too_long": "What waits already would outlast this request's deadline. Try again, or take a "
    "[job](../jobs.md).",
    "no_worker": "No worker has served this provider for a minute.",
    "job_lost": "Redis forgot the job before it ended (flushed, failed over). Safe to send again.",
    "deadline_exceeded": "The job did not end within its deadline.",
    "request_timeout": "The request did not arrive in time.",
    "provider_error": "The provider failed.",
    "provider_unavailable": "The provider could not be reached, or answered 5xx.",
    "provider_timeout": "The provider was too slow: connecting, beginning, going on, or in all.",
    "provider_rejected": "The provider judged the request itself wrong; its own sentence is in the message.",
    "provider_credential_refused": "The broker's key at the provider is wrong, forbidden or out of credit: "
    "the operator's to mend.",
    "invalid_response": "The provider answered 200 with something that is no answer.",
    "all_providers_failed": "Every model of the plan was tried; `details` says what each said.",
}

_HEAD: Final = """# Errors

A `code` is part of the API and stays; the sentence beside it is for people and may change. Statuses are those of the
clients' own error classes, so `except openai.RateLimitError` means what it always meant.

| surface | form of an error |
| --- | --- |
| OpenAI's, under `/v1/` | `{"error": {"message", "type", "param", "code"}}` |
| Anthropic's, under `/v1/messages` | `{"type": "error", "error": {"type", "message"}, "request_id"}` |
| Cohere's, under `/v2/` | `{"id", "message"}` |
| unified, everywhere else | `{"error": {"type", "message", "details", "trace_id"}}`, with `code` and `param` in `details` |

Answers of 408, 409, 429 and 5xx carry `x-should-retry`, which the official clients of OpenAI and Anthropic obey: `true`
where another try may help. Those that are to be tried again carry `Retry-After` where there is something to know. 422
is 400 on Anthropic's surface, whose clients know no other.

Where the last column says yes, another try may help. Of a provider's failures a worker makes some by itself, before the
caller hears of them.

| code | status | type | OpenAI's type | Anthropic's type | try again |
| --- | --- | --- | --- | --- | --- |
"""

_TAIL: Final = """
## Codes of jobs and streams {#codes-of-jobs-and-streams}

| code | where |
| --- | --- |
| `poison` | a job that stopped every worker that ran it; see [dead letters](../dead-letters.md) |
| `stream_interrupted` | the last event of a stream that broke after its first words; it is not run again by itself |
| `context_length_exceeded` | a 400: the prompt is longer than any model of the plan reads |
| `insufficient_quota` | `quota_exceeded`, in OpenAI's words |
"""


@dataclass(frozen=True, slots=True)
class Code:
    code: str
    status: int
    type: str
    openai_type: str
    anthropic_type: str
    is_tried_again: bool
    told: str


def codes() -> list[Code]:
    """One for each code and status, by status."""
    found: dict[tuple[int, str], Code] = {}
    for kind in _all(BrokerError):
        code = kind.code or kind.type
        told = ADVICE.get(code, (kind.__doc__ or "").split("\n")[0])
        one = Code(
            code=code,
            status=kind.status,
            type=kind.type,
            openai_type=_type_on(Surface.OPENAI, kind),
            anthropic_type=_type_on(Surface.ANTHROPIC, kind),
            is_tried_again=kind.retryable,
            told=told,
        )
        found.setdefault((one.status, code), one)
    return [found[key] for key in sorted(found)]


def page() -> str:
    listed = codes()
    rows = [
        f"| [`{one.code}`](#{one.code}-{one.status}) | {one.status} | `{one.type}` | `{one.openai_type}` "
        f"| `{one.anthropic_type}` | {'yes' if one.is_tried_again else ''} |"
        for one in listed
    ]
    told = ["", "## What each means {#what-each-means}", "", "| code | |", "| --- | --- |"]
    told += [f"| `{one.code}`{{#{one.code}-{one.status}}} ({one.status}) | {one.told} |" for one in listed]
    return _HEAD + "\n".join([*rows, *told]) + "\n" + _TAIL


def _all(kind: type[BrokerError]) -> Iterator[type[BrokerError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _all(below)


def _type_on(surface: Surface, kind: type[BrokerError]) -> str:
    fields = {"type": kind.type, "code": kind.code, "status": kind.status}
    error = BrokerError.from_fields(
        {"message": "", "param": None, "details": {}, "retry_after": None, **fields}
    )
    told: str = error_view(error, surface, RequestId(""))["error"]["type"]
    return told
